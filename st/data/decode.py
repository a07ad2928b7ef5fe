"""An image file as pixels, by one stated rule (docs/data.md)."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

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
    return {s for s, kind in known.items() if kind in Image.OPEN and kind not in NOT_DECODED}


def decode(
    file: Path, size: int | None, grayscale: bool, resize: int | None = None
) -> tuple[np.ndarray, str]:
    """The pixels of a file, uint8 (channels, height, width), and what was done to them ('' if
    nothing): see `pixels`. `size`: the side of the centre crop.

    Raises StError that names the file if it can't be decoded, or has more than 8 bits a channel.
    """
    from PIL import Image

    try:
        # warnings are about tags, not pixels
        with warnings.catch_warnings(action="ignore"), Image.open(file) as opened:
            return pixels(opened, None if size is None else (size, size), grayscale, resize)
    except Exception as error:  # decoders raise anything
        raise StError(
            f"{file}: is not a readable image ({one_line(error)}); fix or remove it, or give the "
            "option 'skip_damaged: true'"
        ) from error


def pixels(
    image: "Image.Image", size: tuple[int, int] | None, grayscale: bool, resize: int | None = None
) -> tuple[np.ndarray, str]:
    """The pixels of Pillow's image, uint8 (channels, height, width), and what was done to them.

    The first frame, turned upright as its EXIF data says; transparent pixels lie on white; then
    converted to RGB or gray. `size`: (height, width) of the centre crop; before, the shorter side
    is scaled to `resize`, by default to the crop's shorter side.
    Raises ValueError if it has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    done, mode = [], image.mode
    # conversion would clip them, or keep their upper bits, which may be empty
    if mode in ("I", "F") or ";16" in mode + _raw_modes(image):
        raise ValueError(f"more than 8 bits a channel, mode {mode}")
    if image.getexif().get(0x0112, 1) != 1:
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
    image = image.convert(wanted)
    if size is not None:
        height, width = size
        # one resampling does both: of the part that the crop would leave
        cut = (1 - min(size) / (resize or min(size))) / 2
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR, bleed=cut)
    found = np.asarray(image)
    return found[None] if grayscale else found.transpose(2, 0, 1), ", ".join(done)


def _raw_modes(image) -> str:
    """How the file stores pixels, which an image's mode hides: RGB;16B is read as RGB."""
    modes = []
    for tile in getattr(image, "tile", None) or []:
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        modes += [argument for argument in arguments if isinstance(argument, str)]
    return " ".join(modes)
