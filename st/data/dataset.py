"""Prepared data sets: one safetensors file, read by every job.

It holds all pixels, which spares each job the decoding; or, of images beyond the memory, says where
in shards beside it each lies compressed (`st.data.shards`). What has images of either kind takes
them by index and asks for their shape, and need not know which it is.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from st.core.errors import StError, sizes
from st.core.seeds import stream
from st.core.tensors import VERSION, read_tensors, write_tensors
from st.data.shards import Shards

FORMAT = "search-and-train data"
PARTS = ("train", "test")
Stored = np.ndarray | Shards
Shape = tuple[tuple[int, int, int], int]  # (channels, height, width), classes


@dataclass(frozen=True, repr=False)
class Data:
    """Images are uint8 (n, channels, height, width), labels int64 (n,). Test images are as networks
    see them; training images may be larger, for augmentation to crop.

    `normalisation`: mean and deviation of each channel, in 0...255, if they are given; those of the
    training images otherwise. `resize`: to what the shorter side of test images was scaled before
    their centre was cropped, None if they were taken as they are. `files`: where the training and
    test images come from, if that is known. `as_test`: where the test images are made otherwise
    than the training images, what makes them of files. The last two are not kept in prepared data.
    """

    train_images: Stored
    train_labels: np.ndarray
    test_images: Stored
    test_labels: np.ndarray
    classes: list[str]
    normalisation: tuple[list[float], list[float]] | None = None
    resize: int | None = None
    files: tuple[list[str], list[str]] | None = None
    as_test: Callable[[list[str]], Stored] | None = None

    def __repr__(self) -> str:
        return (
            f"Data({len(self.train_labels)} training and {len(self.test_labels)} test images, "
            f"{sizes(self.input_shape)}, {len(self.classes)} classes)"
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what networks see."""
        return tuple(self.test_images.shape[1:])

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "Data":
        """With this mean and deviation of each channel, for values from 0 to 1, instead of those of
        the training images. Raises StError if there are not as many as channels."""
        check_normalisation({"mean": mean, "std": std}, self.input_shape[0], "the images have")
        return replace(
            self, normalisation=((255 * np.array(mean)).tolist(), (255 * np.array(std)).tolist())
        )

    def check_fits(self, shape: Sequence[int], classes: int) -> None:
        """Raise StError unless a network of this input shape and number of classes takes these."""
        if self.input_shape != tuple(shape) or len(self.classes) != classes:
            raise StError(
                "the data's image shape or classes are not those of the network: "
                f"{sizes(self.input_shape)}, {len(self.classes)} instead of {sizes(shape)}, "
                f"{classes}"
            )

    def told(self) -> dict[str, list[float]]:
        """Mean and deviation of each channel for values from 0 to 1, as a model's file has them."""
        mean, deviation = self.statistics()
        return {"mean": (mean / 255).tolist(), "std": (deviation / 255).tolist()}

    def digest(self) -> str:
        """The sha256 of images, labels and given normalisation."""
        found = hashlib.sha256()
        for images, labels in self.parts():
            if isinstance(images, Shards):
                # an image's length and checksum: where it lies does not matter
                told = [images.places[:, 2:]]
                if images.digests is not None:  # they are not kept in prepared data
                    told = [images.digests, *told]
            else:
                told = [images]
            for value in (*told, labels):
                found.update(np.ascontiguousarray(value).data)
        if self.normalisation:
            found.update(repr(self.normalisation).encode())
        return found.hexdigest()

    def parts(self) -> tuple[tuple[Stored, np.ndarray], tuple[Stored, np.ndarray]]:
        """Images and labels of training and test."""
        return (self.train_images, self.train_labels), (self.test_images, self.test_labels)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation per channel, in 0...255: those given, or the training images'."""
        if self.normalisation:
            return np.array(self.normalisation[0]), np.array(self.normalisation[1])
        return self._measured

    @cached_property
    def _measured(self) -> tuple[np.ndarray, np.ndarray]:
        images = self.train_images
        mean, deviation = [], []
        for channel in range(images.shape[1]):
            # In whole numbers: exact, without a float copy of the images, the same of either store.
            total, squares = _sums(images, channel)
            count = len(images) * images.shape[2] * images.shape[3]
            mean.append(total / count)
            deviation.append(math.sqrt((count * squares - total**2) / count**2))
        return np.array(mean), np.maximum(np.array(deviation), 1e-3)

    def holdout(self, fraction: float) -> "Data":
        """The same without the test images: a fixed random part of each class's training images
        instead. Raises StError that names a class which would have none left."""
        return self.divided(fraction, "holdout", lambda name: f"class '{name}': 'holdout'")

    def divided(self, fraction: float, purpose: str, blame: Callable[[str], str]) -> "Data":
        """With a fixed random part of each class's training images, at least one, as the test part.

        `purpose` names the random stream, `blame(class)` the class and the option in the StError of
        a class that would have no image left.
        """
        test = np.zeros(len(self.train_labels), dtype=bool)
        for label in np.unique(self.train_labels):
            members = np.flatnonzero(self.train_labels == label)
            amount = max(1, round(fraction * len(members)))
            if amount == len(members):
                one = amount == 1  # which is always taken
                raise StError(
                    f"{blame(self.classes[label])} {fraction} leaves none of its {amount} "
                    f"image{'' if one else 's'} for training; add images"
                    + ("" if one else " or lower it")
                )
            test[stream(0, purpose, int(label)).permutation(members)[:amount]] = True
        files = None
        if self.files:
            named = list(zip(self.files[0], test, strict=True))
            files = [n for n, drawn in named if not drawn], [n for n, drawn in named if drawn]
        if self.as_test and files:
            held = self.as_test(files[1])
        elif self.train_images.shape[1:] == self.test_images.shape[1:]:
            held = chosen(self.train_images, test)
        else:
            raise StError(
                f"'{purpose}' needs training images of the test images' size, or a source that "
                "says how they look as test images (Data's as_test)"
            )
        return replace(
            self,
            train_images=chosen(self.train_images, ~test), train_labels=self.train_labels[~test],
            test_images=held, test_labels=self.train_labels[test], files=files,
        )  # fmt: skip

    def repeated(self) -> list[str]:
        """Test images that are, pixel by pixel, training images too: a line about each. By their
        files' contents where the two are made in different ways."""
        train = {digest: number for number, digest in enumerate(self._digests(0))}
        found = []
        for number, digest in enumerate(self._digests(1)):
            same = train.get(digest)
            if same is not None:
                one, two = self.train_labels[same], self.test_labels[number]
                other = "" if one == two else f", of another class ({self.classes[one]})"
                found.append(f"{self._name(1, number)} is {self._name(0, same)}{other}")
        return found

    def _digests(self, part: int) -> Iterator[bytes]:
        images = (self.train_images, self.test_images)[part]
        if isinstance(images, Shards):
            assert images.digests is not None
            yield from (digest.tobytes() for digest in images.digests)
        elif self.as_test and self.files:
            yield from (_digest(Path(file).read_bytes()) for file in self.files[part])
        else:
            yield from (_digest(np.ascontiguousarray(image).data) for image in images)

    def _name(self, part: int, number: int) -> str:
        kind = ("training", "test")[part]
        return self.files[part][number] if self.files else f"{kind} image {number}"


