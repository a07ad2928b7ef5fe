"""Which channels of a program can be removed, and which only together: see labels.py."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from st.networks.imported.labels import STAYS, Coupling, Labels, Result
from st.networks.imported.moves import live, rooted, taken
from st.networks.imported.rules import SPLITS
from st.networks.imported.tracing import traced
from st.networks.program import FIXED, Node, Program, Units


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
    alive = {form: sorted(live(nodes) | {0}) for form, nodes in forms.items()}
    results = {
        form: {n: [_vectors(rooted(r, units)) for r in traces[form][n].results] for n in numbers}
        for form, numbers in alive.items()
    }
    producers = list(dict.fromkeys(coupling.roles["producers"]))
    owners = _owners(axes, producers, program)
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
        places = {old: new for new, old in enumerate(alive[form])}
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
            for old in alive[form]
        ]
    return replace(
        program,
        forms=complete,
        stored=stored,
        layouts=layouts,
        groups=groups,
        pinned=_pinned(coupling, tensors, program),
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
        for name in producers
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


def _owners(axes: Axes, producers: list[str], program: Program) -> dict[str, np.ndarray]:
    """Groups by name: units that one layer makes, and what is tied to them by that; those that no
    layer makes, by the tensor that has them. A group of one unit is none: it must remain."""
    vectors = [
        (name.removesuffix(".weight"), axes[name][_output_axis(name, program)])
        for name in producers
    ]
    made = {unit for _, v in vectors if v is not None for unit in v}
    vectors += [
        (f"{name}.{axis}", np.where(np.isin(v, list(made)), STAYS, v))
        for name, found in axes.items()
        for axis, v in enumerate(found)
        if v is not None and program.stored[name].role != "buffer"
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


def _pinned(coupling: Coupling, tensors: dict[str, Labels], program: Program) -> dict[str, int]:
    """By operator, how many channels of convolutions and linear layers it keeps from being removed.
    Of several that pin the same channels the first counts."""
    units = coupling.units(pinned=False)
    because: dict[int, str] = {}
    for labels, op in coupling.pins:
        for unit in set(units[labels].tolist()):
            because.setdefault(unit, op)
    found: Counter[str] = Counter()
    for name in dict.fromkeys(coupling.roles["producers"]):
        channels = tensors[name].along(_output_axis(name, program))
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
    if node.op.startswith("aten.squeeze."):
        told = node.args[1] if len(node.args) > 1 else range(len(shape))
        named = [told] if isinstance(told, int) else told
        axes = [axis % len(shape) for axis in named if shape[axis] == 1]
        return replace(node, op="aten.squeeze.dims", args=[node.args[0], axes])
    if node.name == "scaled_dot_product_attention" and node.kwargs.get("scale") is None:
        return replace(node, kwargs={**node.kwargs, "scale": shape[-1] ** -0.5})
    return node


def _dim(node: Node) -> int:
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
