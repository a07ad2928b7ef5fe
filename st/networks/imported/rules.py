"""What operators do to labels.

What moves entries (views, permutations, slices) is executed on the labels as it is and needs no
rule of its own. Sums, products and depthwise convolutions tie labels; what mixes positions along an
axis, and every operator that has no rule, pins them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from st.networks.imported.labels import (
    ANY,
    STAYS,
    Call,
    Coupling,
    Labels,
    Operands,
    compact,
    multiplied,
)
from st.networks.program import TAKE

RULES: dict[str, Callable[[Coupling, Call], Any]] = {}


def rule(*names: str):
    """Decorator: the rule of these operators."""

    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def letters_of(labels: Labels, *named: Any) -> list[Any]:
    """The named letters, and one of its own for each further axis."""
    return [*named, *(("own", axis) for axis in range(len(named), len(labels.shape)))]


def pointwise(coupling: Coupling, call: Call) -> Labels:
    """Sums, products, activations: axes are aligned from the last on."""
    tensors = call.labels
    rank, shape = len(call.shapes[0]), call.shapes[0]
    if len(tensors) == 1 and tensors[0].shape == shape:
        result = replace(tensors[0], tensor="")
        return result if call.zero({id(tensors[0])}) else result.filled
    operands = [(t, range(rank - len(t.shape), rank)) for t in tensors]

    def zero(told: tuple[bool | None, ...]) -> bool:
        return call.zero({id(t) for t, is_zero in zip(tensors, told, strict=True) if is_zero})

    result = coupling.join(call, operands, range(rank), zero=zero)
    origins = {t.origin for t in tensors if t.origin and t.shape == shape}
    result.origin = origins.pop() if len(origins) == 1 else ""
    return result


# pointwise operators that torch does not tag as such
POINTWISE = {"hardswish", "dropout", "feature_dropout", "alpha_dropout", "native_dropout", "copy"}
POINTWISE |= {"bernoulli", "fill", "masked_fill", "to", "_to_copy", "clamp", "zeros_like", "fill_"}
POINTWISE |= {"ones_like", "full_like", "empty_like", "rand_like", "randn_like", "softplus", "selu"}
POINTWISE |= {"celu", "rrelu", "type_as", "expand_as", "zero", "dropout1d", "feature_alpha_dropout"}
POINTWISE |= {"log_sigmoid", "where", "floor_divide"}

# What moves entries. Those of the first line keep their order, so that they do the same to what
# remains of a tensor, given its sizes.
ORDERED = {"view", "reshape", "_unsafe_view", "permute", "transpose", "t", "squeeze", "unsqueeze"}
ORDERED |= {"flatten", "unflatten", "expand", "contiguous", "clone", "detach", "alias", "movedim"}
ORDERED |= {"swapaxes", "swapdims", "unbind", "lift_fresh_copy", "moveaxis", "mT"}
ORDERED |= {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split"}
ORDERED |= {"select", "lift_fresh", "matrix_H", "mH", "adjoint", "numpy_T", "broadcast_to"}
ORDERED |= {"atleast_1d", "atleast_2d", "atleast_3d"}
ORDERED |= {"pixel_shuffle", "pixel_unshuffle", "repeat", "tile", "repeat_interleave"}
REORDERED = {TAKE, "slice", "narrow", "roll", "flip", "channel_shuffle", "native_channel_shuffle"}
REORDERED |= {"rot90", "fliplr", "flipud"}
MOVES = ORDERED | REORDERED
SPLITS = {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split"}


@rule(*MOVES)
def moved(coupling: Coupling, call: Call) -> Any:
    """What moves entries is executed on the labels."""
    (labels, *_) = call.labels
    results = [Labels(shape) for shape in call.shapes]
    sizes = call.written.get("size", call.written.get("shape", ()))
    computed = [axis for axis, size in enumerate(sizes or ()) if isinstance(size, dict)]
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
            values = compact(moved_part)
            for axis in computed:
                # shared with images: its size was computed from all channels, so they are as one
                if values.ndim > axis and values.shape[axis] > 1:
                    first = np.take(values, [0], axis)
                    coupling.tie(values, first)
                    values = first
            if values.size > 1:
                result.parts.append(values)
            else:
                coupling.pin(values, call.op)
    return results


@rule("reshape_as", "view_as")
def reshaped_as(coupling: Coupling, call: Call) -> Labels:
    """The form of another tensor, whose axes are then the same."""
    _, other = call.labels
    (result,) = moved(coupling, call)
    letters = list(range(len(result.shape)))
    return coupling.join(
        call, [(result, letters), (other, letters)], letters, zero=lambda told: bool(told[0])
    )


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


@rule("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d")
def pad(coupling: Coupling, call: Call) -> Labels:
    """Along the padded axes labels stay."""
    (x,) = call.labels
    letters = list(range(len(x.shape)))
    padding = call["pad"] if call["pad"] is not None else call["padding"]
    padded = {letters[-1 - n // 2] for n, size in enumerate(padding) if size != 0}
    x = x.filled if call["value"] else x
    return coupling.join(call, [(x, letters)], letters, padded)


@rule("embedding")
def embedding(coupling: Coupling, call: Call) -> Labels:
    """Rows of a table."""
    weight, indices = call["weight"], call["indices"]
    others = list(range(len(indices.shape)))
    operands: Operands = [(weight, ["row", "c"]), (indices, others)]
    return coupling.join(call, operands, [*others, "c"], ["row", *others], multiplied(2))


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


@rule("unfold")
def unfold(coupling: Coupling, call: Call) -> Labels:
    """Windows along one axis as a further axis."""
    x = call["self"]
    letters = list(range(len(x.shape)))
    axis = call["dimension"] % len(letters)
    return coupling.join(call, [(x, letters)], [*letters, "window"], [axis])


@rule("im2col")
def im2col(coupling: Coupling, call: Call) -> Labels:
    """Windows of maps: each channel as often as a kernel has places."""
    x = coupling.regular(call["self"])
    batch = len(x.shape) - 3
    return _repeated(coupling, call, x, batch, int(np.prod(call["kernel_size"])))


def _repeated(coupling: Coupling, call: Call, x: Labels, axis: int, times: int) -> Labels:
    """The channels along an axis, each several times; whatever lies along others stays."""
    for other in range(len(x.shape)):
        coupling.pin(x.along(other) if other != axis else None, call.op)
    channels, shape = x.along(axis), [1] * len(call.shapes[0])
    if channels is None:
        return Labels(call.shapes[0])
    shape[axis] = -1
    return Labels(call.shapes[0], [np.repeat(channels, times).reshape(shape)])


@rule("col2im")
def col2im(coupling: Coupling, call: Call) -> Labels:
    """The sums of windows."""
    x = coupling.regular(call["self"])
    axis, times = len(x.shape) - 2, int(np.prod(call["kernel_size"]))
    channels = x.along(axis)
    if channels is None:
        return _repeated(coupling, call, x, axis, 1)
    rows = channels.reshape(-1, times)
    coupling.tie(rows, rows[:, :1])
    one = rows[:, 0] | (rows & ANY).max(1)
    one = one.reshape([-1 if a == axis else 1 for a in range(len(x.shape))])
    shape = tuple(size // times if a == axis else size for a, size in enumerate(x.shape))
    others = [part for part in x.parts if part.shape[axis] == 1]
    return _repeated(coupling, call, Labels(shape, [*others, one]), axis, 1)


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
rule("tril", "triu")(windows(2))
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
    return labels if "zeros" in call.op else labels.filled


def pinned(coupling: Coupling, call: Call) -> Any:
    """The rule of all other operators."""
    for labels in call.labels:
        coupling.pin(labels, call.op)
    return [Labels(shape) for shape in call.shapes]
