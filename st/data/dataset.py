"""Prepared data sets: one safetensors file of uint8 images, read by every job.

Preparing once a run spares each job the decoding, and jobs the import of torchvision.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from st.core.errors import StError
from st.core.seeds import stream
from st.core.tensors import VERSION, read_tensors, write_tensors

FORMAT = "search-and-train data"
Shape = tuple[tuple[int, int, int], int]  # (channels, height, width), classes


@dataclass(frozen=True)
class Data:
    """Images are uint8 (n, channels, height, width), labels int64 (n,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: list[str]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.train_images.shape[1:])

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation per channel of the training images, in 0...255."""
        # By histogram: exact, and without a float copy of the images.
        levels = np.arange(256, dtype=np.float64)
        mean, deviation = [], []
        for channel in range(self.train_images.shape[1]):
            counts = np.bincount(self.train_images[:, channel].ravel(), minlength=256)
            average = (counts * levels).sum() / counts.sum()
            mean.append(average)
            deviation.append(np.sqrt((counts * (levels - average) ** 2).sum() / counts.sum()))
        return np.array(mean), np.maximum(np.array(deviation), 1e-3)

    def holdout(self, fraction: float) -> "Data":
        """The same without the test images: a fixed random part of the training images instead."""
        order = stream(0, "holdout").permutation(len(self.train_labels))
        amount = min(max(1, round(fraction * len(order))), len(order) - 1)
        test, train = np.sort(order[:amount]), np.sort(order[amount:])
        return Data(
            self.train_images[train], self.train_labels[train],
            self.train_images[test], self.train_labels[test], self.classes,
        )  # fmt: skip


def save_data(path: str | Path, data: Data, job: dict) -> None:
    """Write a prepared data set with the job that it comes from and a digest of its contents."""
    tensors = {
        "train.images": data.train_images,
        "train.labels": data.train_labels,
        "test.images": data.test_images,
        "test.labels": data.test_labels,
    }
    digest = hashlib.sha256()
    for value in tensors.values():
        digest.update(np.ascontiguousarray(value).data)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "job": job,
        "classes": data.classes,
        "sha256": digest.hexdigest(),
    }
    write_tensors(path, tensors, header)


def load_data(path: str | Path) -> tuple[Data, str]:
    """The data and its sha256."""
    tensors, header = read_tensors(path, FORMAT)
    try:
        data = Data(
            tensors["train.images"], tensors["train.labels"],
            tensors["test.images"], tensors["test.labels"], header["classes"],
        )  # fmt: skip
        digest = header["sha256"]
    except KeyError as error:
        raise StError(f"{path}: lacks {error}; delete it and build it again") from error
    if not _is_sound(data):
        raise StError(
            f"{path}: images, labels and classes do not fit together; delete it and build it again"
        )
    return data, digest


def _is_sound(data: Data) -> bool:
    """Whether shapes, types and labels are as the class says, and no part is empty."""
    parts = ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    return isinstance(data.classes, list) and all(
        images.dtype == np.uint8
        and images.ndim == 4
        and images.size > 0
        and images.shape[1:] == data.train_images.shape[1:]
        and labels.dtype == np.int64
        and labels.shape == images.shape[:1]
        and 0 <= labels.min() <= labels.max() < len(data.classes)
        for images, labels in parts
    )