def chosen(images: Stored, index: np.ndarray | slice) -> Stored:
    """Some of the images, stored as they are."""
    return images.chosen(index) if isinstance(images, Shards) else images[index]


def _sums(images: Stored, channel: int) -> tuple[int, int]:
    """Of a channel's values, and of their squares."""
    if isinstance(images, Shards):
        assert images.sums is not None
        total, squares = images.sums[:, :, channel].sum(0)
        return int(total), int(squares)
    counts, levels = np.zeros(256, dtype=np.int64), np.arange(256)
    for start in range(0, len(images), 256):  # bincount makes int64 of its input
        counts += np.bincount(images[start : start + 256, channel].ravel(), minlength=256)
    return int(counts @ levels), int(counts @ levels**2)


def _digest(contents: bytes | memoryview) -> bytes:
    return hashlib.blake2b(contents, digest_size=16).digest()


def save_data(path: str | Path, data: Data, job: dict, source: dict | None = None) -> None:
    """Write a prepared data set with the job that it comes from and a digest of its contents.

    `source`: fingerprints of what it was read from (`st.config.changes`).
    """
    tensors, shards = {}, {}
    for part, (images, labels) in zip(PARTS, data.parts(), strict=True):
        if isinstance(images, Shards):
            tensors[f"{part}.places"] = images.places
            folder = os.path.relpath(images.folder, Path(path).parent)
            shards[part] = {"folder": folder, "files": images.files, "shape": images.shape[1:]}
        else:
            tensors[f"{part}.images"] = images
        tensors[f"{part}.labels"] = labels
    header = {
        "format": FORMAT,
        "version": VERSION,
        "job": job,
        "source": source,
        "classes": data.classes,
        "normalisation": [values.tolist() for values in data.statistics()],
        "resize": data.resize,
        "sha256": data.digest(),
        "shards": shards,
    }
    write_tensors(path, tensors, header)


