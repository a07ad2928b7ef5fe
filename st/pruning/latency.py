"""Latency as a budget: of a supernet's parts, measured beside it."""

import torch
from torch import nn

from st.core.device import choose
from st.networks.network import bare
from st.networks.structure import Structure
from st.networks.timing import seconds


class Stopwatch:
    """Latency of a supernet's parts, as fractions of its own. Depends on the machine, its load, the
    batch and the number of threads; each structure is measured once.

    Weights don't matter: networks are measured as torch initialises them.
    """

    def __init__(self, supernet: Structure, batch: int, rounds: int, device: str, threads: int):
        self._device = choose(device, threads)
        self._rounds = rounds
        self._known: dict[tuple[tuple[int, ...], ...], float] = {}
        self._supernet = self._placed(supernet)
        images = torch.rand(batch, *supernet.input_shape)
        self._batch = images.to(self._device.name, memory_format=torch.channels_last)

    def _placed(self, structure: Structure) -> nn.Module:
        return self._device.place(bare(structure)).eval()

    def __call__(self, part: Structure) -> float:
        """Latency of `part` as a fraction of the supernet's, measured once for each shape."""
        key = tuple(part.shapes().values())
        if key not in self._known:
            networks = [self._placed(part), self._supernet]
            own, full = seconds(networks, self._batch, self._rounds, self._device)
            self._known[key] = float(own / full)
        return self._known[key]
