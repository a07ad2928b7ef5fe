"""An imported network as data: its operators, and which channels can be removed together.

st/networks/imported/ makes programs of torch modules, st/networks/running.py runs them; nothing
here needs torch. A program is JSON throughout: whoever reads it needs neither the code that it was
imported from nor pickle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from st.networks.drawing import Axis, Drawing, Extent, Group, Keep, Tensor, Term

FIXED = -1  # in layouts: a position that is never removed
BATCH = 2  # images for which the shapes of results are told

# operators that make a tensor of nothing but its sizes, and the place of these
MADE = {
    **dict.fromkeys(("zeros", "ones", "full", "empty", "rand", "randn"), 0),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), 1),
}
# operators that have the sizes of their result as an argument, and its place
SIZED = {
    **MADE,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "expand", "broadcast_to"), 1),
    "unflatten": 2,
}
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PRODUCTS = {"matmul": 0, "mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # the place of the first
RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu")  # (x, state, weights, ...)
LAYERS = {*CONVOLUTIONS, *TRANSPOSED, *PRODUCTS, *RECURRENT, "linear", "bilinear", "einsum"}
ATTENTION = "scaled_dot_product_attention"
TAKE = "take"  # (x, axis, positions)
INPUT = "input"
OUTPUT = "output"

Sizes = list[tuple[int, int | None]]  # per axis its length and its layout


def base(op: str) -> str:
    """An operator without namespace, variant and the underscore of those that write in place."""
    name = op.split(".")[1] if "." in op else op
    return name.rstrip("_") if name.strip("_") else name


@dataclass(frozen=True)
class Node:
    """One call. `op`: torch's name of an operator, such as aten.conv2d.default, or one of Python's.

    `args`, `kwargs`: JSON in which {"node": n} is the result of node n and {"tensor": name} a
    parameter or buffer. `shapes`: of each result, for BATCH images. `layouts`: alike, per axis the
    number of its layout, None where nothing of it is removed. `module`: the part of the imported
    module that called it.
    """

    op: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    shapes: list[list[int]] = field(default_factory=list)
    layouts: list[list[int | None]] = field(default_factory=list)
    module: str = ""

    @property
    def name(self) -> str:
        """What the operator does, as `base` says it."""
        return base(self.op)


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer of the full network; `role` as `Tensor` has it."""

    shape: list[int]
    dtype: str
    role: str
    layout: list[int | None] = field(default_factory=list)


@dataclass
class Units(Group):
    """Channels that are chosen together: `size` units, which are numbered from `first` on.

    `exact`: removing a unit does what setting its parameters to zero does. Where channels are
    normalised together it does not.
    """

    first: int = 0
    exact: bool = True


