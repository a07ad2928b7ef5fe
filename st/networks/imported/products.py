"""What products do to labels: convolutions, linear layers, matrix products, attention."""

from typing import Any

import numpy as np

from st.networks.imported.labels import ANY, STAYS, Call, Coupling, Labels, Operands, multiplied
from st.networks.imported.rules import pinned, rule
from st.networks.program import CONVOLUTIONS, TRANSPOSED


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
            multiplied(2),
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
        coupling.inexact.append(read[(read & inner & ANY) == ANY])
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
    return coupling.join(call, operands, result, ["n", *places, *kernel], multiplied(2))


@rule("linear")
def linear(coupling: Coupling, call: Call) -> Labels:
    """The last axis is read, other axes stay as they are."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    coupling.role("producers", weight)
    others: list[Any] = list(range(len(x.shape) - 1))
    operands: Operands = [(x, [*others, "in"]), (weight, ["out", "in"]), (bias, ["out"])]
    return coupling.join(call, operands, [*others, "out"], (), multiplied(2))


@rule("bilinear")
def bilinear(coupling: Coupling, call: Call) -> Labels:
    """The last axes of two tensors are read, others stay as they are."""
    one, other, weight, bias = call["input1"], call["input2"], call["weight"], call["bias"]
    coupling.role("producers", weight)
    others: list[Any] = list(range(len(one.shape) - 1))
    operands: Operands = [
        (one, [*others, "in"]), (other, [*others, "in too"]),
        (weight, ["out", "in", "in too"]), (bias, ["out"]),
    ]  # fmt: skip
    return coupling.join(call, operands, [*others, "out"], (), multiplied(3))


@rule("matmul", "mm", "bmm", "baddbmm", "addmm", "mv", "addmv", "dot", "vdot", "inner")
def product(coupling: Coupling, call: Call) -> Labels:
    """Products of matrices and vectors."""
    *added, one, other = call.labels
    rank = len(call.shapes[0])
    if call.op == "inner" and max(len(one.shape), len(other.shape)) > 1:
        return pinned(coupling, call)
    row = ["row"] if len(one.shape) > 1 else []
    column = ["column"] if len(other.shape) > 1 else []
    batch = list(range(rank - len(row + column)))

    def letters(labels: Labels, own: list[str]) -> list[Any]:
        return [*batch[len(batch) - len(labels.shape) + len(own) :], *own]

    result = [*batch, *row, *column]
    operands: Operands = [
        (one, letters(one, [*row, "in"])),
        (other, letters(other, ["in", *column])),
        *((a, result[rank - len(a.shape) :]) for a in added),
    ]
    return coupling.join(call, operands, result, (), multiplied(2))


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
    return coupling.join(call, operands, result, (), multiplied(len(operands)))


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
    mixed = ["s", *(others[-1:] if call["enable_gqa"] else ())]  # fewer heads of keys
    return coupling.join(
        call, operands, [*others, "l", "v"], mixed, lambda told: bool(told[2])
    )  # values are averaged


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(coupling: Coupling, call: Call) -> Any:
    """Weights of a length of its own along one axis, to which zeros add nothing."""
    v, g = call["v"], call["g"]
    letters = list(range(len(v.shape)))
    result = coupling.join(call, [(v, letters), (g, letters)], letters, zero=multiplied(2))
    result.origin = v.origin
    return [result, *(Labels(shape) for shape in call.shapes[1:])]
