"""What TAS chooses from: the widths and depths of a drawn network, the MACs of any choice, and the
likeliest choice for a number of MACs. Plain numpy.

A network that can be searched is a chain of convolutions, some of them in residual blocks that come
in stages, before its linear layers; its family's function has an attribute `reshaped`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from st.core.errors import StError
from st.core.registry import architectures
from st.networks.graph import Graph
from st.networks.structure import Structure

TOLERANCE = 0.05  # how far below the target a network may be
BUCKETS = 2048  # partial networks that `likeliest` tells apart by their MACs


@dataclass(frozen=True)
class Layer:
    """A convolution: its candidate widths, and the MACs of one channel for each one it reads."""

    node: int
    sizes: tuple[int, ...]
    unit: int


@dataclass(frozen=True)
class Stage:
    """`blocks`: each block's layers and the node that ends it; `depths`: how many may remain."""

    blocks: tuple[tuple[tuple[int, ...], int], ...]
    depths: tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """`stem`: so many layers come before the first block. `head`: outputs of the first linear
    layer, which reads what remains of the last stage; `rest`: MACs of any further ones."""

    inputs: int
    layers: tuple[Layer, ...]
    stem: int
    stages: tuple[Stage, ...]
    head: int
    rest: int

    def macs(self, widths: Sequence, depths: Sequence[Sequence]) -> Any:
        """MACs with these widths by layer, and by stage a weight for each of its depths.

        With expected widths and the probabilities of the depths this is the expected number, for
        choices that are independent: layers enter as products of two different ones. Numbers or
        tensors.
        """
        total, channels = self.rest, self.inputs
        for number in range(self.stem):
            total = total + self.layers[number].unit * channels * widths[number]
            channels = widths[number]
        for stage, weights in zip(self.stages, depths, strict=True):
            ends = 0
            for block, (layers, _) in enumerate(stage.blocks, start=1):
                pairs = list(zip(stage.depths, weights, strict=True))
                present = sum(weight for depth, weight in pairs if depth >= block)
                for number in layers:
                    unit = self.layers[number].unit
                    total = total + present * unit * channels * widths[number]
                    channels = widths[number]
                ends = ends + sum(weight for depth, weight in pairs if depth == block) * channels
            channels = ends
        return total + self.head * channels

    def chosen_macs(self, choice: Sequence[int]) -> int:
        """MACs of one choice: a candidate's index for each layer, then for each stage."""
        widths = [layer.sizes[i] for layer, i in zip(self.layers, choice, strict=False)]
        depths = choice[len(self.layers) :]
        return self.macs(
            widths,
            [
                [int(i == chosen) for i in range(len(stage.depths))]
                for stage, chosen in zip(self.stages, depths, strict=True)
            ],
        )

    @property
    def candidates(self) -> list[int]:
        """How many candidates each layer has, then each stage."""
        sizes = [len(layer.sizes) for layer in self.layers]
        return sizes + [len(stage.depths) for stage in self.stages]


def kept_blocks(blocks: int) -> tuple[int, ...]:
    """Candidate depths, as in the authors' code: every number up to three, then every second."""
    step = 1 if blocks <= 3 else 2
    return tuple(sorted({*range(1, blocks + 1, step), blocks}))


def read(full: Structure, fractions: Sequence[float]) -> Space:
    """The space of a network; raises StError if its family can't be searched."""
    if not architectures.get(full.family).reshaped:
        raise StError(
            f"criterion 'tas': architecture '{full.family}' can't be searched; it needs a family "
            "whose options say each layer's width, such as resnet or vgg"
        )
    graph = full.graph
    assert isinstance(graph, Graph)  # none that is imported says each layer's width by options
    layers, linear = [], []
    for number, node in enumerate(graph.nodes):
        if node.op == "conv":
            # 0.29 of 100 is 29, though 0.29 * 100 is 28.999999999999996
            sizes = {max(1, int(round(f * node.channels, 6))) for f in fractions}
            layers.append(Layer(number, tuple(sorted(sizes)), node.kernel**2 * node.positions))
        elif node.op == "linear":
            linear.append(node)
    stages = _stages(graph, layers)
    in_blocks = sum(len(numbers) for stage in stages for numbers, _ in stage.blocks)
    return Space(
        graph.input_shape[0], tuple(layers), len(layers) - in_blocks, stages,
        linear[0].channels, sum(node.channels_in * node.channels for node in linear[1:]),
    )  # fmt: skip


def _stages(graph: Graph, layers: list[Layer]) -> tuple[Stage, ...]:
    """A block is what is between an addition's two ways from the same value; a relu ends it. Its
    stage is that of the next tap `stageN`."""
    taps = sorted(n for name, n in graph.taps.items() if name.startswith("stage"))
    blocks: dict[int, list] = {}
    for number, node in enumerate(graph.nodes):
        if node.op == "add":
            start = node.inputs[1]
            if graph.nodes[start].op == "shortcut":
                (start,) = graph.nodes[start].inputs
            inside = tuple(i for i, layer in enumerate(layers) if start < layer.node < number)
            stage = next(tap for tap in taps if tap > number)
            blocks.setdefault(stage, []).append((inside, number + 1))
    return tuple(Stage(tuple(found), kept_blocks(len(found))) for found in blocks.values())


