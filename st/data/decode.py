"""An image file as pixels, by one stated rule (docs/data.md)."""

import hashlib
import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from st.core.errors import StError, one_line

if TYPE_CHECKING:
    from PIL import Image

# Formats that the library knows by name but decodes only with other programs, or not at all.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def suffixes() -> set[str]:
    """The suffixes of files that the image library reads, in lower case, with the dot."""
    from PIL import Image

    known = Image.registered_extensions()
    read = {"MPO", *Image.OPEN} - NOT_DECODED  # MPO: what reads JPEG files finds it in them
    return {suffix for suffix, kind in known.items() if kind in read}


QUALITY = 95  # of JPEG files that are made anew


class Made(NamedTuple):
    """What was made of an image file, for one store or the other. `done`: what was done to it, ''
    if nothing; `error`: why it can't be read, and then nothing else is there."""

    file: str
    done: str = ""
    error: str = ""
    shape: tuple[int, ...] = ()  # channels, height, width
    pixels: np.ndarray | None = None
    payload: bytes = b""  # a JPEG or PNG file
    digest: bytes = b""  # of the pixels, or of the file's contents
    sums: tuple[list[int], list[int]] = ([], [])  # of the values and their squares, by channel


def decode(
    file: Path, size: int | None, grayscale: bool, resize: int | None = None
) -> tuple[np.ndarray, str]:
    """The pixels of a file, uint8 (channels, height, width), and what was done to them ('' if
    nothing): see `pixels`. `size`: the side of the centre crop.

    Raises StError that names the file if it can't be decoded, or has more than 8 bits a channel.
    """
    image, done, _ = _image(file, size, grayscale, resize)
    return _pixels(image), done


def make(
    file: str, size: int | None, grayscale: bool, resize: int | None, compressed: bool,
    by_contents: bool,
) -> Made:  # fmt: skip
    """The same, and what can be told of an image file while it is in memory; an error is returned.

    `compressed`: instead of the pixels, a file of them. A JPEG file whose pixels nothing was done
    to stays as it is, any other becomes one of quality 95 with all its colours; what is not from
    a JPEG file becomes a PNG, without loss. `by_contents`: whether `digest` is of the file itself.
    """
    try:
        image, done, kind = _image(Path(file), size, grayscale, resize)
        pixels = _pixels(image)
        if not compressed:
            return Made(file, done, shape=pixels.shape, pixels=np.ascontiguousarray(pixels))
        if kind == "plain" or by_contents:
            contents = Path(file).read_bytes()
    except StError as error:
        return Made(file, error=str(error))
    except OSError as error:
        return Made(file, error=f"{file}: cannot be read ({error.strerror})")
    if kind == "plain":
        payload = contents
    else:
        buffer = io.BytesIO()
        # an image carries what it was read with, such as colour profiles, which nobody asks for
        bare = image.copy()
        bare.info = {}
        if kind == "JPEG":
            # halved colours would show in images as small as networks see them
            bare.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        else:
            bare.save(buffer, "PNG")
        payload = buffer.getvalue()
    told = contents if by_contents else np.ascontiguousarray(pixels).data
    counts = [np.bincount(channel.ravel(), minlength=256) for channel in pixels]
    levels = np.arange(256)
    sums = [int(c @ levels) for c in counts], [int(c @ levels**2) for c in counts]
    digest = hashlib.blake2b(told, digest_size=16).digest()
    return Made(file, done, "", pixels.shape, None, payload, digest, sums)


def area(files: list[str]) -> int:
    """Pixels of the first of the files that says how many it has; 0 if none does."""
    from PIL import Image

    for file in files:
        with suppress(Exception), Image.open(file) as opened:  # decoders raise anything
            return opened.width * opened.height
    return 0


