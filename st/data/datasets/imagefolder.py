"""Any folder of class folders."""

import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from st.core.errors import StError, one_line
from st.core.progress import say
from st.core.registry import datasets
from st.core.seeds import stream
from st.core.types import Flag
from st.data.dataset import Data, Shape

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SIDE = Annotated[int, Field(ge=8, le=1024, strict=True)]
SHARE = Annotated[float, Field(gt=0, lt=1)]


@datasets.register
def imagefolder(
    *,
    root: str,
    size: SIDE | None = None,
    grayscale: bool = False,
    test_fraction: SHARE | None = None,
    per_class: Annotated[int, Field(ge=2, strict=True)] | None = None,
    skip_damaged: Flag = False,
) -> Data:
    """`root`/train/CLASS/* and `root`/test/CLASS/*, or `root`/CLASS/* split by `test_fraction`.

    `size`: resize the shorter side to it and crop the centre; without it all images must have one
    size. `per_class`: take only so many images of each class and part, the first by name. Images of
    other modes (gray, palette, CMYK, ...) are converted, and counted in a message.
    Raises StError with the path of a file that is not an image, or has more than 8 bits a channel;
    `skip_damaged`: leave these out, and count them in a message.
    """
    folder = _folder(root)
    parts = [folder / "train", folder / "test"]
    split = all(part.is_dir() for part in parts)
    if split == (test_fraction is not None):
        raise StError(
            f"{root}: has train/ and test/, so 'test_fraction' must not be given"
            if split
            else f"{root}: give 'test_fraction', or sort the images into train/ and test/"
        )
    classes = _classes(parts[0] if split else folder)
    if split and _classes(parts[1]) != classes:
        raise StError(f"{root}: train/ and test/ must have the same class folders")
    arrays, shape = [], None
    converted, skipped = [], []
    for part in parts if split else [folder]:
        images: list[np.ndarray] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            files = sorted(f for f in (part / name).rglob("*") if f.suffix.lower() in SUFFIXES)
            before = len(images)
            for file in files:
                if len(images) - before == per_class:
                    break
                try:
                    pixels, mode = _read(file, size, grayscale)
                except StError as error:
                    if not skip_damaged:
                        raise
                    skipped.append(str(error))
                    continue
                if mode != ("L" if grayscale else "RGB"):
                    converted.append(f"{file} ({mode})")
                shape = shape or pixels.shape
                if pixels.shape != shape:
                    raise StError(
                        f"{file}: is {pixels.shape[2]}x{pixels.shape[1]}, others are "
                        f"{shape[2]}x{shape[1]}; give the option 'size'"
                    )
                images.append(pixels)
                labels.append(label)
            if len(images) == before:
                reason = f"all {len(files)} are damaged" if files else ", ".join(sorted(SUFFIXES))
                raise StError(f"{part / name}: has no images ({reason})")
        arrays += [np.stack(images), np.array(labels, dtype=np.int64)]
    for found, what in ((converted, "converted"), (skipped, "skipped")):
        if found:
            say(f"{len(found)} images were {what}, the first: {found[0]}")
    if test_fraction is not None:  # not split yet
        arrays = _split(arrays[0], arrays[1], test_fraction)
    train_images, train_labels, test_images, test_labels = arrays
    return Data(train_images, train_labels, test_images, test_labels, classes)


def _shape(*, root: str, size: int | None, grayscale: bool, **others) -> Shape | None:
    if size is None or not Path(root).expanduser().is_dir():
        return None
    folder = _folder(root)
    folder = folder / "train" if (folder / "train").is_dir() else folder
    return (1 if grayscale else 3, size, size), len(_classes(folder))


imagefolder.shape = _shape


def _folder(root: str) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise StError(f"{root}: is not a folder; the option 'root' names a folder of class folders")
    return folder


def _classes(folder: Path) -> list[str]:
    classes = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
    if len(classes) < 2:
        raise StError(f"{folder}: needs at least two class folders, has {len(classes)}")
    return classes


def _read(file: Path, size: int | None, grayscale: bool) -> tuple[np.ndarray, str]:
    """An image as uint8 (channels, height, width), and its mode before it was converted."""
    from PIL import Image, ImageOps

    try:
        # warnings are about tags, not pixels
        with warnings.catch_warnings(action="ignore"), Image.open(file) as opened:
            mode = opened.mode
            # conversion would clip them
            if mode in ("I", "F") or mode.startswith("I;"):
                raise ValueError(f"more than 8 bits a channel, mode {mode}")
            image = opened.convert("L" if grayscale else "RGB")
            if size is not None and image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except Exception as error:  # decoders raise anything
        raise StError(
            f"{file}: is not a readable image ({one_line(error)}); fix or remove it, or give the "
            "option 'skip_damaged: true'"
        ) from error
    return pixels[None] if grayscale else pixels.transpose(2, 0, 1), mode


def _split(images: np.ndarray, labels: np.ndarray, fraction: float) -> list[np.ndarray]:
    """Train and test parts, class by class at random."""
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        amount = max(1, round(fraction * len(members)))
        if amount == len(members):
            raise StError(f"'test_fraction' {fraction} leaves a class without training images")
        test[stream(0, "split", int(label)).permutation(members)[:amount]] = True
    return [images[~test], labels[~test], images[test], labels[test]]
