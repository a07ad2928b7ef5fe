"""`st.dataset`: images and labels in memory, as trainings and searches take them."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from st.config.params import Normalisation
from st.config.parts import section
from st.core import registry
from st.core.errors import StError, one_line, sizes
from st.data.arrays import channels_first, eight_bits, is_array, plain
from st.data.dataset import Data, check_made, load_data
from st.data.decode import pixels

GRAY = ("1", "L", "LA", "I", "I;16", "F")  # Pillow's modes
ROLE = ("training", "test")


def dataset(
    train: Any,
    test: Any = None,
    *,
    classes: Sequence[str] | int | None = None,
    normalisation: Mapping[str, Sequence[float]] | None = None,
    holdout: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> Data:
    """Images and labels to train and test on. They are kept as the workflow keeps them: as 8 bits a
    value, in memory.

    `train`, `test`: each a pair (images, labels), or a map-style torch Dataset of such samples
    without random transforms. Images are (n, channels, height, width), or (n, height, width) for
    gray ones; numpy's may have 1 or 3 channels last. Values: integers of 0 to 255, or floats of 0
    to 1, which are rounded to 8 bits; Datasets may give Pillow's images. Labels: whole numbers from
    0 on, (n,). `train` alone may also be the name of a source (`digits`, `cifar10`, a plugin's)
    with its `options` as in params.yaml, or a data set's file that `st prepare` has made.

    `classes`: their names, or how many there are, at least two; default: those that the Dataset or
    file names, or numbers up to the largest label, each of which must have training images.
    `holdout`: evaluate on this fraction (0 to 1) of each class's training images in place of
    `test`, which then may be missing. `normalisation`: {mean: [...], std: [...]} of each channel,
    for values of 0 to 1; default: the training images' own.

    Raises StError that says which part is wrong: shapes, types, values out of range, labels that
    are no class, a class of which `holdout` leaves no image.
    """
    if not (isinstance(holdout, int | float) and 0 <= holdout < 1):
        raise StError(f"holdout: must be at least 0 and below 1, not {holdout!r}")
    if isinstance(train, str | Path):
        if test is not None or classes is not None:
            raise StError(f"'{train}' has test images and classes of its own; leave them out")
        found = _named(str(train), dict(options or {}), bool(holdout))
    elif options:
        raise StError("options: are those of a source by its name, such as 'cifar10'")
    else:
        found = _given(train, test, classes, bool(holdout))
    if holdout:
        found = found.holdout(holdout)
    if normalisation is not None:
        found = found.normalised(
            **section(Normalisation, normalisation, "normalisation").model_dump()
        )
    return found


def _named(name: str, options: dict[str, Any], held_out: bool) -> Data:
    """A registered source's data, or a file's."""
    if name not in registry.datasets.names():
        if not Path(name).is_file():
            known = ", ".join(registry.datasets.names())
            raise StError(f"'{name}' is no file, and no source of images; known: {known}")
        return load_data(name)[0]
    source = registry.datasets.get(name)
    options = registry.datasets.check(name, options)
    if source.writes:
        raise StError(
            f"'{name}' keeps its images in files: name it in params.yaml, run `st prepare`, and "
            "give the file results/prepare/DATASET/data.safetensors"
        )
    found = source(**options)
    check_made(found, name, held_out)
    return found


def _given(train: Any, test: Any, classes: Sequence[str] | int | None, held_out: bool) -> Data:
    if test is None and not held_out:
        raise StError("test: is missing; give test images too, or holdout=0.2 for a part of these")
    pairs = [_part(part, role) for part, role in zip((train, test), ROLE, strict=True)]
    if pairs[1][0] is None:  # taken from the training images afterwards
        pairs[1] = tuple(values[:0] for values in pairs[0])
    one, other = (images.shape[1:] for images, _ in pairs)
    if one[0] != other[0] or any(a < b for a, b in zip(one, other, strict=True)):
        told = map(sizes, (one, other))
        raise StError(
            "the training images are {}, the test images {}; they must have the same channels, and "
            "networks see the test images' size, which no training image may be below".format(*told)
        )
    own, others = (_own_classes(part) for part in (train, test))
    if own and others and own != others:
        apart = sorted({*own} ^ {*others}) or "their order"
        raise StError(
            f"test: its classes are not those of the training images ({one_line(apart, 100)}), so "
            "its labels mean others; number both by the same classes"
        )
    names = _names(classes, train, *(labels for _, labels in pairs))
    for (_, labels), role in zip(pairs, ROLE, strict=True):
        wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if len(wrong):
            raise StError(
                f"{role} labels: {labels[wrong[0]]}, of image {wrong[0]}, is no class: there are "
                f"{len(names)}, from 0 on"
            )
    return Data(*pairs[0], *pairs[1], names)


def _own_classes(part: Any) -> list[str]:
    """The names that a Dataset has for its labels, as torchvision's have; empty without."""
    found = getattr(part, "classes", None)
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        return []
    return list(found)


def _names(
    classes: Sequence[str] | int | None, train: Any, labels: np.ndarray, test_labels: np.ndarray
) -> list[str]:
    if classes is None:
        classes = getattr(train, "classes", None) or _counted(labels, test_labels)
    if isinstance(classes, int):
        classes = [str(number) for number in range(classes)]
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise StError(f"classes: must be names, or their number, not {one_line(classes, 60)}")
    if not classes:
        raise StError("classes: must not be empty")
    if len(classes) == 1:
        raise StError("classes: there is one only; networks tell at least two apart")
    return list(classes)


def _counted(labels: np.ndarray, test_labels: np.ndarray) -> int:
    """How many classes the labels are of; raises StError if one of them has no training images."""
    count = max(int(part.max(initial=-1)) for part in (labels, test_labels)) + 1
    used = set(labels.tolist())
    missing = list(islice((number for number in range(count) if number not in used), 4))
    if missing:
        told = ", ".join(map(str, missing[:3])) + (", ..." if missing[3:] else "")
        raise StError(
            f"training labels: no image is of class {told}, of 0 to {count - 1}; number classes "
            "from 0 on without gaps, or name them all by classes=..."
        )
    return count


def _part(part: Any, role: str) -> tuple[Any, Any]:
    """Images, uint8 (n, c, h, w), and labels, int64 (n,)."""
    if part is None:
        return None, np.empty(0, np.int64)
    if isinstance(part, tuple) and len(part) == 2:
        images, labels = part
    elif is_array(part) or not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
        hint = "; give the loader's dataset" if hasattr(part, "batch_size") else ""
        raise StError(
            f"{role} images: must be a pair (images, labels) or a Dataset with a length, not "
            f"{type(part).__name__}{hint}"
        )
    else:
        images, labels = _samples(part, role)
    images = _pixels(images, role)
    labels = _labels(labels, role)
    if len(images) != len(labels):
        raise StError(f"{role} images: {len(images)}, but {len(labels)} labels")
    return images, labels


def _samples(part: Any, role: str) -> tuple[Any, Any]:
    """All samples of a Dataset."""
    images: list[np.ndarray] = []
    labels: list[Any] = []
    for number in range(len(part)):
        sample = part[number]
        if not (isinstance(sample, tuple | list) and len(sample) == 2):
            raise StError(f"{role} images: sample {number} must be (image, label)")
        image, label = sample
        if hasattr(image, "getexif"):  # Pillow's
            gray = image.mode in GRAY and not (images and len(images[0]) == 3)
            image = np.ascontiguousarray(pixels(image, None, gray)[0])
            if images and len(image) == 3 and len(images[0]) == 1:
                images = [np.repeat(i, 3, axis=0) for i in images]  # one in colour: all are
        torchs, image = hasattr(image, "detach"), _array(image, role)
        if images and (image.shape, image.dtype) != (images[0].shape, images[0].dtype):
            raise StError(
                f"{role} images: image {number} is {image.dtype} of {image.shape}, the first "
                f"{images[0].dtype} of {images[0].shape}; they must agree, so scale or crop them"
            )
        images.append(image)
        labels.append(label.item() if getattr(label, "ndim", None) == 0 else label)
    if not images:
        raise StError(f"{role} images: there are none")
    stacked = np.stack(images)
    if torchs:
        import torch

        return torch.from_numpy(stacked), labels
    return stacked, labels


def _array(values: Any, role: str) -> np.ndarray:
    try:
        return plain(values)
    except (ValueError, TypeError) as error:  # of unequal lengths
        raise StError(f"{role} images and labels must be arrays ({one_line(error)})") from error


def _pixels(images: Any, role: str) -> np.ndarray:
    array = _array(images, role)
    shape = tuple(array.shape)
    if array.ndim not in (3, 4) or not array.size:
        raise StError(
            f"{role} images: must be (n, channels, height, width) or (n, height, width), not "
            f"{shape}"
        )
    try:
        return eight_bits(array[:, None] if array.ndim == 3 else channels_first(images))
    except ValueError as error:
        raise StError(f"{role} images: {error}") from error


def _labels(labels: Any, role: str) -> np.ndarray:
    array = _array(labels, role)
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise StError(
            f"{role} labels: must be whole numbers (n,), from 0 on, not {array.dtype} of "
            f"{tuple(array.shape)}"
        )
    return array.astype(np.int64)
