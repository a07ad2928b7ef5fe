"""Imported networks as files have them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from st.core.errors import StError
from st.networks.program import FIXED, INPUT, OUTPUT, Node, Program, named, uses

VERSION = 1
MOST_POSITIONS = 10**8
_PROGRAM = TypeAdapter(Program)
_RUNS = TypeAdapter(list[list[tuple[int, int, int]]])


def to_json(program: Program) -> dict[str, Any]:
    """As a file has it; `from_json` reads it back."""
    nodes = {form: [_brief(node) for node in nodes] for form, nodes in program.forms.items()}
    runs = [_runs(layout) for layout in program.arrays]
    return {"version": VERSION, **asdict(program), "forms": nodes, "layouts": runs}


def from_json(data: Any) -> Program:
    """Read `to_json`'s data; raises StError if it is none, or does not fit together."""
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise StError(f"'program' is not one of version {VERSION}; import the network again")
    try:
        told = {key: value for key, value in data.items() if key != "version"}
        runs = _RUNS.validate_python(told.get("layouts"))
        if sum(count for layout in runs for _, _, count in layout) > MOST_POSITIONS:
            raise ValueError("layouts are too long")
        layouts = [
            [start + step * n for start, step, count in layout for n in range(count)]
            for layout in runs
        ]
        program = _PROGRAM.validate_python({**told, "layouts": layouts})
        _verify(program)
    except (ValidationError, ValueError, KeyError, IndexError, TypeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise StError(f"'program' is damaged ({what}); import the network again") from error
    return program


def _verify(program: Program) -> None:
    """Raise ValueError, or what indices raise, unless all parts fit together."""
    first = 0
    for name, group in program.groups.items():
        _require(group.name == name and group.size > 0 and group.first == first, name)
        first += group.size
        for tensor, axis in group.members:
            _require(program.stored[tensor].layout[axis] is not None, tensor)
    for layout in program.arrays:
        _require(len(layout) > 0 and layout.min() >= FIXED and layout.max() < first, "layouts")
        times = np.bincount(layout[layout >= 0], minlength=first)
        for group in program.groups.values():
            _require(len(set(times[group.first : group.first + group.size])) == 1, group.name)
    lengths = [len(layout) for layout in program.arrays]

    def fits(shape: Sequence[int], layout: Sequence[int | None]) -> bool:
        return len(shape) == len(layout) and all(
            size >= 0 and (number is None or lengths[number] == size)
            for size, number in zip(shape, layout, strict=True)
        )

    for name, held in program.stored.items():
        _require(fits(held.shape, held.layout), name)
    for name, other in program.tied.items():
        _require(other in program.stored and name not in program.stored, name)
    _require(program.forms.keys() == {"train", "eval"}, "forms")
    for form, nodes in program.forms.items():
        for number, node in enumerate(nodes):
            _require(all(0 <= used < number for used in uses(node)), f"node {number}")
            _require(all(map(fits, node.shapes, node.layouts)), f"node {number}")
            for name in named(node):
                _require(name in program.stored, name)
        _require(nodes[0].op == INPUT and nodes[-1].op == OUTPUT, "forms")
        for tap in program.taps.values():
            _require(0 <= tap[form] < len(nodes), "taps")
    _require("logits" in program.taps, "taps")


def _require(condition: Any, what: str) -> None:
    if not condition:
        raise ValueError(f"{what} does not fit")


def _brief(node: Node) -> dict[str, Any]:
    """Without what is empty."""
    told = {name: getattr(node, name) for name in ("op", "args", "kwargs", "shapes", "layouts")}
    return {name: value for name, value in {**told, "module": node.module}.items() if value}


def _runs(layout: np.ndarray) -> list[tuple[int, int, int]]:
    """(start, step, count) of arithmetic sequences, as many as needed."""
    runs: list[tuple[int, int, int]] = []
    steps, at = np.diff(layout), 0
    while at < len(layout):
        step = int(steps[at]) if at < len(steps) else 0
        other = np.flatnonzero(steps[at:] != step)
        count = int(other[0]) + 1 if len(other) else len(layout) - at
        runs.append((int(layout[at]), step, count))
        at += count
    return runs
