"""What statistics do to labels: normalisations, means, sums, maxima, softmax."""

from dataclasses import replace
from typing import Any

import numpy as np

from st.networks.imported.labels import ANY, Call, Coupling, Labels, Operands, multiplied
from st.networks.imported.rules import letters_of, pinned, pointwise, rule


@rule("batch_norm", "instance_norm")
def batch_norm(coupling: Coupling, call: Call) -> Labels:
    """Each channel for itself."""
    x = call["input"]
    coupling.role("norms", call["weight"])
    names = ("weight", "bias", "running_mean", "running_var")
    letters = letters_of(x, "n", "c")
    # a channel that is zero has mean zero
    scaled = lambda told: (told[0] or bool(told[1])) and told[2] is not False  # noqa: E731
    operands = [(x, letters), *((call[name], ["c"]) for name in names)]
    if call["running_mean"] is not None:
        return coupling.join(call, operands, letters, letters[2:], scaled)
    # weights may be normalised, whose positions are other channels: as in layer_norm
    result = coupling.join(call, operands, letters, (), scaled)
    coupling.inexact += [v for axis in letters[2:] if (v := result.along(axis[1])) is not None]
    return result


@rule("layer_norm", "rms_norm")
def layer_norm(coupling: Coupling, call: Call) -> Labels:
    """The last axes together: of what remains, it normalises with other numbers."""
    x = call["input"]
    letters = list(range(len(x.shape)))
    last = letters[-len(call["normalized_shape"]) :]
    operands: Operands = [(x.filled, letters), (call["weight"], last), (call["bias"], last)]
    result = coupling.join(call, operands, letters, (), multiplied(2))
    coupling.inexact += [v for v in (result.along(axis) for axis in last) if v is not None]
    return result


@rule("group_norm")
def group_norm(coupling: Coupling, call: Call) -> Labels:
    """Channels of a group together; groups keep as many each."""
    x, groups = call["input"], call["num_groups"]
    letters = letters_of(x, "n", "c")
    operands: Operands = [
        (x if groups == x.shape[1] else x.filled, letters),
        (call["weight"], ["c"]),
        (call["bias"], ["c"]),
    ]
    result = coupling.join(call, operands, letters, letters[2:], multiplied(2))
    channels = result.along(1)
    if channels is not None and groups < len(channels):
        rows = channels.reshape(groups, -1)
        coupling.tie(rows, rows[:1])
        coupling.inexact.append(channels)
    return result


# Reductions to which zeros add nothing, and others that make sense of what remains, too: as those
# within hand-written normalisations.
SUMS = {"sum", "nansum", "norm", "linalg_vector_norm", "any"}


STATISTICS = {"mean", "nanmean", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min"}


def reduction(coupling: Coupling, call: Call) -> Any:
    """Means, sums, maxima over axes."""
    x = call["self"] if call["self"] is not None else call["input"]
    rank, dims = len(x.shape), call["dim"]
    dims = list(range(rank)) if dims is None or dims == [] else dims
    dims = {d % rank for d in (dims if isinstance(dims, list) else [dims])}
    letters = list(range(rank))
    several = len(call.shapes) > 1 and (call.op not in STATISTICS or places(call))
    if len(call.labels) > 1 or several:
        return pinned(coupling, call)
    kept = letters if call["keepdim"] else [a for a in letters if a not in dims]
    order = next((call[name] for name in ("ord", "p") if call[name] is not None), 1)
    mixed, regular = dims, coupling.regular(x)
    if call.op in STATISTICS or (call.op in SUMS and order > 0):
        for vector in (v for axis in dims if (v := regular.along(axis)) is not None):
            every = call.op in STATISTICS
            coupling.inexact.append(vector if every else vector[vector & ANY == ANY])
        mixed = set()
        regular.parts = [p for p in regular.parts if p.shape.index(p.size) not in dims]
    zero = call.zero({id(x)})
    result = coupling.join(call, [(regular, letters)], kept, mixed, lambda _: zero)
    return [replace(result, shape=shape) for shape in call.shapes]


def places(call: Call) -> bool:
    """Whether of maxima their places are used."""
    return call.op in ("max", "min") and 1 in call.used


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp")
def along_an_axis(coupling: Coupling, call: Call) -> Labels:
    """What mixes positions along one axis and keeps the shape."""
    (x,) = call.labels
    letters = list(range(len(x.shape)))
    x = x if call.zero({id(x)}) else x.filled
    return coupling.join(call, [(x, letters)], letters, [call["dim"] % len(letters)])


@rule("sort", "argsort", "cummax", "cummin", "topk", "kthvalue", "median", "nanmedian", "mode")
@rule("argmax", "argmin")
def ranked(coupling: Coupling, call: Call) -> Any:
    """Values by their order along one axis, and their places."""
    x, rank = call["self"], len(call["self"].shape)
    if call["dim"] is None or len(call.labels) > 1:
        return pinned(coupling, call)
    axis, results = call["dim"] % rank, []
    for shape in call.shapes:
        kept = [a for a in range(rank) if len(shape) == rank or a != axis]
        each = replace(call, shapes=[shape])
        results.append(coupling.join(each, [(x.filled, range(rank))], kept, [axis]))
    return results


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
    letters = letters_of(x, "n", "c")[: len(x.shape)]
    if len(weight.shape) != 1:
        return pointwise(coupling, call)
    return coupling.join(
        call, [(x, letters), (weight, ["c"])], letters, zero=lambda told: bool(told[0])
    )
