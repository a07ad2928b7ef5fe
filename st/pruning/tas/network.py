"""The network whose widths and depths TAS learns, and how it draws from them."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from st.core.seeds import derive, stream
from st.networks.graph import Graph, Node
from st.networks.inits.random import random
from st.networks.network import apply, resized
from st.networks.structure import Structure
from st.pruning.tas.space import Space


@cache
def _averages(channels_in: int, channels: int, device: torch.device) -> Tensor:
    """Adaptive average pooling from `channels_in` to `channels` as a matrix: row i is the mean of
    the inputs floor(i in / out) ... ceil((i + 1) in / out) - 1."""
    matrix = np.zeros((channels, channels_in), np.float32)
    for i in range(channels):
        first, last = i * channels_in // channels, -(-(i + 1) * channels_in // channels)
        matrix[i, first:last] = 1 / (last - first)
    return torch.from_numpy(matrix).to(device)


def interpolated(x: Tensor, channels: int) -> Tensor:
    """Channel-wise interpolation of `x` (n, c, h, w) to (n, channels, h, w).

    As a 1x1 convolution: torch's adaptive pooling has no deterministic gradient on GPUs.
    """
    if x.shape[1] == channels:
        return x
    return F.conv2d(x, _averages(x.shape[1], channels, x.device)[:, :, None, None])


def mixed(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of outputs times their weights, aligned to the output with the most channels."""
    channels = max(x.shape[1] for x, _ in parts)
    return sum(weight * interpolated(x, channels) for x, weight in parts)  # type: ignore[return-value]


class Choice(NamedTuple):
    """What one forward pass mixes. `index`, `weights`: for each layer two of its widths, (layers,
    2) each; `depths`: a weight for every depth of each stage, (stages, candidates)."""

    index: Tensor  # type: ignore[assignment]  # tuple.index is not used
    weights: Tensor
    depths: Tensor


def sample(logits: Tensor, layers: int, temperature: float, generator: torch.Generator) -> Choice:
    """Draw from the Gumbel-softmax: p = softmax((log softmax(logits) + g) / T).

    Of each layer's widths two are drawn from p without replacement, and their p renormalised; of
    each stage's depths all are mixed, by p, as the authors' code does.

    `logits`: (rows, candidates), the layers' before the stages'; -inf where a row has fewer. In a
    row with one candidate the second is none, with weight 0.
    """
    noisy = (logits.log_softmax(1) + _gumbel(logits, generator)) / temperature
    # The two largest of log p with fresh noise are draws from p without replacement.
    index = (noisy.detach() + _gumbel(logits, generator))[:layers].topk(2).indices
    return Choice(index, noisy[:layers].gather(1, index).softmax(1), noisy[layers:].softmax(1))


def _gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    return -torch.empty_like(like).exponential_(generator=generator).clamp_min(1e-30).log()


