"""Operators that bring channels into another order, as positions that can be renumbered."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from st.networks.imported.labels import Call, Coupling, Labels, Result, compact
from st.networks.imported.rules import MOVES, REORDERED
from st.networks.program import TAKE, Node, uses
from st.networks.running import last_writes, memory


def taken(
    coupling: Coupling, nodes: list[Node], trace: list[Result], units: np.ndarray
) -> tuple[list[Node], list[Labels]]:
    """The nodes, with a TAKE for each that brings channels into another order; and labels that must
    be made to depend on one axis, or were pinned now."""
    found = [[rooted(labels, units) for labels in result.results] for result in trace]
    uneven = [not all(_even(labels.parts) for labels in each) for each in found]
    written = last_writes(nodes)
    result, ragged = list(nodes), []
    for number, node in enumerate(nodes):
        if not _moves(node) or uneven[number] or len(found[number]) != 1:
            continue
        path, source = [number], node.args[0].get("node")
        while source is not None and uneven[source] and _moves(nodes[source]):
            path.insert(0, source)
            source = nodes[source].args[0].get("node")
        if source is None or len(found[source]) != 1:
            continue
        before, after = found[source][0], found[number][0]
        calls = [call for call in (trace[n].call for n in path) if call is not None]
        if len(path) == 1 and node.name not in REORDERED:
            continue
        taking = None
        if len(path) == 1 and _unmoved(calls, [part.shape for part in before.parts]):
            if not _counts(calls[0], before.parts):
                continue
            if _unmoved(calls, [before.shape]):  # moves nothing at all
                result[number] = Node(BY_SIZE[node.name], [{"node": source}])
                continue
        elif written.get(memory(nodes, number), -1) < path[0]:  # what is taken is a copy
            taking = _take(calls, before.parts, after.parts)
        if taking is not None:
            result[number] = Node(TAKE, [{"node": source}, *taking])
        elif len(path) == 1:
            for labels in (before, after):
                coupling.pin(labels, node.name)
                ragged.append(labels)
    for number in live(result):
        if uneven[number]:
            ragged += found[number]
    return result, ragged


def _moves(node: Node) -> bool:
    return node.name in MOVES or node.op == "getitem"


def rooted(labels: Labels, units: np.ndarray) -> Labels:
    """Labels with units in their place, without those that stay."""
    parts = [compact(torch.from_numpy(units[part])) for part in labels.parts]
    return replace(labels, parts=[part for part in parts if part.any()])


def _even(parts: list[np.ndarray]) -> bool:
    """Whether each part depends on one axis, another one each."""
    axes = [axis for part in parts for axis, size in enumerate(part.shape) if size > 1]
    return len(axes) == len(parts) == len(set(axes))


# Operators that are told how many positions there are, and what does nothing in their place: by all
# of them is another roll, when fewer remain.
BY_SIZE = {
    **dict.fromkeys(("roll", "channel_shuffle", "native_channel_shuffle"), "aten.clone.default"),
    "narrow": "aten.alias.default",
}


def _counts(call: Call, parts: list[np.ndarray]) -> bool:
    """Whether a call is told the number of positions along one of the parts' axes."""
    if call.op not in BY_SIZE:
        return False
    told = call["dims"] if call.op == "roll" else [call["dim"] if call.op == "narrow" else 1]
    count = len(call.labels[0].shape)
    along = {axis % count for axis in told or range(count)}
    return any(part.shape[axis] > 1 for part in parts for axis in along)


def _unmoved(calls: list[Call], shapes: list[tuple[int, ...]]) -> bool:
    """Whether these calls leave all positions along the axes of such parts where they are. Labels
    do not say so: each may lie at several positions."""
    for shape in shapes:
        places: Any = torch.arange(1, int(np.prod(shape)) + 1).reshape(shape)
        moved = places.expand(calls[0].labels[0].shape)
        for call in calls:
            moved = call.run(moved)
        if not np.array_equal(compact(moved), places.numpy()):
            return False
    return True


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


def live(nodes: list[Node]) -> set[int]:
    """The nodes that compute something, and what they read."""
    live = {number for number, node in enumerate(nodes) if not _moves(node)}
    for number in reversed(range(len(nodes))):
        if number in live:
            live |= set(uses(nodes[number]))
    return live
