"""The executable network of a structure."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from st.networks.checkpoint import Checkpoint
from st.networks.graph import Graph, Node
from st.networks.layers import BatchNorm1d, BatchNorm2d, Executable
from st.networks.running import Imported
from st.networks.structure import Structure

# Operations whose result is a tensor of their own that their gradients don't need: a ReLU may
# overwrite it if nothing else reads it.
FRESH = ("conv", "linear", "bn", "add")


class Network(Executable):
    """Runs the graph that was drawn of a structure on batches of shape (n, channels, height,
    width). The names of the state dict are those of `Graph.tensors`; `build` gives the weights.

    A selection takes its channels before the batch normalisation. Per-channel normalisation and
    selection commute, so this computes what network slimming's selection after it does, without
    normalising channels that nobody reads.
    """

    def __init__(self, structure: Structure):
        super().__init__(structure)
        graph = structure.graph
        assert isinstance(graph, Graph)
        self.st_nodes = graph.nodes
        self.st_widths: dict[Any, int] = structure.widths
        self.st_taps = graph.taps
        last_use = {i: n for n, node in enumerate(graph.nodes) for i in node.inputs}
        self.st_plan = []
        for number, node in enumerate(graph.nodes[1:], start=1):
            layer = self.st_layer(node)
            if layer is not None:
                self.st_attach(node.name, layer)
            frees = [i for i in set(node.inputs) if last_use[i] == number]
            self.st_plan.append((number, node, layer is not None, frees))
        self.st_scales = [f"{node.name}.weight" for node in graph.nodes if node.op == "bn"]
        readers = Counter(i for node in graph.nodes for i in node.inputs)
        self.st_foldable = [
            (graph.nodes[before].name, node.name)
            for node in graph.nodes
            for before in node.inputs
            if node.op == "bn" and graph.nodes[before].op in ("conv", "linear")
            if readers[before] == 1 and before not in graph.taps.values()
        ]

    def st_layer(self, node: Node) -> nn.Module | None:
        """The layer of a node, if it has one."""
        channels_in = self.st_widths.get(node.group_in, node.channels_in)
        channels = self.st_widths.get(node.group_out, node.channels)
        if node.op == "conv":
            shape = (node.kernel, node.stride, node.padding)
            return nn.Conv2d(channels_in, channels, *shape, bias=False)
        if node.op == "linear":
            return nn.Linear(channels_in, channels)
        if node.op == "bn":
            return BatchNorm2d(channels) if node.spatial else BatchNorm1d(channels)
        if node.op == "select" and channels < node.channels:
            return Selection(self.st_structure.keep[node.name], node.channels)
        return None

    def forward(self, x: Tensor, taps: Iterable[str] = ()) -> Tensor | dict[str, Tensor]:
        """Logits of shape (n, classes); or, with `taps`, a dict of these intermediate values."""
        wanted = {self.st_taps[name] for name in taps} | {self.st_taps["logits"]}
        values, nodes = {0: x}, self.st_nodes
        for number, node, is_layer, frees in self.st_plan:
            arguments = [values[i] for i in node.inputs]
            spent = [i for i in frees if i not in wanted]
            for i in spent:
                del values[i]
            if is_layer:
                values[number] = self.st_layers[node.name](arguments[0])
            elif node.op == "relu" and spent and nodes[spent[0]].op in FRESH:
                values[number] = F.relu_(arguments[0])
            else:
                values[number] = apply(node, arguments)
        if taps:
            return {name: values[self.st_taps[name]] for name in taps}
        return values[self.st_taps["logits"]]


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
        if torch.compiler.is_exporting():
            # other programs' layouts are their own: one gather by constant indices, no transposes
            return x.index_select(1, self.index)
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


def bare(structure: Structure) -> Executable:
    """The network of a structure, with any weights, on the CPU."""
    return Imported(structure) if structure.program else Network(structure)


def build(structure: Structure, tensors: Mapping[str, np.ndarray]) -> Executable:
    """The network of a structure with these weights (see Drawing.tensors), on the CPU."""
    network = bare(structure)
    network.load_state_dict(given(structure, tensors))
    return network


def given(structure: Structure, tensors: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The state dict of a structure's network: with a second name for what has two."""
    found = {name: torch.from_numpy(value) for name, value in tensors.items()}
    tied = structure.program.tied if structure.program else {}
    return found | {name: found[other] for name, other in tied.items()}


@torch.no_grad()
def folded(network: Executable) -> Executable:
    """A copy for evaluation only: normalisations are part of the convolutions before them.

    Where something else reads the convolution's output, or a ReLU comes before it, they stay.
    """
    result = copy.deepcopy(network.eval())
    for before, norm in result.st_foldable:
        layer = result.st_layers[before]
        fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        result.st_attach(before, fuse(layer, result.st_layers[norm]))
        result.st_attach(norm, nn.Identity())
    return result


def load(checkpoint: Checkpoint) -> Executable:
    """The network of a model file, in training mode."""
    return build(checkpoint.structure, checkpoint.tensors)


def tensors(network: nn.Module) -> dict[str, np.ndarray]:
    """Copies of all parameters and buffers, as `build` takes them."""
    program = getattr(getattr(network, "st_structure", None), "program", None)
    tied = program.tied if program else {}
    return {
        # numpy has no bfloat16
        name: (v.float() if v.dtype == torch.bfloat16 else v).detach().cpu().numpy().copy()
        for name, v in network.state_dict().items()
        if name not in tied
    }