def shaped(full: Structure, space: Space, choice: Sequence[int]) -> Structure:
    """The network of a choice."""
    count, layers, depths = len(space.layers), list(range(space.stem)), []
    for stage, chosen in zip(space.stages, choice[count:], strict=True):
        depths.append(stage.depths[chosen])
        layers += [n for numbers, _ in stage.blocks[: depths[-1]] for n in numbers]
    widths = [space.layers[n].sizes[choice[n]] for n in layers]
    options = architectures.check(full.family, full.options)
    options = architectures.get(full.family).reshaped(options, widths, depths)
    return Structure(
        full.family, options, full.input_shape, full.classes, supernet_options=full.options
    )


def check_limits(full: Structure, space: Space, limits: Sequence[float]) -> None:
    """Raise StError if even the smallest network has more parameters or MACs than `limits`."""
    least = shaped(full, space, [0] * len(space.candidates)).cost()
    for name, cost, limit, whole in zip(
        ("params", "macs"), least, limits, full.cost(), strict=True
    ):
        if cost > limit:
            what = {"params": "parameters", "macs": "MACs"}[name]
            raise StError(
                f"criterion 'tas': the budget's {limit:,.0f} {what} cannot be met; the smallest "
                f"candidates have {cost:,} ({name}: {np.ceil(1e4 * cost / whole) / 1e4:.4f})"
            )


def likeliest(space: Space, log_probabilities: Sequence[np.ndarray], target: float) -> list[int]:
    """The most probable choice with MACs in [0.95, 1] x target: an index for each layer and stage.

    Layers of blocks that the choice leaves out have no say. If no choice is that close, the closest
    below. By dynamic programming along the chain: of all partial networks with the same width at
    their end and (up to a 2048th of the target) the same MACs only the most probable goes on. MACs
    themselves are carried exactly.

    `log_probabilities`: for each layer, then each stage, shape (candidates,). The smallest network
    has at most `target` MACs (see `check_limits`).
    """
    # Below the maximum of its row, so that a layer that is left out counts as its likeliest width.
    loss = [values - values.max() for values in log_probabilities]
    count = len(space.layers)
    # width at the end -> (score, MACs, choice) of partial networks
    start = np.zeros((1, len(space.candidates)), np.int8)
    front = {space.inputs: (np.zeros(1), np.full(1, space.rest, np.int64), start)}

    def through(front: dict, numbers: Sequence[int]) -> dict:
        for number in numbers:
            layer, grown = space.layers[number], {}
            for index, size in enumerate(layer.sizes):
                parts = [
                    (score + loss[number][index], macs + layer.unit * width * size, choice)
                    for width, (score, macs, choice) in front.items()
                ]
                found = _thinned(parts, target)
                found[2][:, number] = index
                grown[size] = found
            front = grown
        return front

    front = through(front, range(space.stem))
    for position, stage in enumerate(space.stages, start=count):
        ended: dict[int, list] = {}
        for block, (numbers, _) in enumerate(stage.blocks, start=1):
            front = through(front, numbers)
            if block in stage.depths:
                index = stage.depths.index(block)
                for width, (score, macs, choice) in front.items():
                    choice = choice.copy()
                    choice[:, position] = index
                    ended.setdefault(width, []).append(
                        (score + loss[position][index], macs, choice)
                    )
        front = {width: _thinned(parts, target) for width, parts in ended.items()}
    score, macs, choice = _joined(
        [(s, m + space.head * width, c) for width, (s, m, c) in front.items()]
    )
    near = (macs >= (1 - TOLERANCE) * target) & (macs <= target)
    if near.any():
        best = np.lexsort((-macs, np.where(near, -score, np.inf)))[0]
    else:
        best = np.lexsort((-score, np.where(macs <= target, -macs, 1)))[0]
    return choice[best].tolist()


def _joined(parts: list[tuple]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _thinned(parts: list[tuple], target: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the partial networks in each bucket of MACs, up to the target, the most probable; and that
    of the fewest MACs, which can go on as far as any."""
    score, macs, choice = _joined(parts)
    bucket = (macs * BUCKETS / target).astype(np.int64)
    order = np.lexsort((macs, -score, bucket))
    order = order[macs[order] <= target]
    first = np.ones(len(order), bool)
    first[1:] = bucket[order][1:] != bucket[order][:-1]
    fewest = order[macs[order].argsort(kind="stable")[:1]]
    keep = np.unique(np.concatenate([order[first], fewest]))
    return score[keep], macs[keep], choice[keep]