@dataclass
class Program(Drawing):
    """A network of one input and one output, in two forms: for training and for evaluation.

    A unit is what is removed or kept as a whole: positions along axes of parameters and results.
    `layouts`: lists of units, one for each position of an axis, FIXED where it stays; each has all
    units of a group, as often as one another, or none. `taps`: per form the number of a node.
    `pinned`: how many channels each operator keeps from being removed. `tied`: further names of
    parameters. `left_out`: what else the module's state dict names, which the output
    needs not, with the values of what the operators have as positions. `notes`: what the import
    says.
    """

    input_shape: tuple[int, int, int]
    classes: int
    forms: dict[str, list[Node]]  # "train", "eval"; the last node is the output
    stored: dict[str, Stored]
    layouts: list[list[int]] = field(default_factory=list)
    groups: dict[str, Units] = field(default_factory=dict)  # type: ignore[assignment]
    taps: dict[str, dict[str, int]] = field(default_factory=dict)
    pinned: dict[str, int] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[int] | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def arrays(self) -> list[np.ndarray]:
        """`layouts`, each (positions,)."""
        return [np.array(layout, dtype=np.int64) for layout in self.layouts]

    def extents(self) -> dict[Any, Extent]:
        """By the numbers of layouts; see Drawing."""
        return self._extents

    @cached_property
    def _extents(self) -> dict[Any, Extent]:
        firsts = [group.first for group in self.groups.values()]
        names, found = list(self.groups), {}
        # a unit's group is the last that begins before it
        for number, layout in enumerate(self.arrays):
            owners, counts = np.unique(np.searchsorted(firsts, layout, "right"), return_counts=True)
            fixed, times = 0, {}
            for owner, count in zip(owners.tolist(), counts.tolist(), strict=True):
                if owner:
                    times[names[owner - 1]] = count // self.groups[names[owner - 1]].size
                else:
                    fixed = count
            found[number] = Extent(fixed, times)
        return found

    def positions(self, keep: Keep) -> dict[Any, np.ndarray]:
        """By the numbers of layouts; see Drawing."""
        mask = self._mask(keep)
        return {n: np.flatnonzero(mask[layout]) for n, layout in enumerate(self.arrays)}

    def _mask(self, keep: Keep) -> np.ndarray:
        """By unit, whether it is kept; FIXED is the last."""
        mask = np.ones(sum(group.size for group in self.groups.values()) + 1, bool)
        for name, kept in keep.items():
            group = self.groups[name]
            mask[group.first : group.first + group.size] = False
            mask[group.first + np.asarray(kept)] = True
        return mask

    def places(self, axis: Axis, group: str, keep: Keep) -> np.ndarray:
        """By the numbers of layouts; see Drawing."""
        assert isinstance(axis, int)
        layout = self.arrays[axis]
        layout = layout[self._mask(keep)[layout]]
        units = self.groups[group]
        found = np.flatnonzero((layout >= units.first) & (layout < units.first + units.size))
        width = len(keep[group]) if group in keep else units.size
        return found[np.argsort(layout[found], kind="stable")].reshape(width, -1)

    def tensors(self) -> list[Tensor]:
        """Named as the module names them; see Drawing."""
        return [
            Tensor(name, tuple(t.shape), tuple(t.layout), t.role, t.dtype)
            for name, t in self.stored.items()
        ]

    def heads(self) -> list[str]:
        """Of both forms; see Drawing."""
        return list(dict.fromkeys(name for nodes in self.forms.values() for name in heads(nodes)))

    def terms(self) -> list[Term]:
        """Of all parameters, and of products in evaluation; see Drawing."""
        return self._terms

    @cached_property
    def _terms(self) -> list[Term]:
        found = [
            _term(_layer_of(t.name), 1, 0, self._sizes({"tensor": t.name}))
            for t in self.tensors()
            if t.trained
        ]
        nodes = self.forms["eval"]
        shown = of_images(nodes)
        for number, node in enumerate(nodes):
            for layer, sizes in self._products(node):
                found.append(_term(layer, 0, 1, sizes, BATCH if number in shown else 1))
        return found

    def _products(self, node: Node) -> list[tuple[str, Sizes]]:
        """Products of lengths that are numbers of multiply-accumulates, by layer."""
        name, args = node.name, node.args
        if name in CONVOLUTIONS or name == "linear":
            weight = self._sizes(args[1])
            return [(_layer(node), [*self._results(node), *weight[1:]])]
        if name == "bilinear":
            return [(_layer(node), [*self._results(node), *self._sizes(args[2])[1:]])]
        if name in TRANSPOSED:
            x, weight = self._sizes(args[0]), self._sizes(args[1])
            return [(_layer(node), [*x[:1], *x[2:], *weight])]
        if name in RECURRENT:
            steps, layer = self._sizes(args[0])[:2], f"{node.module} ({name})"
            weights = (self._sizes(argument) for argument in args[2])
            return [(layer, [*steps, *weight]) for weight in weights if len(weight) == 2]
        if name in PRODUCTS:
            inner = self._sizes(args[PRODUCTS[name]])
            return [(_layer(node), [*self._results(node), *inner[-1:]])]
        if name == "einsum" and "." not in args[0]:
            letters = {
                letter: size
                for text, arg in zip(_letters(args[0]), args[1], strict=True)
                for letter, size in zip(text, self._sizes(arg), strict=True)
            }
            return [(_layer(node), list(letters.values()))]
        if name == ATTENTION:
            query, key, value = (self._sizes(arg) for arg in args[:3])
            layer = _layer(node)
            return [(layer, [*query, key[-2]]), (layer, [*query[:-1], key[-2], value[-1]])]
        return []

    def _sizes(self, argument: dict, nodes: list[Node] | None = None) -> Sizes:
        if "tensor" in argument:
            tensor = self.stored[argument["tensor"]]
            return list(zip(tensor.shape, tensor.layout, strict=True))
        return self._results((nodes or self.forms["eval"])[argument["node"]])

    def _results(self, node: Node) -> Sizes:
        return list(zip(node.shapes[0], node.layouts[0], strict=True))

    def prunable(self) -> tuple[float, float]:
        """The shares of parameters and MACs that are gone if one unit of each group remains."""
        full, least = self.cost(self.widths({})), self.cost(dict.fromkeys(self.groups, 1))
        return (full[0] - least[0]) / max(full[0], 1), (full[1] - least[1]) / max(full[1], 1)

    def pruned(self, keep: Keep) -> dict[str, list[Node]]:
        """The forms with the sizes that remain, to be run with tensors of these sizes."""
        kept = self.positions(keep)
        return {
            form: [self._resized(node, nodes, kept) for node in nodes]
            for form, nodes in self.forms.items()
        }

    def _resized(self, node: Node, nodes: list[Node], kept: Mapping[Any, np.ndarray]) -> Node:
        """The node with the numbers among its arguments that depend on what remains."""

        def remaining(value: dict) -> list[int]:
            return _lengths(self._sizes(value, nodes), kept)

        args, name = list(node.args), node.name
        if node.op == TAKE:
            before, after = nodes[args[0]["node"]].layouts[0][args[1]], node.layouts[0][args[1]]
            positions = np.array(args[2]) if after is None else np.array(args[2])[kept[after]]
            if before is not None:
                positions = np.searchsorted(kept[before], positions)
            args[2] = positions.tolist()
        elif name in SIZED:
            first = args[1] % len(node.shapes[0]) if name == "unflatten" else 0
            sizes = list(args[SIZED[name]])
            for place, layout in enumerate(node.layouts[0][first : first + len(sizes)]):
                if layout is not None and sizes[place] != -1:
                    sizes[place] = len(kept[layout])
            args[SIZED[name]] = sizes
        elif name == "split_with_sizes":
            axis = args[2] if len(args) > 2 else 0
            results = zip(node.shapes, node.layouts, strict=True)
            args[1] = [
                _lengths(list(zip(shape, layout, strict=True)), kept)[axis]
                for shape, layout in results
            ]
        elif name in CONVOLUTIONS and len(args) > 6 and isinstance(args[6], int):
            args[6] = remaining(args[0])[1] // remaining(args[1])[1]
        elif name in ("layer_norm", "rms_norm"):
            args[1] = remaining(args[0])[-len(args[1]) :]
        elif name == "group_norm" and args[1] == node.shapes[0][1]:  # each channel for itself
            args[1] = remaining(args[0])[1]
        return replace(node, args=args)