def load_data(path: str | Path) -> tuple[Data, str]:
    """The data, mapped from the file, and its sha256."""
    tensors, header = read_tensors(path, FORMAT, mapped=True)
    try:
        labels = [tensors[f"{part}.labels"] for part in PARTS]
        train, test = (_stored(Path(path), part, tensors, header) for part in PARTS)
        data = Data(
            train, labels[0], test, labels[1], header["classes"],
            normalisation=header["normalisation"], resize=header.get("resize"),
        )  # fmt: skip
        digest = header["sha256"]
        sound = is_sound(data)
    except (KeyError, TypeError) as error:
        raise StError(f"{path}: lacks {error}; delete it and build it again") from error
    if not sound:
        raise StError(
            f"{path}: images, labels and classes do not fit together; delete it and build it again"
        )
    for images in (data.train_images, data.test_images):
        if isinstance(images, Shards):
            images.check()
    return data, digest


def check_normalisation(given: Mapping[str, Sequence[float]], channels: int, whose: str) -> None:
    """Raise StError unless there is a value for each channel. `whose`: 'the images have'."""
    for name, values in given.items():
        if len(values) != channels:
            raise StError(
                f"normalisation.{name}: has {len(values)} values, but {whose} {channels} channels; "
                "give one for each"
            )


def opened(source: Data | str | Path) -> tuple[Data, str]:
    """Data and its sha256, from a file or as it is."""
    return (source, source.digest()) if isinstance(source, Data) else load_data(source)


def _stored(path: Path, part: str, tensors: dict[str, np.ndarray], header: dict) -> Stored:
    """A part's images as the file at `path` has them."""
    about = header.get("shards", {}).get(part)  # files of before have none
    if not about:
        return tensors[f"{part}.images"]
    folder = path.parent / about["folder"]
    return Shards(folder, about["files"], tensors[f"{part}.places"], tuple(about["shape"]))


def check_made(found: Any, source: str, held_out: bool) -> None:
    """Raise StError unless what a source of images returned is as `Data` says; `held_out`: whether
    its test images will not be looked at."""
    if not (isinstance(found, Data) and _fit(found, 1 if held_out else 2)):
        raise StError(
            f"data set '{source}': must return a st.data.dataset.Data: uint8 images (n, channels, "
            "height, width), those for training no smaller than the test images, an int64 label "
            "for each, from 0 on, and a list of the classes' names; no part may be empty"
        )


def is_sound(data: Data) -> bool:
    """Whether shapes, types, labels and normalisation are as the class says; no part is empty."""
    try:
        normal = np.asarray(data.normalisation, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return (
        _fit(data, 2)
        and (data.resize is None or (type(data.resize) is int and data.resize > 0))
        and normal.shape == (2, data.train_images.shape[1])
        and bool(np.isfinite(normal).all() and (normal[1] > 0).all())
    )


def _fit(data: Data, parts: int) -> bool:
    """Whether images, labels and classes fit together, of training alone or of both parts."""
    return isinstance(data.classes, list) and all(
        images.dtype == np.uint8
        and images.ndim == 4
        and images.size > 0
        and images.shape[1] == data.train_images.shape[1]
        and all(a >= b for a, b in zip(images.shape[2:], data.input_shape[1:], strict=True))
        and labels.dtype == np.int64
        and labels.shape == images.shape[:1]
        and 0 <= labels.min() <= labels.max() < len(data.classes)
        and (not isinstance(images, Shards) or images.is_sound())
        for images, labels in reversed(data.parts()[:parts])
    )
