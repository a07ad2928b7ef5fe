"""What a student learns from: a frozen network's outputs."""

from functools import partial

import torch
from torch import Tensor, nn

from st.core import slots
from st.core.device import Device
from st.data.augment import Augment
from st.data.images import Images
from st.networks.layers import Executable
from st.networks.network import folded


def room(device: Device) -> int:
    """Bytes that a training's kept outputs may take: on a GPU a quarter of the job's part of it."""
    if device.is_cuda:
        return int(torch.cuda.mem_get_info(device.name)[1] * slots.part() / 4)
    return 2**30


class Teacher:
    """A frozen network's outputs for the batches that its student sees.

    With fewer views than epochs every view of every image would be computed more than once;
    then all are computed beforehand, if they fit.
    """

    def __init__(
        self,
        network: Executable,
        taps: tuple[str, ...],
        images: Images,
        augment: Augment,
        epochs: int,
        device: Device,
    ):
        self.network = device.freeze(folded(network))
        self.taps, self.device = taps, device
        self._cache = None
        sample = self._run(images.plain(images.train_images[:2]))
        each = sum(value[0].numel() * value.element_size() for value in sample.values())
        whole = each * augment.views * len(images.train_images)
        if augment.repeats(epochs) and whole < room(device):
            total, show = len(images.train_images), partial(augment.apply, size=images.size)
            batches = torch.arange(total).split(512)
            self._cache = {
                tap: value.new_empty(augment.views, total, *value.shape[1:])
                for tap, value in sample.items()
            }
            for view in range(augment.views):
                views = torch.full((total,), view)
                shown = images.train_images.batches(batches, show, views)
                for index, batch in zip(batches, shown, strict=True):
                    for tap, value in self._run(images.normalise(batch)).items():
                        self._cache[tap][view, index[0] : index[-1] + 1] = value

    @property
    def keeps(self) -> bool:
        """Whether all outputs have been computed beforehand."""
        return self._cache is not None

    def _run(self, batch: Tensor) -> dict[str, Tensor]:
        return observe(self.network, batch, self.taps, self.device)

    def __call__(self, batch: Tensor, index: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Outputs by tap for `batch`: the images `index`, each in its view of `views`."""
        if self._cache is None:
            return self._run(batch)
        return {tap: value[views, index] for tap, value in self._cache.items()}


def observe(
    network: nn.Module, batch: Tensor, taps: tuple[str, ...], device: Device
) -> dict[str, Tensor]:
    """A network's outputs by tap, without a graph for gradients."""
    # Not inference_mode: losses keep these tensors for their backward pass.
    with torch.no_grad(), device.autocast():
        return as_float(network(batch, taps))


def as_float(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses are computed in float32, whatever the network computes in."""
    return {tap: value.float() for tap, value in outputs.items()}