def _pixels(image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _image(file: Path, size: int | None, grayscale: bool, resize: int | None):
    """The image as `decode` says, what was done, and what it comes from: 'JPEG', 'plain' if it is
    a JPEG file's as it is, or ''."""
    from PIL import Image

    try:
        # warnings are about tags, not pixels
        with warnings.catch_warnings(action="ignore"), Image.open(file) as opened:
            image, done = _converted(
                opened, None if size is None else (size, size), grayscale, resize
            )
            kind = opened.format
            plain = kind == "JPEG" and not done
            if size is not None:
                plain = plain and opened.size == (size, size) and resize in (None, size)
            image.load()
    except Exception as error:  # decoders raise anything
        raise StError(
            f"{file}: is not a readable image ({one_line(error)}); fix or remove it, or give the "
            "option 'skip_damaged: true'"
        ) from error
    return image, ", ".join(done), "plain" if plain else "JPEG" if kind in ("JPEG", "MPO") else ""


def pixels(
    image: "Image.Image", size: tuple[int, int] | None, grayscale: bool, resize: int | None = None
) -> tuple[np.ndarray, str]:
    """The pixels of Pillow's image, uint8 (channels, height, width), and what was done to them.

    The first frame, turned upright as its EXIF data says; transparent pixels lie on white; then
    converted to RGB or gray. `size`: (height, width) of the centre crop; before, the shorter side
    is scaled to `resize`, by default to the crop's shorter side.
    Raises ValueError if it has more than 8 bits a channel.
    """
    found, done = _converted(image, size, grayscale, resize)
    return _pixels(found), ", ".join(done)


def _converted(
    image: "Image.Image", size: tuple[int, int] | None, grayscale: bool, resize: int | None
) -> tuple["Image.Image", list[str]]:
    """As `pixels`, still an image."""
    from PIL import Image, ImageOps

    done, mode = [], image.mode
    # conversion would clip them, or keep their upper bits, which may be empty
    if mode in ("I", "F") or ";16" in mode + _raw_modes(image) or _deep(image):
        raise ValueError(f"more than 8 bits a channel, mode {mode}; convert it to 8")
    if image.getexif().get(0x0112, 1) in range(2, 9):  # others say nothing
        done.append("turned upright")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
        done.append("laid on white")
    wanted = "L" if grayscale else "RGB"
    if mode != wanted:
        done.insert(0, mode)
    if mode == "LAB":  # of which the library makes no gray
        image = image.convert("RGB")
    image = image.convert(wanted)
    if size is not None:
        height, width = size
        # one resampling does both: of the part that the crop would leave
        cut = (1 - min(size) / (resize or min(size))) / 2
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR, bleed=cut)
    return image, done


def _raw_modes(image) -> str:
    """How the file stores pixels, which an image's mode hides: RGB;16B is read as RGB."""
    return " ".join(told for told in _told(image) if isinstance(told, str))


def _deep(image) -> bool:
    """Whether a file has more than 8 bits a channel and its decoder alone knows."""
    if any(str(tile[0]).endswith("16") for tile in getattr(image, "tile", None) or []):  # SGI's
        return True
    if image.format == "PPM":  # the largest value, behind the mode
        return any(isinstance(told, int) and told > 255 for told in _told(image))
    if image.format not in ("JPEG2000", "AVIF") or not getattr(image, "fp", None):
        return False
    place = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(1 << 16)
    image.fp.seek(place)
    if image.format == "AVIF":  # ISO/IEC 14496-15's av1C: two bytes, then a flag
        at = head.find(b"av1C")
        return at >= 0 and bool(head[at + 6] & 0x40)
    # ISO/IEC 15444-1: markers SOC and SIZ, 38 bytes, then the bits less one of the first channel
    at = head.find(b"\xff\x4f\xff\x51")
    return at >= 0 and (head[at + 42] & 0x7F) + 1 > 8


def _told(image) -> list:
    """What Pillow tells the decoders of a file."""
    found: list = []
    for tile in getattr(image, "tile", None) or []:
        found += tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    return found
