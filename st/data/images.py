"""A data set where networks are trained."""

import torch
from torch import Tensor

from st.core.device import Device
from st.data.dataset import Data


class Images:
    """A data set on the device: images as uint8, labels as int64, normalised batch by batch."""

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
        self._mean = device.tensor(mean).float()[:, None, None]
        self._scale = (1 / device.tensor(deviation)).float()[:, None, None]

    def normalise(self, batch: Tensor) -> Tensor:
        """uint8 (n, c, h, w) to float32 with mean 0 and deviation 1 per channel, channels_last."""
        batch = batch.contiguous(memory_format=torch.channels_last)
        return (batch.float() - self._mean) * self._scale
