"""Runs a program on labels: see labels.py."""

from collections.abc import Callable, Collection
from typing import Any

import torch

from st.core.errors import StError, one_line
from st.networks.imported import products  # noqa: F401  its rules
from st.networks.imported.labels import ANY, Call, Coupling, Labels, Result
from st.networks.imported.rules import POINTWISE, RULES, pinned, pointwise
from st.networks.imported.statistics import reduction
from st.networks.program import BATCH, OUTPUT, Node, Program, named, uses
from st.networks.running import filled, function, memory, writes


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
    used: dict[int, set[int]] = {}
    for node in nodes:
        if node.op == "getitem":
            used.setdefault(node.args[0]["node"], set()).add(node.args[1])
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
        call = _call(
            node, run, args, kwargs, labels, tensors, [tuple(v.shape) for v in found],
            _zero(node, run, values, empty, labels, tensors), used.get(number, set()),
        )  # fmt: skip
        if number not in labels:
            result = rule_of(node)(coupling, call)
            result = result if isinstance(result, list) else [result]
            labels[number] = result if isinstance(values[number], list | tuple) else result[0]
        result = labels[number]
        if (
            writes(node)
            and isinstance(result, Labels)
            and any((p & ANY).any() for p in result.parts)
        ):
            _fill(nodes, number, labels)
        trace.append(Result(result if isinstance(result, list) else [result], call))
    (output,) = trace[-1].results
    coupling.pin(output, "the output")
    return trace


def _call(node, run, args, kwargs, labels, tensors, shapes, zero, used) -> Call:
    device = torch.device("meta")
    plain = filled(node.args, labels, tensors, device)
    given = {name: filled(value, labels, tensors, device) for name, value in node.kwargs.items()}
    written = dict(node.kwargs)
    if node.op.startswith("aten."):
        schema = run._schema.arguments
        for argument, value, text in zip(schema, plain, node.args, strict=False):
            given[argument.name], written[argument.name] = value, text
        for argument in schema[len(plain) :]:
            if argument.name not in given:
                given[argument.name] = argument.default_value
    else:
        given["self"] = plain[0]
    move = lambda x: run(x, *args[1:], **kwargs)  # noqa: E731
    return Call(node.name, given, written, shapes, move, zero, used)


def _fill(nodes: list[Node], number: int, labels: dict[int, Any]) -> None:
    """After a call that writes what is not zero: whatever shares its memory is not, either."""
    held = memory(nodes, number)
    for other in range(1, number):
        if isinstance(labels[other], Labels) and memory(nodes, other) == held:
            labels[other] = labels[other].filled


def _zero(
    node: Node, run: Callable, values: dict, empty: dict, labels: dict, tensors: dict
) -> Callable[[Collection[int]], bool]:
    """What a call says of zeros (see Call): it is tried with two entries along each axis."""

    def zero(where: Collection[int]) -> bool:
        # often enough that no result is zero by chance
        return all(tried(where, torch.Generator().manual_seed(seed)) for seed in range(8))

    def tried(where: Collection[int], numbers: torch.Generator) -> bool:
        def sample(value: Any, told: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            shape = [min(size, 2) for size in value.shape]
            drawn = (
                torch.zeros(shape) if id(told) in where else torch.randn(shape, generator=numbers)
            )
            return (drawn > 0 if value.dtype == torch.bool else 4 * drawn).to(value.dtype)

        results = {n: sample(values[n], labels[n]) for n in uses(node)}
        stored = {name: sample(empty[name], tensors[name]) for name in named(node)}
        device = torch.device("cpu")
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.set_state(numbers.get_state())
                result = run(
                    *filled(node.args, results, stored, device),
                    **{k: filled(v, results, stored, device) for k, v in node.kwargs.items()},
                )
        except Exception:  # it wants other sizes
            return False
        found = result if isinstance(result, list | tuple) else [result]
        return all(isinstance(part, torch.Tensor) and not part.any() for part in found)

    return zero


def rule_of(node: Node) -> Callable[[Coupling, Call], Any]:
    """Its rule; without one of its own that of what torch says of the operator."""
    if node.name in RULES:
        return RULES[node.name]
    tags = getattr(function(node.op), "tags", ())
    if node.name in POINTWISE or torch.Tag.pointwise in tags or node.op == OUTPUT:
        return pointwise
    return reduction if torch.Tag.reduction in tags else pinned