class Supernet(nn.Module):
    """A drawn network of which each forward pass uses two widths of every convolution and all
    depths of every stage.

    `architecture`: logits (layers + stages, candidates) of the candidates' probabilities. Narrow
    versions of a convolution use its first filters; each width has a batch normalisation of its
    own. It only trains, so there are no running statistics.
    """

    first_moment: Tensor
    second_moment: Tensor

    def __init__(self, structure: Structure, space: Space, seed: int):
        super().__init__()
        assert isinstance(structure.graph, Graph)
        self.graph, self.space = structure.graph, space
        initial = random(structure, None, derive(seed, "tas"))
        nodes = self.graph.nodes
        self.filters = nn.ParameterList(
            torch.from_numpy(initial[f"{nodes[layer.node].name}.weight"]) for layer in space.layers
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(n, track_running_stats=False) for n in layer.sizes)
            for layer in space.layers
        )
        self.others = nn.ModuleDict()
        for node in nodes:
            if node.op == "linear":
                self.others[node.name] = nn.Linear(node.channels_in, node.channels)
                self.others[node.name].load_state_dict(
                    {s: torch.from_numpy(initial[f"{node.name}.{s}"]) for s in ("weight", "bias")}
                )
            elif node.op == "bn" and not node.spatial:
                self.others[node.name] = nn.BatchNorm1d(node.channels, track_running_stats=False)
        self._layer_of = {layer.node: number for number, layer in enumerate(space.layers)}
        self._ends = {
            node: (position, block, stage)
            for position, stage in enumerate(space.stages)
            for block, (_, node) in enumerate(stage.blocks, start=1)
        }
        rows, most = len(space.candidates), max(2, *space.candidates)
        values = 0.01 * stream(seed, "tas", "architecture").standard_normal((rows, most))
        self.architecture = nn.Parameter(torch.from_numpy(values.astype(np.float32)))
        self.exists = torch.arange(most) < torch.tensor(space.candidates)[:, None]
        # Adam's moments, here so that they are part of the state
        self.register_buffer("first_moment", torch.zeros(rows, most))
        self.register_buffer("second_moment", torch.zeros(rows, most))

    def logits(self) -> Tensor:
        """The architecture parameters on the CPU, where choices are made; -inf for no candidate."""
        return self.architecture.cpu().masked_fill(~self.exists, -torch.inf)

    def likeliest(self) -> list[int]:
        """The likeliest candidate of each row of choices."""
        return self.logits().argmax(1).tolist()

    def expected_macs(self) -> Tensor:
        """Over all choices, by their probabilities."""
        probabilities = self.logits().softmax(1)
        layers = self.space.layers
        widths = [
            row[: len(layer.sizes)] @ torch.tensor(layer.sizes, dtype=torch.float32)
            for row, layer in zip(probabilities, layers, strict=False)
        ]
        depths = [
            row[: len(stage.depths)].unbind()
            for row, stage in zip(probabilities[len(layers) :], self.space.stages, strict=True)
        ]
        return self.space.macs(widths, depths)

    def forward(self, x: Tensor, choice: Choice) -> Tensor:
        """Logits (n, classes) under a choice as `sample` returns it."""
        weights, depths = choice.weights.to(x.device), choice.depths.to(x.device)
        picks = [  # of each layer: pairs of a width and its weight
            [(i, w) for i, w in zip(row, pair, strict=True) if i < count]
            for row, pair, count in zip(
                choice.index.tolist(), weights, self.space.candidates, strict=False
            )
        ]
        values, kept = {0: x}, []
        for number, node in enumerate(self.graph.nodes[1:], start=1):
            inputs = [values[i] for i in node.inputs]
            values[number] = self._run(number, node, inputs, picks)
            if number in self._ends:
                position, block, stage = self._ends[number]
                if block in stage.depths:
                    kept.append((values[number], depths[position, stage.depths.index(block)]))
                if block == len(stage.blocks):
                    values[number], kept = mixed(kept), []
        return values[self.graph.taps["logits"]]

    def _run(self, number: int, node: Node, inputs: list[Tensor], picks: list) -> Tensor:
        x = inputs[0]
        if node.op == "conv":
            layer = self._layer_of[number]
            sizes = self.space.layers[layer].sizes
            norms: Any = self.norms[layer]
            widest = max(sizes[i] for i, _ in picks[layer])
            filters = self.filters[layer][:widest, : x.shape[1]]
            x = F.conv2d(x, filters, stride=node.stride, padding=node.padding)
            return mixed([(norms[i](x[:, : sizes[i]]), weight) for i, weight in picks[layer]])
        if node.op == "bn":  # a convolution's has been applied with it
            return x if node.spatial else self.others[node.name](x)
        if node.op == "linear":
            linear: Any = self.others[node.name]
            return F.linear(x, linear.weight[:, : x.shape[1]], linear.bias)
        if node.op == "shortcut":
            return x[:, :, :: node.stride, :: node.stride]
        if node.op == "add":  # the shortcut's width is matched to the block's
            return x + resized(inputs[1], x.shape[1])
        return apply(node, inputs)
