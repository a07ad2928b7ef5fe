"""How long networks take, measured side by side."""

import copy
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from st.core.capture import WARM_UP
from st.core.device import Device


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
