"""How long networks take, measured side by side."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from st.core.device import Device, choose
from st.networks.network import Network
from st.networks.structure import Structure


@torch.inference_mode()
def seconds(
    networks: Sequence[nn.Module], batch: Tensor, rounds: int, device: Device
) -> np.ndarray:
    """The median time of a call per network, shape (networks,).

    The networks take turns, so that a busy moment of the machine hits all of them.
    """
    times = np.zeros((1 + rounds, len(networks)))
    for row in times:
        for column, network in enumerate(networks):
            device.wait()
            started = time.perf_counter()
            with device.autocast():
                network(batch)
            device.wait()
            row[column] = time.perf_counter() - started
    return np.median(times[1:], axis=0)  # the first calls choose kernels and allocate


class Stopwatch:
    """Latency of a supernet's parts, as fractions of its own. Depends on the machine, its load, the
    batch and the number of threads; each structure is measured once.

    Weights don't matter: networks are measured as torch initialises them.
    """

    def __init__(self, supernet: Structure, batch: int, rounds: int, device: str, threads: int):
        self._device = choose(device, threads)
        self._rounds = rounds
        self._known: dict[tuple[int, ...], float] = {}
        self._supernet = self._placed(supernet)
        images = torch.rand(batch, *supernet.input_shape)
        self._batch = images.to(self._device.name, memory_format=torch.channels_last)

    def _placed(self, structure: Structure) -> nn.Module:
        return self._device.place(Network(structure)).eval()

    def __call__(self, part: Structure) -> float:
        """Latency of `part` as a fraction of the supernet's, measured once for each shape."""
        key = (*(n.channels for n in part.graph.nodes), *part.widths.values())
        if key not in self._known:
            networks = [self._placed(part), self._supernet]
            own, full = seconds(networks, self._batch, self._rounds, self._device)
            self._known[key] = float(own / full)
        return self._known[key]
