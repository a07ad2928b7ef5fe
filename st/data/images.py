"""A data set where networks are trained."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from st.core import slots
from st.core.device import Device
from st.data.dataset import Data, Stored
from st.data.loading import Loader, Request, Show, read, workers
from st.data.shards import Shards


class Resident:
    """Images on the device, uint8 (n, c, h, w); an index gives some of them, as they are stored."""

    def __init__(self, images: Tensor):
        self._images, self.shape = images, tuple(images.shape)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self._images[index]

    def batches(
        self, indices: Sequence[Tensor], show: Show | None = None, views: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Batches of these images (tensors on the CPU): as stored, or each in its view, of which
        `views` has one for every image."""
        for index in indices:
            stored = self[index.to(self._images.device)]
            yield _shown(stored, index, show, views)


class Streamed:
    """The same of images that are elsewhere, in memory or shards: read as they are asked for, in
    batches by processes that are ahead of the device.

    On a CPU these make the views too. A GPU makes them itself, in less time than its copies of the
    images take.
    """

    def __init__(self, stored: Stored, part: int, loader: Loader, device: Device):
        self._stored, self._part, self._loader = stored, part, loader
        self._device, self.shape = device, stored.shape

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        numbers = np.arange(len(self))[index if isinstance(index, slice) else index.cpu().numpy()]
        return self._put(read(self._stored, numbers))

    def _put(self, batch: Tensor) -> Tensor:
        return batch.to(self._device.name, non_blocking=True)

    def batches(
        self, indices: Sequence[Tensor], show: Show | None = None, views: Tensor | None = None
    ) -> Iterator[Tensor]:
        """As Resident's."""
        early, late = (None, show) if self._device.is_cuda else (show, None)
        requests = [
            Request(
                self._part, index.numpy(), early,
                views[index].numpy() if early and views is not None else None,
            )
            for index in indices
        ]  # fmt: skip
        for index, batch in zip(indices, self._loader.batches(requests), strict=True):
            yield _shown(self._put(batch), index, late, views)


def _shown(stored: Tensor, index: Tensor, show: Show | None, views: Tensor | None) -> Tensor:
    if show is None or views is None:
        return stored
    return show(stored, views[index].to(stored.device, non_blocking=True))


class Images:
    """A data set for the device: images as uint8, labels as int64, normalised batch by batch.

    `size`: height and width of what networks see. Training images may be stored larger. Images that
    fit are on the device; of a GPU they may take half of the memory, shared by all jobs that it has
    slots for.
    """

    def __init__(self, data: Data, device: Device):
        mean, deviation = data.statistics()
        self._loader: Loader | None = None
        self.train_labels = device.tensor(data.train_labels)
        self.test_labels = device.tensor(data.test_labels)
        height, width = data.input_shape[1:]
        self.size = (height, width)
        stored = (data.train_images, data.test_images)
        arrays = [images for images in stored if not isinstance(images, Shards)]
        needed = sum(images.nbytes for images in arrays)
        if len(arrays) < len(stored) or needed > room(device):
            self._loader = Loader(stored, workers(device.threads), device.is_cuda)
            parts: list[Any] = [
                Streamed(images, part, self._loader, device) for part, images in enumerate(stored)
            ]
        else:
            parts = [Resident(device.tensor(images)) for images in arrays]
        self.train_images: Resident | Streamed = parts[0]
        self.test_images: Resident | Streamed = parts[1]
        self.classes = len(data.classes)
        self._mean = device.tensor(mean).float()[:, None, None]
        self._scale = (1 / device.tensor(deviation)).float()[:, None, None]

    def close(self) -> None:
        """End the processes that read images, if there are any."""
        if self._loader:
            self._loader.close()

    def normalise(self, batch: Tensor) -> Tensor:
        """(n, c, h, w) of 0...255 to float32, mean 0 and deviation 1 per channel, channels_last.

        On a CPU row by row with all channels, in the same arithmetic: pixel by pixel it would have
        the few values of a pixel at once, and take three times as long (224 x 224, one core).
        """
        batch = batch.contiguous(memory_format=torch.channels_last)
        channels, width = batch.shape[1], batch.shape[3]
        if batch.is_cuda or channels == 1:
            return standardised(batch, self._mean, self._scale)
        mean, scale = (part.flatten().repeat(width) for part in (self._mean, self._scale))
        rows = batch.permute(0, 2, 3, 1).flatten(2)
        shifted = rows - mean if rows.is_floating_point() else rows.float().sub_(mean)
        return shifted.mul_(scale).unflatten(2, (width, channels)).permute(0, 3, 1, 2)

    def plain(self, stored: Tensor) -> Tensor:
        """Training images as networks see them without augmentation."""
        return self.normalise(centred(stored, self.size))


def room(device: Device) -> float:
    """Bytes of images that may be on a GPU. On a CPU they are where they were."""
    if not device.is_cuda:
        return math.inf
    return torch.cuda.mem_get_info(device.name)[1] * slots.part() / 2


def standardised(batch: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """What networks see of values 0...255, shape (n, c, h, w). `mean`, `scale`: (c, 1, 1); the
    scale is one over the deviation."""
    return (batch.float() - mean) * scale


def centred(images: Tensor, size: tuple[int, int], border: int = 0) -> Tensor:
    """The centre of images (n, c, h, w): of `size` and a border of so many pixels on all sides; 0
    is what lies beyond the images."""
    pads: list[int] = []
    for stored, shown in zip(images.shape[:1:-1], size[::-1], strict=True):
        before = round((stored - shown) / 2)  # as torchvision's center_crop
        pads += [border - before, border - (stored - shown - before)]
    return pad(images, pads) if any(pads) else images
