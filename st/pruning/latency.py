"""How long networks take, measured side by side."""

import copy
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from st.core.capture import WARM_UP
from st.core.device import Device, choose
from st.networks.network import bare
from st.networks.structure import Structure


@torch.inference_mode()
def seconds(
    networks: Sequence[nn.Module],
    batch: Tensor,
    rounds: int,
    device: Device,
    others: Sequence[Callable[[], object]] = (),
) -> np.ndarray:
    """The median time of a call per network, and then of `others`, shape (networks + others,).

    On a GPU it is the networks' own time: weights are in the format that is computed in, and the
    pass is captured; else python's launches would be what is measured.
    """
    calls = [_call(network, batch, device) for network in networks]
    return np.median(times([*calls, *others], rounds, device), axis=0)


def times(calls: Sequence[Callable[[], object]], rounds: int, device: Device) -> np.ndarray:
    """How many seconds each call takes, shape (rounds, calls). They take turns, so that a busy
    moment of the machine hits all of them; in another order each time, as what ran before matters:
    the next call after one of another library's takes a third longer."""
    for call in calls:  # the first calls choose kernels, allocate and capture
        for _ in range(WARM_UP + 1 if device.is_cuda else 1):
            call()
    found, order = np.zeros((rounds, len(calls))), np.random.default_rng(0)
    for row in found:
        for column in order.permutation(len(calls)):
            device.wait()
            started = time.perf_counter()
            calls[column]()
            device.wait()
            row[column] = time.perf_counter() - started
    return found


def _call(network: nn.Module, batch: Tensor, device: Device) -> Callable[[], None]:
    """A forward pass as it would be deployed on the device."""
    if device.half:
        network = device.freeze(copy.deepcopy(network))

    def run() -> None:
        with device.autocast():
            network(batch)

    return device.repeatable(run)


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
