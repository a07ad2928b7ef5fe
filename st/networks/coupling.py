"""Which channels of a program can be removed, and which only together.

The program is run on labels: instead of numbers a tensor has, per axis, the identity of the channel
that each position belongs to. What moves entries (views, permutations, slices) is executed on the
labels as it is and needs no rule of its own. Sums, products and depthwise convolutions tie labels;
what mixes positions along an axis, and every operator that has no rule, pins them. In the end the
labels that are tied are a unit, those that are pinned stay, and the units that a layer makes are a
group.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from st.core.errors import StError, one_line
from st.networks.program import (
    BATCH,
    CONVOLUTIONS,
    FIXED,
    OUTPUT,
    TAKE,
    TRANSPOSED,
    Node,
    Program,
    Units,
    uses,
)
from st.networks.running import filled, function

ONE = "channels that are all tied"
STAYS = 0  # the label of what is never removed


@dataclass
class Labels:
    """The labels of one tensor: `parts`, each an array of the tensor's rank that has length 1 along
    the axes on which it does not depend. A part usually depends on one axis, the channels'; between
    operators that move entries it may depend on several."""

    shape: tuple[int, ...]
    parts: list[np.ndarray] = field(default_factory=list)
    tensor: str = ""  # the parameter that this is

    def along(self, axis: int) -> np.ndarray | None:
        """The labels of the positions along an axis, None where there are none."""
        for part in self.parts:
            if part.shape[axis] > 1:
                return part.reshape(-1)
        return None


@dataclass
class Call:
    """An operator with the names of its arguments, tensors as `Labels`, and its results' shapes."""

    op: str
    arguments: dict[str, Any]
    written: dict[str, Any]  # the arguments as the node has them
    shapes: list[tuple[int, ...]]
    run: Callable  # the operator, given another first argument

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @property
    def labels(self) -> list[Labels]:
        """All tensors among the arguments."""
        found: list[Labels] = []
        for value in self.arguments.values():
            parts = value if isinstance(value, list) else [value]
            found += [part for part in parts if isinstance(part, Labels)]
        return found


class Coupling:
    """What is known of labels so far: who is tied to whom, what is pinned by which operator."""

    def __init__(self):
        self.count = 1  # STAYS
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.pins: list[tuple[np.ndarray, str]] = []
        self.inexact: list[np.ndarray] = []
        self.roles: dict[str, list[str]] = {"producers": [], "norms": []}

    def fresh(self, shape: Sequence[int], tensor: str = "") -> Labels:
        """A tensor with labels of its own along each axis."""
        labels = Labels(tuple(shape), tensor=tensor)
        for axis, size in enumerate(shape):
            if size > 1:
                part = np.arange(self.count, self.count + size)
                self.count += size
                labels.parts.append(
                    part.reshape([-1 if a == axis else 1 for a in range(len(shape))])
                )
        return labels

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """These labels are removed together; the arrays are broadcast against each other."""
        pair = np.broadcast_arrays(one, other)
        self.edges.append((pair[0].reshape(-1), pair[1].reshape(-1)))

    def pin(self, labels: np.ndarray | Labels | None, op: str) -> None:
        """These labels stay, because of this operator."""
        for part in labels.parts if isinstance(labels, Labels) else [labels]:
            if part is not None:
                self.pins.append((np.unique(part), op))

    def role(self, role: str, labels: Labels | None) -> None:
        """A parameter's role among the channels."""
        if labels is not None and labels.tensor:
            self.roles[role].append(labels.tensor)

    def units(self, pinned: bool = True) -> np.ndarray:
        """For each label the lowest one that it is tied to: STAYS for what is pinned, unless that
        shall not count."""
        edges = list(self.edges)
        if pinned:
            edges += [(labels, np.full(len(labels), STAYS)) for labels, _ in self.pins]
        pairs = [np.concatenate(side) for side in zip(*edges, strict=True)]
        links = coo_array((np.ones(len(pairs[0]), bool), pairs), (self.count, self.count))
        _, numbers = connected_components(links, False)
        _, first = np.unique(numbers, return_index=True)
        return first[numbers]

    def emptied(self, tensors: Iterable[Labels], units: np.ndarray) -> bool:
        """Pin the labels of axes that are one unit as a whole; whether there were any."""
        found = False
        for labels in tensors:
            for part in labels.parts:
                values = units[part]
                if values.flat[0] and (values == values.flat[0]).all():
                    self.pin(part, ONE)
                    found = True
        return found

    def regular(self, labels: Labels) -> Labels:
        """With parts that depend on one axis each, on different ones: where a part depends on
        several, positions are tied such that the most units remain."""
        parts: dict[int, np.ndarray] = {}
        for part in labels.parts:
            if part.size == 1:
                self.pin(part, ONE)
                continue
            axis = self.flatten(part)
            along = np.moveaxis(part, axis, 0).reshape(part.shape[axis], -1)[:, 0]
            if axis in parts:
                self.pin(along, "two kinds of channels along one axis")
            else:
                parts[axis] = along.reshape([-1 if a == axis else 1 for a in range(part.ndim)])
        return Labels(labels.shape, list(parts.values()), labels.tensor)

    def flatten(self, part: np.ndarray) -> int:
        """Tie the labels of a part such that it depends on one axis; returns the axis."""
        axes = [axis for axis, size in enumerate(part.shape) if size > 1]
        if len(axes) == 1:
            return axes[0]
        best = max(axes, key=lambda axis: _classes(np.moveaxis(part, axis, 0)))
        rows = np.moveaxis(part, best, 0).reshape(part.shape[best], -1)
        self.tie(rows, rows[:, :1])
        return best

    def join(
        self,
        call: Call,
        operands: Iterable[tuple[Labels | None, Sequence[Any]]],
        result: Sequence[Any],
        mixed: Iterable[Any] = (),
    ) -> Labels:
        """The rule of Einstein sums: axes with the same letter are walked together, so that their
        labels are tied. `mixed`: letters along which positions are mixed, so that labels stay."""
        mixed = set(mixed)
        found: dict[Any, list[np.ndarray | None]] = {}
        sizes: dict[Any, int] = {}
        given = [(labels, letters) for labels, letters in operands if labels is not None]
        for labels, letters in given:
            for size, letter in zip(labels.shape, letters, strict=True):
                sizes[letter] = max(sizes.get(letter, 1), size)
        for labels, letters in given:
            labels = self.regular(labels)
            for axis, letter in enumerate(letters):
                if labels.shape[axis] == sizes[letter] > 1:
                    found.setdefault(letter, []).append(labels.along(axis))
        known: dict[Any, np.ndarray] = {}
        for letter, vectors in found.items():
            labelled = [vector for vector in vectors if vector is not None]
            if letter in mixed or len(labelled) < len(vectors):
                for vector in labelled:
                    self.pin(vector, call.op)
            elif labelled:
                known[letter] = labelled[0]
                for vector in labelled[1:]:
                    self.tie(labelled[0], vector)
        shape = call.shapes[0]
        parts = [
            known[letter].reshape([-1 if a == axis else 1 for a in range(len(shape))])
            for axis, letter in enumerate(result)
            if letter in known
        ]
        return Labels(shape, parts)


