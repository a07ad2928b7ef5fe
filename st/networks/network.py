"""The executable network of a structure."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from st.core.errors import StError
from st.networks.checkpoint import Checkpoint
from st.networks.graph import Node
from st.networks.structure import Structure

# Operations whose result is a tensor of their own that their gradients don't need: a ReLU may
# overwrite it if nothing else reads it.
FRESH = ("conv", "linear", "bn", "add")


class Network(nn.Module):
    """Runs a structure's graph on batches of shape (n, channels, height, width).

    Layers are the children that their names say (`stage1.block2.conv1`), so that the state dict's
    names are those of `Graph.tensors`. `build` gives the weights.

    A selection takes its channels before the batch normalisation. Per-channel normalisation and
    selection commute, so this computes what network slimming's selection after it does, without
    normalising channels that nobody reads.
    """

    def __init__(self, structure: Structure):
        super().__init__()
        self.structure = structure
        graph = structure.graph
        self._widths: dict[Any, int] = structure.widths
        self._taps = graph.taps
        last_use = {i: n for n, node in enumerate(graph.nodes) for i in node.inputs}
        self._plan = []
        for number, node in enumerate(graph.nodes[1:], start=1):
            layer = self._layer(node)
            if layer is not None:
                self._attach(node.name, layer)
            frees = [i for i in set(node.inputs) if last_use[i] == number]
            self._plan.append((number, node, layer, frees))

    def _layer(self, node: Node) -> nn.Module | None:
        channels_in = self._widths.get(node.group_in, node.channels_in)
        channels = self._widths.get(node.group_out, node.channels)
        if node.op == "conv":
            shape = (node.kernel, node.stride, node.padding)
            return nn.Conv2d(channels_in, channels, *shape, bias=False)
        if node.op == "linear":
            return nn.Linear(channels_in, channels)
        if node.op == "bn":
            return BatchNorm2d(channels) if node.spatial else BatchNorm1d(channels)
        if node.op == "select" and channels < node.channels:
            return Selection(self.structure.keep[node.name], node.channels)
        return None

    def _attach(self, name: str, layer: nn.Module) -> None:
        parts = name.split(".")
        path: list[nn.Module] = [self]
        for part in parts:
            if part not in path[-1]._modules:
                if hasattr(path[-1], part):
                    raise StError(
                        f"architecture '{self.structure.family}': layer '{name}': torch's modules "
                        f"have an attribute '{part}'; give the layer another name"
                    )
                path[-1].add_module(part, nn.Module())
            path.append(path[-1].get_submodule(part))
        path[-2].add_module(parts[-1], layer)

    def exchange(self, change: Callable[[nn.Module], nn.Module]) -> None:
        """Put `change(layer)` in the place of every layer."""
        for place, (number, node, layer, frees) in enumerate(self._plan):
            if layer is not None:
                changed = change(layer)
                self._attach(node.name, changed)
                self._plan[place] = (number, node, changed, frees)

    def forward(self, x: Tensor, taps: Iterable[str] = ()) -> Tensor | dict[str, Tensor]:
        """Logits of shape (n, classes); or, with `taps`, a dict of these intermediate values."""
        wanted = {self._taps[name] for name in taps} | {self._taps["logits"]}
        values, nodes = {0: x}, self.structure.graph.nodes
        for number, node, layer, frees in self._plan:
            arguments = [values[i] for i in node.inputs]
            spent = [i for i in frees if i not in wanted]
            for i in spent:
                del values[i]
            if layer is not None:
                values[number] = layer(arguments[0])
            elif node.op == "relu" and spent and nodes[spent[0]].op in FRESH:
                values[number] = F.relu_(arguments[0])
            else:
                values[number] = apply(node, arguments)
        if taps:
            return {name: values[self._taps[name]] for name in taps}
        return values[self._taps["logits"]]


class Uncounted(nn.modules.batchnorm._BatchNorm):
    """A batch normalisation that leaves counting its batches to the training (`counts`): on a GPU
    each layer's own count is a kernel."""

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """As torch's, whose running averages don't depend on the count."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
            self.momentum, self.eps,
        )  # fmt: skip


class BatchNorm1d(Uncounted, nn.BatchNorm1d):
    """Of shape (n, channels)."""


class BatchNorm2d(Uncounted, nn.BatchNorm2d):
    """Of shape (n, channels, height, width)."""


def counts(network: nn.Module) -> list[Tensor]:
    """The numbers of batches that normalisations have seen, where they don't count themselves."""
    return [m.num_batches_tracked for m in network.modules() if isinstance(m, Uncounted)]


