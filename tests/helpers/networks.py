"""Small networks of every family, random structures and weights."""

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from st.networks import network
from st.networks.graph import draw
from st.networks.network import Network
from st.networks.structure import Structure

# (family, options): each drawing feature at least once, small enough to run many times
SMALL = {
    "vgg": ("vgg", {"layers": [6, 8, "M", 10, "M", 12]}),
    "vgg-hidden": ("vgg", {"layers": [6, "M", 8], "hidden": 9}),
    "resnet": ("resnet", {"depth": 14, "width": 0.5}),
    "preresnet": ("preresnet", {"depth": 11, "width": 0.25}),
    "preresnet-basic": ("preresnet", {"depth": 8, "width": 0.5, "bottleneck": False}),
    "densenet": ("densenet", {"depth": 10, "growth": 4}),
    "densenet-bc": ("densenet", {"depth": 10, "growth": 3, "bottleneck": True, "compression": 0.5}),
}


def small_structure(name: str, input_shape=(1, 9, 11), classes: int = 5) -> Structure:
    family, options = SMALL[name]
    return Structure(family, options, input_shape, classes)


def full_cost(family: str, options: dict, input_shape=(3, 32, 32), classes: int = 10):
    graph = draw(family, options, input_shape, classes)
    return graph.cost(graph.widths({}))


def random_keep(structure: Structure, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Of each group any channels, one or more; of some groups all."""
    keep = {}
    for name, group in structure.graph.groups.items():
        amount = rng.integers(1, group.size + 1)
        if rng.random() < 0.8:
            keep[name] = np.sort(rng.permutation(group.size)[:amount])
    return keep


def pruned(structure: Structure, keep) -> Structure:
    return structure.with_keep(keep)


def random_tensors(structure: Structure, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights of no special form: nothing is zero, one, or the same for two channels."""
    shapes, result = structure.shapes(), {}
    for tensor in structure.graph.tensors():
        shape = shapes[tensor.name]
        if tensor.role == "count":
            value = np.asarray(rng.integers(1, 99), dtype=np.int64)
        elif tensor.role == "variance":
            value = rng.uniform(0.5, 2, shape).astype(np.float32)
        else:
            scale = 1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
            value = (scale * rng.standard_normal(shape)).astype(np.float32)
        result[tensor.name] = value
    return result


def masked(structure: Structure, tensors: dict) -> dict:
    """The full network's tensors with the scale and shift of every removed channel zeroed."""
    result = {name: value.copy() for name, value in tensors.items()}
    for name, kept in structure.keep.items():
        removed = np.setdiff1d(np.arange(structure.graph.groups[name].size), kept)
        for norm in structure.graph.groups[name].norms:
            result[norm][removed] = 0
            result[norm.replace("weight", "bias")][removed] = 0
    return result


def zeroed(
    part: Structure, tensors: dict[str, np.ndarray], zero: float = 0.0
) -> dict[str, np.ndarray]:
    """The whole network's tensors with `zero` in place of what the part does not have."""
    kept, result = part.graph.positions(part.keep), {}
    for tensor in part.graph.tensors():
        value = tensors[tensor.name].copy()
        for number, axis in enumerate(tensor.axes):
            if axis is not None:
                removed = np.setdiff1d(np.arange(tensor.shape[number]), kept[axis])
                np.moveaxis(value, number, 0)[removed] = zero
        result[tensor.name] = value
    return result


def logits(structure: Structure, tensors: dict, batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.build(structure, tensors).double().eval()(batch)


def in_millions(number: int, like: str) -> str:
    """With as many decimals as `like`."""
    return f"{number / 1e6:.{len(like.split('.')[1])}f}"


def counted(structure: Structure) -> tuple[int, int]:
    """(parameters, MACs) of the torch network, run without data; checks the output's shape too."""
    with torch.device("meta"):
        network = Network(structure)
    network = network.eval().to("meta")
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.empty(1, *structure.input_shape, device="meta"))
    assert logits.shape == (1, structure.classes)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


def as_trained(network):
    """Scales of normalisations that differ, as after training; before, they rank nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim == 1 and (value == value[0]).all() and value[0]:
                value.uniform_(0.5, 1.5, generator=generator)
    return network