def _classes(rows: np.ndarray) -> int:
    """How many units remain if all labels of a row are one."""
    rows = rows.reshape(len(rows), -1)
    if (rows == STAYS).all(1).any() and len(rows) == 1:
        return 0
    _, numbers = np.unique(rows, return_inverse=True)
    numbers = numbers.reshape(rows.shape)
    first = np.broadcast_to(numbers[:, :1], rows.shape).reshape(-1)
    count = int(numbers.max()) + 1
    edges = coo_array((np.ones(rows.size), (first, numbers.reshape(-1))), (count, count))
    return connected_components(edges, False)[0]


Operands = list[tuple[Labels | None, Sequence[Any]]]

# Rules: operator -> function of (coupling, call) that gives the labels of the result, or of each.
RULES: dict[str, Callable[[Coupling, Call], Any]] = {}


def rule(*names: str):
    """Decorator: the rule of these operators."""

    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _letters(labels: Labels, *named: Any) -> list[Any]:
    """The named letters, and one of its own for each further axis."""
    return [*named, *(("own", axis) for axis in range(len(named), len(labels.shape)))]


def pointwise(coupling: Coupling, call: Call) -> Labels:
    """Sums, products, activations: axes are aligned from the last on."""
    tensors = call.labels
    rank = len(call.shapes[0])
    if len(tensors) == 1 and tensors[0].shape == call.shapes[0]:
        return replace(tensors[0], tensor="")
    operands = [(t, range(rank - len(t.shape), rank)) for t in tensors]
    return coupling.join(call, operands, range(rank))


# pointwise operators that torch does not tag as such
POINTWISE = {"hardswish", "dropout", "feature_dropout", "alpha_dropout", "native_dropout", "copy"}
POINTWISE |= {"bernoulli", "fill", "masked_fill", "to", "_to_copy", "clamp", "zeros_like", "fill_"}
POINTWISE |= {"ones_like", "full_like", "empty_like", "rand_like", "randn_like", "softplus", "selu"}
POINTWISE |= {"celu", "rrelu", "type_as", "expand_as", "zero", "dropout1d", "feature_alpha_dropout"}