class Selection(nn.Module):
    """Takes the given channels of `width`. The indices are no parameters and are not in the state
    dict: they belong to the structure."""

    index: Tensor
    place: Tensor
    taken: Tensor

    def __init__(self, index: np.ndarray, width: int):
        super().__init__()
        place = np.zeros(width, dtype=np.int64)
        place[index] = np.arange(len(index))
        taken = np.zeros(width, dtype=np.float32)
        taken[index] = 1
        for name, value in {"index": index, "place": place, "taken": taken}.items():
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, selected channels, h, w)."""
        if torch.is_grad_enabled() and torch.are_deterministic_algorithms_enabled():
            return _Select.apply(x, self.index, self.place, self.taken)
        return _channels(x, self.index)


class _Select(torch.autograd.Function):
    """A selection whose gradient relies on no channel being taken twice. That of torch's own adds
    up, for which a GPU that is to be deterministic sorts all elements first."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, index: Tensor, place: Tensor, taken: Tensor) -> Tensor:
        return _channels(x, index)

    @staticmethod
    def setup_context(context, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        context.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        place, taken = context.saved_tensors
        return _channels(gradient, place).mul_(taken[:, None, None]), None, None, None


def _channels(x: Tensor, index: Tensor) -> Tensor:
    """The channels `index` of `x` (n, c, h, w), in channels_last, as the gradient is. On CPUs
    index_select is slower."""
    last = x.permute(0, 2, 3, 1)
    return last.gather(3, index.expand(*last.shape[:3], -1)).permute(0, 3, 1, 2)


def apply(node: Node, values: list[Tensor]) -> Tensor:
    """The operations that have no parameters."""
    x = values[0]
    if node.op == "relu":
        # Not in place: something else may hold the same tensor.
        return F.relu(x)
    if node.op == "select":
        return x
    if node.op == "max_pool":
        return F.max_pool2d(x, 2)
    if node.op == "avg_pool":
        return F.avg_pool2d(x, 2)
    if node.op == "global_pool":
        return x.mean((2, 3))
    if node.op == "add":
        return x + values[1]
    if node.op == "concat":
        return torch.cat(values, 1)
    if node.op == "shortcut":
        return resized(subsampled(x, node.stride), node.channels)
    raise ValueError(f"unknown operation '{node.op}'")


def subsampled(x: Tensor, stride: int) -> Tensor:
    """Every stride-th row and column of `x` (n, c, h, w)."""
    # Indexing's gradient would not be channels_last, and so what it is added to would not be.
    return F.avg_pool2d(x, 1, stride)


def resized(x: Tensor, channels: int) -> Tensor:
    """Zero channels on both sides of `x` (n, c, h, w), or its outer channels dropped: (n, channels,
    h, w). Dropping as many as were padded gives the original back."""
    missing = channels - x.shape[1]
    if not missing:
        return x
    before = int(missing / 2)  # rounded towards zero, so that dropping mirrors padding
    return F.pad(x, (0, 0, 0, 0, before, missing - before))


def build(structure: Structure, tensors: Mapping[str, np.ndarray]) -> Network:
    """The network of a structure with these weights (see Graph.tensors), on the CPU."""
    network = Network(structure)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return network


@torch.no_grad()
def folded(network: Network) -> Network:
    """A copy for evaluation only: normalisations are part of the convolutions before them.

    Where something else reads the convolution's output, or a ReLU comes before it, they stay.
    """
    result = copy.deepcopy(network.eval())
    graph = result.structure.graph
    readers = Counter(i for node in graph.nodes for i in node.inputs)
    fuse: dict[str, Callable[..., nn.Module]] = {
        "conv": fuse_conv_bn_eval,
        "linear": fuse_linear_bn_eval,
    }
    for place, (number, node, layer, frees) in enumerate(result._plan):
        (before, *_) = node.inputs
        op = graph.nodes[before].op
        read = readers[before] > 1 or before in graph.taps.values()
        if node.op != "bn" or op not in fuse or read:
            continue
        _, producer, weights, producer_frees = result._plan[before - 1]
        fused = fuse[op](weights, layer)
        result._attach(producer.name, fused)
        result._attach(node.name, nn.Identity())
        result._plan[before - 1] = (before, producer, fused, producer_frees)
        result._plan[place] = (number, node, nn.Identity(), frees)
    return result


def load(checkpoint: Checkpoint) -> Network:
    """The network of a model file, in training mode."""
    return build(checkpoint.structure, checkpoint.tensors)


def tensors(network: nn.Module) -> dict[str, np.ndarray]:
    """Copies of all parameters and buffers, as `build` takes them."""
    return {
        name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()
    }
