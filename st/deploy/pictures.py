"""Pictures from anywhere as what a network was trained on: files, Pillow's images, arrays."""

import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from st.core.errors import StError, one_line
from st.core.progress import warn
from st.data import folder
from st.data.arrays import CHANNELS, channels_first, eight_bits, is_array, plain
from st.data.decode import pixels

KINDS = "a path, a Pillow image, or an array or tensor of pixels"
AXES = "(height, width) or (channels, height, width) with 1 or 3 channels"


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are, and of folders all files below them that have a picture's suffix, by name.
    What is left out but by-products is told.

    Raises StError that names what is missing, or a folder without pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            left_out: folder.LeftOut = defaultdict(list)
            inside = folder.images(path, left_out)
            others = folder.told_but_by_products(left_out)
            if not inside:
                raise StError(
                    f"{path}: has no images; name a folder of images, or image files"
                    + "".join(f"; {other}" for other in others)
                )
            if others:
                warn(f"{path}: {'; '.join(others)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise StError(f"{path}: is missing; name image files, or folders of them")
    return found


def listed(images: Any, channels: int) -> list[Any]:
    """One picture or several as a list of single ones; a folder is its files. `channels`: of the
    network.

    Raises StError that says what a picture may be.
    """
    if isinstance(images, str | Path):
        return list(image_files([images]))
    if is_array(images):
        gray = images.ndim == 3 and channels == 1
        if gray and images.shape[0] == 3 != images.shape[2]:
            height, width = images.shape[1:]
            raise StError(
                f"an array of (3, {height}, {width}) may be three gray images or one in colour; "
                f"give (3, 1, {height}, {width}) or (1, 3, {height}, {width})"
            )
        several = images.ndim == 4 or (gray and not {*images.shape[::2]} & {*CHANNELS})
        return list(images) if several else [images]
    if _is_pillow(images):
        return [images]
    if not isinstance(images, Iterable):
        raise StError(f"an image must be {KINDS}, not {type(images).__name__}")
    found: list[Any] = []
    for image in images:
        found += image_files([image]) if isinstance(image, str | Path) else [image]
    if not found:
        raise StError("no images were given")
    return found


def as_tested(image: Any, shape: tuple[int, int, int], resize: int | None) -> np.ndarray:
    """One picture as the data set's test images are: uint8 of `shape` (channels, height, width).

    The rule is that of image folders (docs/data.md): `resize` is the shorter side before the centre
    is cropped. Tensors of torch have their channels first, arrays of numpy first or last. Images of
    other than 1 or 3 channels are arrays or tensors of the very `shape`. Raises StError that says
    which picture is wrong, and how.
    """
    from PIL import Image

    channels, height, width = shape
    if channels not in CHANNELS:
        return _as_given(image, shape)
    told = image if isinstance(image, str | Path) else "an image"
    try:
        with warnings.catch_warnings(action="ignore"):  # about tags, not pixels
            if isinstance(image, str | Path):
                with Image.open(image) as opened:
                    return pixels(opened, (height, width), channels == 1, resize)[0]
            if is_array(image):
                image = _pillow(image)
            elif not _is_pillow(image):
                raise ValueError(f"must be {KINDS}, not {type(image).__name__}")
            return pixels(image, (height, width), channels == 1, resize)[0]
    except Exception as error:  # decoders raise anything
        raise StError(f"{told}: is not a readable image ({one_line(error)})") from error


def _as_given(image: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """An array or tensor with a number of channels that no picture has, and that nothing scales."""
    if not is_array(image):
        raise StError(
            f"the network reads images of {shape[0]} channels, which no picture has; give arrays "
            f"or tensors of {shape}"
        )
    if image.ndim != 3 or (found := channels_first(image)).shape != shape:
        raise StError(f"an array must be {shape}, as the network's images, not {image.shape}")
    try:
        return eight_bits(found)
    except ValueError as error:
        raise StError(f"an image is not readable ({error})") from error


def _is_pillow(value: Any) -> bool:
    return hasattr(value, "getexif")


def _pillow(array: Any) -> Any:
    """An array or tensor of one picture as Pillow's image; raises ValueError if it is none."""
    from PIL import Image

    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"an array must be {AXES}, not {tuple(array.shape)}")
    array = eight_bits(channels_first(array) if array.ndim == 3 else plain(array))
    if array.ndim == 3:
        if len(array) not in CHANNELS:
            raise ValueError(f"an array must be {AXES}, not {array.shape}")
        array = array[0] if len(array) == 1 else array.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array))