# What moves entries. Those of the first line keep their order, so that they do the same to what
# remains of a tensor, given its sizes.
ORDERED = {"view", "reshape", "_unsafe_view", "permute", "transpose", "t", "squeeze", "unsqueeze"}
ORDERED |= {"flatten", "unflatten", "expand", "contiguous", "clone", "detach", "alias", "movedim"}
ORDERED |= {"swapaxes", "swapdims", "unbind", "lift_fresh_copy", "moveaxis", "mT"}
ORDERED |= {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split"}
ORDERED |= {"select", "lift_fresh"}
ORDERED |= {"pixel_shuffle", "pixel_unshuffle", "repeat", "tile", "repeat_interleave"}
REORDERED = {"slice", "narrow", "roll", "flip", "channel_shuffle", "native_channel_shuffle"}
MOVES = ORDERED | REORDERED
SPLITS = {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split"}


@rule(*MOVES)
def moved(coupling: Coupling, call: Call) -> Any:
    """What moves entries is executed on the labels."""
    (labels, *_) = call.labels
    results = [Labels(shape) for shape in call.shapes]
    for part in labels.parts:
        if call.op in ("select", "unbind"):
            axis = (call["dim"] or 0) % part.ndim
            if part.shape[axis] == part.size:  # of its only axis one position is taken
                coupling.pin(part, call.op)
                continue
        entries = torch.from_numpy(part).expand(labels.shape)
        output = call.run(entries.contiguous() if call.op == "view" else entries)
        for result, moved_part in zip(
            results, output if isinstance(output, list | tuple) else [output], strict=True
        ):
            compact = _compact(moved_part)
            if compact.size > 1:
                result.parts.append(compact)
            else:
                coupling.pin(compact, call.op)
    return results


def _compact(values: torch.Tensor) -> np.ndarray:
    """With length 1 along all axes along which the values are the same."""
    for axis in range(values.ndim):
        first = values.narrow(axis, 0, 1)
        if values.stride(axis) == 0 or values.shape[axis] == 1 or bool((values == first).all()):
            values = first
    return values.contiguous().numpy()


@rule(*CONVOLUTIONS)
def convolution(coupling: Coupling, call: Call) -> Labels:
    """Channels in and out; grouped ones keep as many in each group, or whole groups."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    coupling.role("producers", weight)
    groups = call["groups"] or 1
    kernel = [("kernel", axis) for axis in range(len(weight.shape) - 2)]
    places = [("place", axis) for axis in range(len(x.shape) - 2)]
    result = ["n", "out", *[("new", axis) for axis in range(len(kernel))]]
    if groups == 1:
        return coupling.join(
            call,
            [(x, ["n", "in", *places]), (weight, ["out", "in", *kernel]), (bias, ["out"])],
            result,
            ["n", *places, *kernel],
        )
    x, weight = coupling.regular(x), coupling.regular(weight)
    read, made, inner = x.along(1), weight.along(0), weight.along(1)
    if inner is None:
        inner = np.full(weight.shape[1], STAYS)
    if read is None or made is None or (weight.along(1) is None and weight.shape[1] > 1):
        for labels in (x, weight, bias):
            coupling.pin(labels, call.op)
        return Labels(call.shapes[0])
    read, made = read.reshape(groups, -1), made.reshape(groups, -1)
    if min(read.shape[1], made.shape[1]) == 1:  # whole groups
        coupling.tie(read, read[:, :1])
        coupling.tie(made, read[:, :1])
        coupling.pin(weight.along(1), call.op)
    else:
        coupling.tie(read, inner)
        coupling.tie(made, made[:1])
    for labels, axes in ((x, [0, *range(2, len(x.shape))]), (weight, range(2, len(weight.shape)))):
        for axis in axes:
            coupling.pin(labels.along(axis), call.op)
    return coupling.join(
        call, [(Labels(weight.shape[:1], [made.reshape(-1)]), ["out"]), (bias, ["out"])], result
    )


@rule(*TRANSPOSED)
def transposed(coupling: Coupling, call: Call) -> Any:
    """Transposed convolutions, without groups."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    coupling.role("producers", weight)
    if call["groups"] != 1:
        return pinned(coupling, call)
    kernel = [("kernel", axis) for axis in range(len(weight.shape) - 2)]
    places = [("place", axis) for axis in range(len(x.shape) - 2)]
    operands: Operands = [
        (x, ["n", "in", *places]),
        (weight, ["in", "out", *kernel]),
        (bias, ["out"]),
    ]
    result = ["n", "out", *[("new", axis) for axis in range(len(kernel))]]
    return coupling.join(call, operands, result, ["n", *places, *kernel])


@rule("linear")
def linear(coupling: Coupling, call: Call) -> Labels:
    """The last axis is read, other axes stay as they are."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    coupling.role("producers", weight)
    others: list[Any] = list(range(len(x.shape) - 1))
    operands: Operands = [(x, [*others, "in"]), (weight, ["out", "in"]), (bias, ["out"])]
    return coupling.join(call, operands, [*others, "out"])


@rule("matmul", "mm", "bmm", "baddbmm", "addmm")
def product(coupling: Coupling, call: Call) -> Labels:
    """Matrix products of any two tensors."""
    *added, one, other = call.labels
    rank = len(call.shapes[0])
    if min(len(one.shape), len(other.shape)) < 2:
        return pinned(coupling, call)

    def batch(labels):
        return list(range(rank - len(labels.shape), rank - 2))

    operands = [(one, [*batch(one), "row", "in"]), (other, [*batch(other), "in", "column"])]
    letters = [*range(rank - 2), "row", "column"]
    operands += [(a, letters[rank - len(a.shape) :]) for a in added]
    return coupling.join(call, operands, letters)


@rule("einsum")
def einsum(coupling: Coupling, call: Call) -> Any:
    """Products of any axes by their letters."""
    equation, tensors = call["equation"], call["tensors"]
    if "." in equation or "->" not in equation:
        return pinned(coupling, call)
    given, result = equation.replace(" ", "").split("->")
    operands: Operands = list(zip(tensors, given.split(","), strict=True))
    if any(len(set(letters)) < len(letters) for _, letters in operands):
        return pinned(coupling, call)
    return coupling.join(call, operands, result)


@rule("scaled_dot_product_attention")
def attention(coupling: Coupling, call: Call) -> Labels:
    """softmax(q k^T) v, over the last two axes."""
    query, key, value, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    rank = len(query.shape)
    others = list(range(rank - 2))
    operands = [
        (query, [*others, "l", "k"]), (key, [*others, "s", "k"]), (value, [*others, "s", "v"]),
    ]  # fmt: skip
    if mask is not None:
        operands.append((mask, [*others, "l", "s"][rank - len(mask.shape) :]))
    return coupling.join(call, operands, [*others, "l", "v"], ["s"])


@rule("batch_norm", "instance_norm")
def batch_norm(coupling: Coupling, call: Call) -> Labels:
    """Each channel for itself."""
    x = call["input"]
    coupling.role("norms", call["weight"])
    names = ("weight", "bias", "running_mean", "running_var")
    letters = _letters(x, "n", "c")
    operands = [(x, letters), *((call[name], ["c"]) for name in names)]
    return coupling.join(call, operands, letters, letters[2:])


@rule("layer_norm", "rms_norm")
def layer_norm(coupling: Coupling, call: Call) -> Labels:
    """The last axes together: of what remains, it normalises with other numbers."""
    x = call["input"]
    letters = list(range(len(x.shape)))
    last = letters[-len(call["normalized_shape"]) :]
    result = coupling.join(
        call, [(x, letters), (call["weight"], last), (call["bias"], last)], letters
    )
    coupling.inexact += [v for v in (result.along(axis) for axis in last) if v is not None]
    return result


@rule("group_norm")
def group_norm(coupling: Coupling, call: Call) -> Labels:
    """Channels of a group together; groups keep as many each."""
    x, groups = call["input"], call["num_groups"]
    letters = _letters(x, "n", "c")
    result = coupling.join(
        call, [(x, letters), (call["weight"], ["c"]), (call["bias"], ["c"])], letters, letters[2:]
    )
    channels = result.along(1)
    if channels is not None and groups < len(channels):
        rows = channels.reshape(groups, -1)
        coupling.tie(rows, rows[:1])
        coupling.inexact.append(channels)
    return result


@rule("cat", "concat", "concatenate")
def concatenation(coupling: Coupling, call: Call) -> Labels:
    """Side by side along one axis, along the others together."""
    tensors = [coupling.regular(t) for t in call["tensors"] if t.shape != (0,)]
    shape = call.shapes[0]
    axis = (call["dim"] or 0) % len(shape)
    letters = list(range(len(shape)))
    result = coupling.join(
        call, [(t, [*letters[:axis], (n,), *letters[axis + 1 :]]) for n, t in enumerate(tensors)],
        letters,
    )  # fmt: skip
    vectors = [t.along(axis) for t in tensors]
    if any(v is not None for v in vectors):
        whole = np.concatenate(
            [
                np.full(t.shape[axis], STAYS) if v is None else v
                for v, t in zip(vectors, tensors, strict=True)
            ]
        )
        result.parts.append(whole.reshape([-1 if a == axis else 1 for a in letters]))
    return result


@rule("stack")
def stack(coupling: Coupling, call: Call) -> Labels:
    """Side by side along a new axis."""
    tensors, rank = call["tensors"], len(call.shapes[0])
    axis = (call["dim"] or 0) % rank
    letters = [a for a in range(rank) if a != axis]
    return coupling.join(call, [(t, letters) for t in tensors], list(range(rank)))


def reduction(coupling: Coupling, call: Call) -> Any:
    """Means, sums, maxima over axes."""
    x = call["self"] if call["self"] is not None else call["input"]
    rank, dims = len(x.shape), call["dim"]
    dims = list(range(rank)) if dims is None or dims == [] else dims
    dims = {d % rank for d in (dims if isinstance(dims, list) else [dims])}
    letters = list(range(rank))
    if len(call.shapes) > 1 or len(call.labels) > 1:
        return pinned(coupling, call)
    kept = letters if call["keepdim"] else [a for a in letters if a not in dims]
    return coupling.join(call, [(x, letters)], kept, dims)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp")
def along_an_axis(coupling: Coupling, call: Call) -> Labels:
    """What mixes positions along one axis and keeps the shape."""
    (x,) = call.labels
    letters = list(range(len(x.shape)))
    return coupling.join(call, [(x, letters)], letters, [call["dim"] % len(letters)])


@rule("glu")
def glu(coupling: Coupling, call: Call) -> Labels:
    """The first half along an axis times the sigmoid of the second."""
    x = coupling.regular(call["self"])
    axis = call["dim"] % len(x.shape)
    half = call.shapes[0][axis]
    vector = x.along(axis)
    letters = list(range(len(x.shape)))
    if vector is None:
        return coupling.join(call, [(x, letters)], letters)
    coupling.tie(vector[:half], vector[half:])
    parts = [np.take(part, range(half), axis) if part.shape[axis] > 1 else part for part in x.parts]
    return Labels(call.shapes[0], parts)


@rule("prelu", "_prelu_kernel")
def prelu(coupling: Coupling, call: Call) -> Labels:
    """A slope for all channels, or for each."""
    x, weight = call["self"], call["weight"]
    letters = _letters(x, "n", "c")[: len(x.shape)]
    if len(weight.shape) != 1:
        return pointwise(coupling, call)
    return coupling.join(call, [(x, letters), (weight, ["c"])], letters)


@rule("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d")
def pad(coupling: Coupling, call: Call) -> Labels:
    """Along the padded axes labels stay."""
    (x,) = call.labels
    letters = list(range(len(x.shape)))
    padding = call["pad"] if call["pad"] is not None else call["padding"]
    padded = {letters[-1 - n // 2] for n, size in enumerate(padding) if size != 0}
    return coupling.join(call, [(x, letters)], letters, padded)


@rule("embedding")
def embedding(coupling: Coupling, call: Call) -> Labels:
    """Rows of a table."""
    weight, indices = call["weight"], call["indices"]
    others = list(range(len(indices.shape)))
    operands: Operands = [(weight, ["row", "c"]), (indices, others)]
    return coupling.join(call, operands, [*others, "c"], ["row", *others])


@rule("index")
def index(coupling: Coupling, call: Call) -> Labels:
    """Positions by tensors of indices: of the indexed axes everything stays."""
    x, indices = call["self"], call["indices"]
    for labels in indices:
        if labels is not None:
            coupling.pin(labels, call.op)
    places = [n for n, labels in enumerate(indices) if labels is not None]
    letters = list(range(len(x.shape)))
    rest = [axis for axis in letters if axis not in places]
    inserted = len(call.shapes[0]) - len(rest)
    together = places == list(range(places[0], places[0] + len(places)))
    at = places[0] if together else 0
    result = [*rest[:at], *(("new", n) for n in range(inserted)), *rest[at:]]
    return coupling.join(call, [(x, letters)], result, places)


def windows(axes: int) -> Callable[[Coupling, Call], Any]:
    """The rule of what mixes positions along the last axes: pools, interpolation."""

    def function(coupling: Coupling, call: Call) -> Any:
        x = call["self"] if call["self"] is not None else call["input"]
        letters = list(range(len(x.shape)))
        return [
            coupling.join(replace(call, shapes=[shape]), [(x, letters)], letters, letters[-axes:])
            for shape in call.shapes
        ]

    return function


for _axes in (1, 2, 3):
    rule(
        *(f"{kind}_pool{_axes}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp")),
        *(f"max_pool{_axes}d_with_indices", f"_adaptive_avg_pool{_axes}d"),
        *(f"upsample_{kind}{_axes}d" for kind in ("nearest", "_nearest_exact")),
        f"_upsample_nearest_exact{_axes}d",
    )(windows(_axes))
rule("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa")(windows(2))
rule("upsample_linear1d")(windows(1))
rule("upsample_trilinear3d")(windows(3))


@rule("zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones")
@rule("new_full", "new_empty")
def created(coupling: Coupling, call: Call) -> Labels:
    """Numbers that depend on no position: they are made in whatever size is needed."""
    labels = coupling.fresh(call.shapes[0])
    for axis, size in enumerate(call.written["size"]):
        if not isinstance(size, int):  # that of the batch
            labels.parts = [part for part in labels.parts if part.shape[axis] == 1]
    return labels


def pinned(coupling: Coupling, call: Call) -> Any:
    """The rule of all other operators."""
    for labels in call.labels:
        coupling.pin(labels, call.op)
    return [Labels(shape) for shape in call.shapes]


@dataclass
class Result:
    """What a node gave when it was run on labels."""

    results: list[Labels]
    call: Call | None = None  # None: no tensor, or the input


def coupled(program: Program, streams: bool = True) -> Program:
    """The program with layouts, groups and what is pinned. `streams`: whether channels may be
    removed that several convolutions or linear layers make, as those of residual streams."""
    coupling = Coupling()
    tensors = {name: coupling.fresh(t.shape, name) for name, t in program.stored.items()}
    traces = {
        form: traced(coupling, program, nodes, tensors) for form, nodes in program.forms.items()
    }
    forms = {form: list(nodes) for form, nodes in program.forms.items()}
    for _ in range(100):
        units = coupling.units()
        settled = not coupling.emptied(tensors.values(), units)
        for form, nodes in program.forms.items():
            forms[form], ragged = taken(coupling, nodes, traces[form], units)
            settled = settled and not ragged
            for labels in ragged:
                coupling.regular(labels)
        if settled:
            break
    return _finished(program, forms, traces, tensors, coupling, streams)


def traced(
    coupling: Coupling, program: Program, nodes: list[Node], tensors: dict[str, Labels]
) -> list[Result]:
    """Run the nodes on labels, and beside them on tensors without data for their shapes."""
    kinds = {name: getattr(torch, t.dtype) for name, t in program.stored.items()}
    empty = {
        name: torch.empty(t.shape, dtype=kinds[name], device="meta")
        for name, t in program.stored.items()
    }
    kind = next((k for k in kinds.values() if k.is_floating_point), torch.float32)
    images = torch.empty(BATCH, *program.input_shape, dtype=kind, device="meta")
    values: dict[int, Any] = {0: images}
    labels: dict[int, Any] = {0: Labels(tuple(images.shape))}
    trace = [Result([labels[0]])]
    for number, node in enumerate(nodes[1:], 1):
        run = function(node.op)
        args = filled(node.args, values, empty, images.device)
        kwargs = {k: filled(v, values, empty, images.device) for k, v in node.kwargs.items()}
        try:
            values[number] = run(*args, **kwargs)
        except Exception as error:
            raise StError(f"operator {node.op} cannot be run ({one_line(error)})") from error
        if node.op == "getitem" and isinstance(labels[node.args[0]["node"]], list):
            labels[number] = labels[node.args[0]["node"]][node.args[1]]
        found = values[number] if isinstance(values[number], list | tuple) else [values[number]]
        if not all(isinstance(value, torch.Tensor) for value in found):
            labels[number] = values[number]
            trace.append(Result([]))
            continue
        call = _call(node, run, args, kwargs, labels, tensors, [tuple(v.shape) for v in found])
        if number not in labels:
            result = _rule(node)(coupling, call)
            result = result if isinstance(result, list) else [result]
            labels[number] = result if isinstance(values[number], list | tuple) else result[0]
        result = labels[number]
        trace.append(Result(result if isinstance(result, list) else [result], call))
    (output,) = trace[-1].results
    coupling.pin(output, "the output")
    return trace


def _call(node, run, args, kwargs, labels, tensors, shapes) -> Call:
    device = torch.device("meta")
    plain = filled(node.args, labels, tensors, device)
    named = {name: filled(value, labels, tensors, device) for name, value in node.kwargs.items()}
    written = dict(node.kwargs)
    if node.op.startswith("aten."):
        schema = run._schema.arguments
        for argument, value, text in zip(schema, plain, node.args, strict=False):
            named[argument.name], written[argument.name] = value, text
        for argument in schema[len(plain) :]:
            if argument.name not in named:
                named[argument.name] = argument.default_value
    else:
        named["self"] = plain[0]
    return Call(node.name, named, written, shapes, lambda x: run(x, *args[1:], **kwargs))


def _rule(node: Node) -> Callable[[Coupling, Call], Any]:
    if node.name in RULES:
        return RULES[node.name]
    tags = getattr(function(node.op), "tags", ())
    if node.name in POINTWISE or torch.Tag.pointwise in tags or node.op == OUTPUT:
        return pointwise
    return reduction if torch.Tag.reduction in tags else pinned


def taken(
    coupling: Coupling, nodes: list[Node], trace: list[Result], units: np.ndarray
) -> tuple[list[Node], list[Labels]]:
    """The nodes, with a TAKE for each that brings channels into another order; and labels that must
    be made to depend on one axis, or were pinned now."""
    rooted = [[_rooted(labels, units) for labels in result.results] for result in trace]
    uneven = [not all(_even(labels.parts) for labels in found) for found in rooted]
    written = _written(nodes)
    result, ragged = list(nodes), []
    for number, node in enumerate(nodes):
        if not _moves(node) or uneven[number] or len(rooted[number]) != 1:
            continue
        path, source = [number], node.args[0].get("node")
        while source is not None and uneven[source] and _moves(nodes[source]):
            path.insert(0, source)
            source = nodes[source].args[0].get("node")
        if source is None or len(rooted[source]) != 1:
            continue
        before, after = rooted[source][0], rooted[number][0]
        if len(path) == 1 and (node.name not in REORDERED or _same(before, after)):
            continue
        found = None
        if written.get(_memory(nodes, number), -1) < path[0]:  # what is taken is a copy
            calls = [call for call in (trace[n].call for n in path) if call is not None]
            found = _take(calls, before.parts, after.parts)
        if found is not None:
            result[number] = Node(TAKE, [{"node": source}, *found])
        elif len(path) == 1:
            for labels in (before, after):
                coupling.pin(labels, node.name)
                ragged.append(labels)
    for number in _live(result):
        if uneven[number]:
            ragged += rooted[number]
    return result, ragged


def _writes(node: Node) -> bool:
    schema = getattr(function(node.op), "_schema", None)
    return schema is not None and schema.is_mutable


def _memory(nodes: list[Node], number: int) -> int:
    """The node that made the tensor which a node's result may be a view of."""
    while nodes[number].args and isinstance(nodes[number].args[0], dict):
        if (
            not (_moves(nodes[number]) or _writes(nodes[number]))
            or "node" not in nodes[number].args[0]
        ):
            break
        number = nodes[number].args[0]["node"]
    return number


def _written(nodes: list[Node]) -> dict[int, int]:
    """By the node that made it, the last node that writes into a tensor."""
    return {
        _memory(nodes, number): number
        for number, node in enumerate(nodes)
        if number and _writes(node)
    }


def _moves(node: Node) -> bool:
    return node.name in MOVES or node.op == "getitem"


def _rooted(labels: Labels, units: np.ndarray) -> Labels:
    """Labels with units in their place, without those that stay."""
    parts = [_compact(torch.from_numpy(units[part])) for part in labels.parts]
    return replace(labels, parts=[part for part in parts if part.any()])


def _even(parts: list[np.ndarray]) -> bool:
    """Whether each part depends on one axis, another one each."""
    axes = [axis for part in parts for axis, size in enumerate(part.shape) if size > 1]
    return len(axes) == len(parts) == len(set(axes))


def _same(one: Labels, other: Labels) -> bool:
    """Whether the same labels lie along the same axes."""
    return [[p.shape, p.tobytes()] for p in one.parts] == [
        [p.shape, p.tobytes()] for p in other.parts
    ]


def _take(
    calls: list[Call], source: list[np.ndarray], result: list[np.ndarray]
) -> tuple[int, list[int]] | None:
    """(axis, positions) if these calls do nothing else than to take positions along the axis of the
    source's channels."""
    shape, new = calls[0].labels[0].shape, calls[-1].shapes[0]
    if len(source) != 1 or len(result) > 1 or len(shape) != len(new):
        return None
    axis = source[0].shape.index(source[0].size)
    if any(
        one != other for a, (one, other) in enumerate(zip(shape, new, strict=True)) if a != axis
    ):
        return None
    if result and result[0].shape[axis] != result[0].size:
        return None
    numbers = torch.arange(int(np.prod(shape))).reshape(shape)
    moved_numbers: Any = numbers
    for call in calls:
        moved_numbers = call.run(moved_numbers)
    step = numbers.stride(axis)
    line = moved_numbers.movedim(axis, 0).reshape(new[axis], -1)[:, 0]
    positions = line // step % shape[axis]
    if not torch.equal(numbers.index_select(axis, positions), moved_numbers):
        return None
    return axis, positions.tolist()


def _live(nodes: list[Node]) -> set[int]:
    """The nodes that compute something, and what they read."""
    live = {number for number, node in enumerate(nodes) if not _moves(node)}
    for number in reversed(range(len(nodes))):
        if number in live:
            live |= set(uses(nodes[number]))
    return live


def _finished(
    program: Program,
    forms: dict[str, list[Node]],
    traces: dict[str, list[Result]],
    tensors: dict[str, Labels],
    coupling: Coupling,
    streams: bool,
) -> Program:
    """The program with everything that was found."""
    units = coupling.units()
    axes = {
        name: [
            units[labels.along(axis)] if size > 1 else None
            for axis, size in enumerate(labels.shape)
        ]
        for name, labels in tensors.items()
    }
    live = {form: sorted(_live(nodes) | {0}) for form, nodes in forms.items()}
    results = {
        form: {n: [_vectors(_rooted(r, units)) for r in traces[form][n].results] for n in numbers}
        for form, numbers in live.items()
    }
    producers = list(dict.fromkeys(coupling.roles["producers"]))
    owners = _owners(axes, producers)
    if not streams:
        owners = {
            name: found for name, found in owners.items() if not _stream(found, axes, program)
        }
    every = [vector for found in axes.values() for vector in found if vector is not None]
    for numbers in results.values():
        for found in numbers.values():
            every += [vector for result in found for vector in result if vector is not None]
    owners = _uniform(owners, every)
    number = np.full(coupling.count, FIXED)
    groups, first = {}, 0
    for name, members in owners.items():
        number[members] = first + np.arange(len(members))
        inexact = any(np.isin(units[labels], members).any() for labels in coupling.inexact)
        groups[name] = Units(
            name, "channels", len(members), _normed(members, axes, coupling.roles["norms"]),
            _measured(members, axes, producers, program), first, not inexact,
        )  # fmt: skip
        first += len(members)
    table: dict[bytes, int] = {}
    layouts: list[list[int]] = []

    def layout(vector: np.ndarray | None) -> int | None:
        vector = None if vector is None else number[vector]
        if vector is None or (vector == FIXED).all():
            return None
        if vector.tobytes() not in table:
            table[vector.tobytes()] = len(layouts)
            layouts.append(vector.tolist())
        return table[vector.tobytes()]

    stored = {
        name: replace(t, layout=[layout(vector) for vector in axes[name]])
        for name, t in program.stored.items()
    }
    complete = {}
    for form, nodes in forms.items():
        places = {old: new for new, old in enumerate(live[form])}
        complete[form] = [
            _settled(
                replace(
                    nodes[old],
                    args=_renumbered(nodes[old].args, places),
                    kwargs={k: _renumbered(v, places) for k, v in nodes[old].kwargs.items()},
                    shapes=[list(labels.shape) for labels in traces[form][old].results],
                    layouts=[[layout(v) for v in found] for found in results[form][old]],
                ),
                _first_shape(traces[form][old]),
            )
            for old in live[form]
        ]
    return replace(
        program,
        forms=complete,
        stored=stored,
        layouts=layouts,
        groups=groups,
        pinned=_pinned(coupling, tensors),
    )


Axes = dict[str, list[np.ndarray | None]]  # per tensor and axis the units of its positions


def _vectors(labels: Labels) -> list[np.ndarray | None]:
    """Per axis the units of its positions."""
    found: list[np.ndarray | None] = [None] * len(labels.shape)
    for part in labels.parts:
        found[part.shape.index(part.size)] = part.reshape(-1)
    return found


def _uniform(owners: dict[str, np.ndarray], every: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Groups of units that occur equally often along each axis, so that costs depend on widths
    alone, and that no axis becomes empty while each group keeps a unit."""
    columns = {vector.tobytes(): vector for vector in every}
    size = 1 + max((int(vector.max()) for vector in columns.values()), default=0)
    counts = np.array([np.bincount(v, minlength=size) for v in columns.values()]).T
    result = {}
    for name, members in owners.items():
        kinds, which = np.unique(counts[members], axis=0, return_inverse=True)
        which = which.reshape(-1)
        order = sorted(range(len(kinds)), key=lambda kind: int(np.flatnonzero(which == kind)[0]))
        for place, kind in enumerate(order):
            part = f"{name}:{place}" if len(kinds) > 1 else name
            found = members[which == kind]
            if len(found) > 1:  # a single unit must remain
                result[part] = found
    return result


def _along(found: list[np.ndarray | None], axis: int, members: np.ndarray) -> bool:
    """Whether the units are those of positions along an axis."""
    vector = found[axis] if axis < len(found) else None
    return vector is not None and bool(np.isin(vector, members).any())


def _output_axis(name: str, program: Program) -> int:
    """The axis of a weight along which what it makes lies."""
    return 1 if program.stored[name].role == "transposed" else 0


def _normed(members: np.ndarray, axes: Axes, norms: list[str]) -> list[str]:
    """The scales that these units are normalised with."""
    return [name for name in dict.fromkeys(norms) if _along(axes[name], 0, members)]


def _measured(
    members: np.ndarray, axes: Axes, producers: list[str], program: Program
) -> list[tuple[str, int]]:
    """The weights that make these units, or else any that have them, and the axis."""
    made = [
        (name, _output_axis(name, program))
        for name in dict.fromkeys(producers)
        if _along(axes[name], _output_axis(name, program), members)
    ]
    anywhere = [
        (name, axis)
        for name, found in axes.items()
        for axis in range(len(found))
        if program.stored[name].role != "buffer" and _along(found, axis, members)
    ]
    return made or anywhere


def _stream(members: np.ndarray, axes: Axes, program: Program) -> bool:
    """Whether several layers make these units, other than depthwise ones."""
    makers = [
        name
        for name, t in program.stored.items()
        if t.role in ("convolution", "transposed", "linear")  # and not depthwise
        and _along(axes[name], _output_axis(name, program), members)
        and not _along(axes[name], 1 - _output_axis(name, program), members)
    ]
    return len(makers) > 1


def _owners(axes: Axes, producers: list[str]) -> dict[str, np.ndarray]:
    """Groups by name: units that one layer makes, and what is tied to them by that; those that no
    layer makes, by the tensor that has them. A group of one unit is none: it must remain."""
    vectors = [(name.removesuffix(".weight"), axes[name][0]) for name in dict.fromkeys(producers)]
    made = {unit for _, v in vectors if v is not None for unit in v}
    vectors += [
        (f"{name}.{axis}", np.where(np.isin(v, list(made)), STAYS, v))
        for name, found in axes.items()
        for axis, v in enumerate(found)
        if v is not None
    ]
    owner: dict[int, str] = {}
    members: dict[str, set[int]] = {}
    for name, vector in vectors:
        new = set() if vector is None else set(vector.tolist()) - {STAYS}
        if not new:
            continue
        joined = list(dict.fromkeys(owner[unit] for unit in sorted(new) if unit in owner)) or [name]
        keeper = members.setdefault(joined[0], set())
        for other in joined[1:]:
            keeper |= members.pop(other)
        keeper |= new
        owner.update(dict.fromkeys(keeper, joined[0]))
    return {name: np.array(sorted(found)) for name, found in members.items() if len(found) > 1}


def _pinned(coupling: Coupling, tensors: dict[str, Labels]) -> dict[str, int]:
    """By operator, how many channels of convolutions and linear layers it keeps from being removed.
    Of several that pin the same channels the first counts."""
    units = coupling.units(pinned=False)
    because: dict[int, str] = {}
    for labels, op in coupling.pins:
        for unit in set(units[labels].tolist()):
            because.setdefault(unit, op)
    found: Counter[str] = Counter()
    for name in dict.fromkeys(coupling.roles["producers"]):
        channels = tensors[name].along(0)
        if channels is not None:
            found.update(because[u] for u in units[channels].tolist() if u in because)
    return dict(found)


def _first_shape(result: Result) -> tuple[int, ...]:
    """The shape of a node's first tensor."""
    return result.call.labels[0].shape if result.call and result.call.labels else ()


def _renumbered(argument: Any, places: dict[int, int]) -> Any:
    if isinstance(argument, list):
        return [_renumbered(part, places) for part in argument]
    if isinstance(argument, dict) and "node" in argument:
        return {"node": places[argument["node"]]}
    return argument


def _settled(node: Node, shape: Sequence[int]) -> Node:
    """The node with what it takes from its input's `shape` as arguments, as that may change."""
    if node.name in SPLITS:
        axis = _dim(node) % len(node.shapes[0])
        sizes = [result[axis] for result in node.shapes]
        args = [node.args[0], sizes, axis]
        return replace(node, op="aten.split_with_sizes.default", args=args, kwargs={})
    if node.op == "aten.squeeze.default":
        axes = [axis for axis, size in enumerate(shape) if size == 1]
        return replace(node, op="aten.squeeze.dims", args=[node.args[0], axes])
    if node.name == "scaled_dot_product_attention" and node.kwargs.get("scale") is None:
        return replace(node, kwargs={**node.kwargs, "scale": shape[-1] ** -0.5})
    return node


def _dim(node: Node) -> int:
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
