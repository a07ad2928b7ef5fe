"""Where a network's time goes: each of its operators, called alone with what it was given."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from st.core.device import Device
from st.networks.drawing import layer_costs
from st.networks.kinds import WITH_MACS, kind_of
from st.networks.layers import Executable
from st.networks.timing import times


@dataclass(frozen=True)
class Operator:
    """One call of a network. `layer`: the layer that made it, or the operator's own name in
    brackets; `seconds`: its median time; `macs`: of its layer, for one image, with the first of a
    layer's operators that multiplies."""

    layer: str
    name: str
    kind: str
    seconds: float
    macs: int


class _Recorder(TorchDispatchMode):
    """Keeps all calls with their arguments. `layer`: the one that is being computed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = ""
        self.calls: list[tuple[str, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kept = tuple(args), dict(kwargs or {})
        self.calls.append((self.layer, func, kept))
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def profile(network: Executable, batch: Tensor, rounds: int, device: Device) -> list[Operator]:
    """The operators of a pass over `batch` (n, channels, height, width), in their order.

    Each is called alone, in turns with all others, with the arguments that it had in a pass; so a
    time holds what calling it costs, and nothing of the network around it.
    """
    with device.autocast():
        calls = _recorded(network, batch)
    runs = [partial(func, *args, **kwargs) for _, func, (args, kwargs) in calls]
    seconds = np.median(times(runs, rounds, device), axis=0)
    costs = layer_costs(network.st_structure.graph.terms(), _sizes(network))
    left = {layer: macs for layer, (_, macs) in costs.items()}
    found = []
    for (layer, func, _), taken in zip(calls, seconds.tolist(), strict=True):
        name = str(func).split(".")[1].strip("_")
        kind = kind_of(name)
        macs = left.pop(layer, 0) if kind in WITH_MACS else 0
        found.append(Operator(layer or f"({name})", name, kind, taken, macs))
    return found


def _sizes(network: Executable) -> dict[Any, int]:
    graph = network.st_structure.graph
    return graph.sizes(network.st_structure.widths)


def _recorded(network: Executable, batch: Tensor) -> list[tuple[str, Any, Any]]:
    recorder = _Recorder()
    hooks = []

    def enter(name: str):
        def note(*_: Any) -> None:
            recorder.layer = name

        return note

    def leave(*_: Any) -> None:
        recorder.layer = ""

    try:
        for name, layer in network.st_layers.items():
            hooks.append(layer.register_forward_pre_hook(enter(name)))
            hooks.append(layer.register_forward_hook(leave))
        with recorder:
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.calls


def by_kind(operators: Sequence[Operator]) -> dict[str, dict[str, float]]:
    """For each kind of operators their number and their milliseconds, the slowest first."""
    found: dict[str, dict[str, float]] = {}
    for operator in operators:
        entry = found.setdefault(operator.kind, {"operators": 0, "ms": 0.0})
        entry["operators"] += 1
        entry["ms"] += 1000 * operator.seconds
    found = {kind: {**entry, "ms": round(entry["ms"], 5)} for kind, entry in found.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]["ms"]))
