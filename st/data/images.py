"""A data set where networks are trained."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from st.core.device import Device
from st.data.dataset import Data


class Images:
    """A data set on the device: images as uint8, labels as int64, normalised batch by batch.

    `size`: height and width of what networks see. Training images may be stored larger.
    """

    def __init__(self, data: Data, device: Device):
        mean, deviation = data.statistics()
        self.train_images, self.train_labels = (
            device.tensor(data.train_images),
            device.tensor(data.train_labels),
        )
        self.test_images, self.test_labels = (
            device.tensor(data.test_images),
            device.tensor(data.test_labels),
        )
        height, width = self.test_images.shape[2:]
        self.size = (height, width)
        self.classes = len(data.classes)
        self._mean = device.tensor(mean).float()[:, None, None]
        self._scale = (1 / device.tensor(deviation)).float()[:, None, None]

    def normalise(self, batch: Tensor) -> Tensor:
        """(n, c, h, w) of 0...255 to float32, mean 0 and deviation 1 per channel, channels_last."""
        batch = batch.contiguous(memory_format=torch.channels_last)
        return standardised(batch, self._mean, self._scale)

    def plain(self, index: Tensor | slice) -> Tensor:
        """Training images as networks see them without augmentation."""
        return self.normalise(centred(self.train_images[index], self.size))


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