def _term(layer: str, params: int, macs: int, sizes: Sizes, images: int = 1) -> Term:
    fixed = prod(size for size, layout in sizes if layout is None) // images
    axes = tuple(layout for _, layout in sizes if layout is not None)
    return Term(layer, params * fixed, macs * fixed, axes)


def _letters(equation: str) -> list[str]:
    """The axes of an Einstein sum's operands."""
    return equation.replace(" ", "").split("->")[0].split(",")


def _layer(node: Node) -> str:
    """What reports call it: the weights' name, or the module's."""
    weights = named(node)
    return _layer_of(weights[0]) if weights else f"{node.module or 'network'} ({node.name})"


def _layer_of(tensor: str) -> str:
    """The layer that a tensor belongs to."""
    return tensor.removesuffix(".weight").removesuffix(".bias")


def _lengths(sizes: Sizes, kept: Mapping[Any, np.ndarray]) -> list[int]:
    """What remains of each axis."""
    return [size if number is None else len(kept[number]) for size, number in sizes]


def _parts(argument: Any, kind: str) -> list[Any]:
    if isinstance(argument, list):
        return list(chain.from_iterable(_parts(part, kind) for part in argument))
    return [argument[kind]] if isinstance(argument, dict) and kind in argument else []


def uses(node: Node) -> list[int]:
    """The nodes whose results are arguments of this one."""
    return _parts([node.args, *node.kwargs.values()], "node")


def named(node: Node) -> list[str]:
    """The parameters and buffers that are arguments of this one."""
    return _parts([node.args, *node.kwargs.values()], "tensor")


def of_images(nodes: list[Node]) -> set[int]:
    """The nodes of which there is a result for each image."""
    found = {0}
    for number, node in enumerate(nodes):
        if found & set(uses(node)):
            found.add(number)
    return found


def heads(nodes: list[Node]) -> list[str]:
    """The parameters and buffers of the layers from which the last node's result comes, and of what
    lies between these and the result. Layers are where weights multiply what is known of images:
    the axis of the classes is theirs."""
    shown = of_images(nodes)
    found: dict[str, None] = {}
    pending, seen = [len(nodes) - 1], set()
    while pending:
        number = pending.pop()
        if number in seen:
            continue
        seen.add(number)
        node, before = nodes[number], uses(nodes[number])
        found |= dict.fromkeys(named(node))
        weighted = bool(named(node)) or not shown.issuperset(before)
        layer = node.name in LAYERS and weighted
        pending += [n for n in before if not (layer and n in shown)]
    return list(found)
