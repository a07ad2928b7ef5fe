"""Labels of channels: which can be removed, and which only together.

A program is run on labels: instead of numbers a tensor has, per axis, the identity of the channel
that each position belongs to. Operators tie labels that can only be removed together, and pin those
that stay (rules.py). In the end the labels that are tied are a unit, and the units that a layer
makes are a group (channels.py).

A channel has two labels, 2k and 2k + 1, which are always tied. 2k says that where the channel's
parameters are zero, the entry is zero, as behind a convolution; 2k + 1 that it may be any number,
as behind an exponential. A sum over channels that are zero is the same without them; over others
it is not, and the channels are `inexact`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ONE = "channels that are all tied"
STAYS = 0  # the label of what is never removed
ANY = 1  # the bit of labels of entries that are not zero where the channel's parameters are

Zero = Callable[[tuple[bool | None, ...]], bool]


@dataclass
class Labels:
    """The labels of one tensor: `parts`, each an array of the tensor's rank that has length 1 along
    the axes on which it does not depend. A part usually depends on one axis, the channels'; between
    operators that move entries it may depend on several."""

    shape: tuple[int, ...]
    parts: list[np.ndarray] = field(default_factory=list)
    tensor: str = ""  # the parameter that this is
    origin: str = ""  # the parameter that this is or was computed from, entry by entry

    def along(self, axis: int) -> np.ndarray | None:
        """The labels of the positions along an axis, None where there are none."""
        for part in self.parts:
            if part.shape[axis] > 1:
                return part.reshape(-1)
        return None

    @property
    def filled(self) -> "Labels":
        """The same, of entries that may be any numbers where channels are zero."""
        return replace(self, parts=[part | ANY for part in self.parts], tensor="")


@dataclass
class Call:
    """An operator with the names of its arguments, tensors as `Labels`, and its results' shapes."""

    op: str
    arguments: dict[str, Any]
    written: dict[str, Any]  # the arguments as the node has them
    shapes: list[tuple[int, ...]]
    run: Callable  # the operator, given another first argument
    # whether the operator gives zeros where these of its tensors are zero, others any numbers
    zero: Callable[[Collection[int]], bool]  # the tensors by their id
    used: set[int] = field(default_factory=set)  # of several results those that are used

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


Operands = list[tuple[Labels | None, Sequence[Any]]]


class Coupling:
    """What is known of labels so far: who is tied to whom, what is pinned by which operator."""

    def __init__(self):
        self.count = 2  # STAYS
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.pins: list[tuple[np.ndarray, str]] = []
        self.inexact: list[np.ndarray] = []
        self.roles: dict[str, list[str]] = {"producers": [], "norms": []}

    def fresh(self, shape: Sequence[int], tensor: str = "") -> Labels:
        """A tensor with labels of its own along each axis."""
        labels = Labels(tuple(shape), tensor=tensor, origin=tensor)
        for axis, size in enumerate(shape):
            if size > 1:
                part = np.arange(self.count, self.count + 2 * size, 2)
                self.count += 2 * size
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
        if labels is not None and labels.origin:
            self.roles[role].append(labels.origin)

    def units(self, pinned: bool = True) -> np.ndarray:
        """For each label the lowest one that it is tied to: STAYS for what is pinned, unless that
        shall not count."""
        edges = [*self.edges, (np.arange(0, self.count, 2), np.arange(1, self.count, 2))]
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
            rows = np.moveaxis(part, axis, 0).reshape(part.shape[axis], -1)
            along = rows[:, 0] | (rows & ANY).max(1)
            if axis in parts:
                self.pin(along, "two kinds of channels along one axis")
            else:
                parts[axis] = along.reshape([-1 if a == axis else 1 for a in range(part.ndim)])
        return replace(labels, parts=list(parts.values()))

    def flatten(self, part: np.ndarray) -> int:
        """Tie the labels of a part such that it depends on one axis; returns the axis."""
        axes = [axis for axis, size in enumerate(part.shape) if size > 1]
        if len(axes) == 1:
            return axes[0]
        # of equal ones the last: within heads, not heads, of which there may be fewer keys' heads
        best = max(reversed(axes), key=lambda axis: distinct(np.moveaxis(part, axis, 0)))
        rows = np.moveaxis(part, best, 0).reshape(part.shape[best], -1)
        self.tie(rows, rows[:, :1])
        return best

    def join(
        self,
        call: Call,
        operands: Iterable[tuple[Labels | None, Sequence[Any]]],
        result: Sequence[Any],
        mixed: Iterable[Any] = (),
        zero: Zero | None = None,
    ) -> Labels:
        """The rule of Einstein sums: axes with the same letter are walked together, so that their
        labels are tied. `mixed`: letters along which positions are mixed, so that labels stay.
        `zero`: whether the result is zero, given for each operand whether it is, None where there
        is no such operand; default: where all are."""
        mixed = set(mixed)
        found: dict[Any, dict[int, np.ndarray | None]] = {}
        sizes: dict[Any, int] = {}
        every = list(operands)
        given = {n: (labels, letters) for n, (labels, letters) in enumerate(every) if labels}
        for labels, letters in given.values():
            for size, letter in zip(labels.shape, letters, strict=True):
                sizes[letter] = max(sizes.get(letter, 1), size)
        for number, (labels, letters) in given.items():
            labels = self.regular(labels)
            for axis, letter in enumerate(letters):
                if labels.shape[axis] == sizes[letter] > 1:
                    found.setdefault(letter, {})[number] = labels.along(axis)
        known: dict[Any, np.ndarray] = {}
        for letter, vectors in found.items():
            labelled = {n: vector for n, vector in vectors.items() if vector is not None}
            if letter in mixed or len(labelled) < len(vectors):
                for vector in labelled.values():
                    self.pin(vector, call.op)
                continue
            first, *others = labelled.values()
            for vector in others:
                self.tie(first, vector)
            filled = np.stack([vector & ANY for vector in labelled.values()])
            if letter not in result:  # summed over: exactly if one of the factors is zero
                self.inexact.append(first[filled.min(0) == ANY])
                continue
            cases, which = np.unique(filled, axis=1, return_inverse=True)
            marks = []
            for case in cases.T:
                zeros = {n: not bit for n, bit in zip(labelled, case, strict=True)}
                told = tuple(zeros.get(n, False) if n in given else None for n in range(len(every)))
                is_zero = zero(told) if zero else all(z is not False for z in told)
                marks.append(0 if is_zero else ANY)
            known[letter] = first & ~ANY | np.array(marks)[which.reshape(-1)]
        shape = call.shapes[0]
        parts = [
            known[letter].reshape([-1 if a == axis else 1 for a in range(len(shape))])
            for axis, letter in enumerate(result)
            if letter in known
        ]
        return Labels(shape, parts)


def multiplied(factors: int) -> Zero:
    """Zeros of a product of the first operands, to which the others are added."""

    def zero(told: tuple[bool | None, ...]) -> bool:
        return any(told[:factors]) and all(z is not False for z in told[factors:])

    return zero


def distinct(rows: np.ndarray) -> int:
    """How many units remain if all labels of a row are one."""
    rows = rows.reshape(len(rows), -1) & ~ANY
    if (rows == STAYS).all(1).any() and len(rows) == 1:
        return 0
    _, numbers = np.unique(rows, return_inverse=True)
    numbers = numbers.reshape(rows.shape)
    first = np.broadcast_to(numbers[:, :1], rows.shape).reshape(-1)
    count = int(numbers.max()) + 1
    edges = coo_array((np.ones(rows.size), (first, numbers.reshape(-1))), (count, count))
    return connected_components(edges, False)[0]


def compact(values: torch.Tensor) -> np.ndarray:
    """With length 1 along all axes along which the values are the same."""
    for axis in range(values.ndim):
        first = values.narrow(axis, 0, 1)
        if values.stride(axis) == 0 or values.shape[axis] == 1 or bool((values == first).all()):
            values = first
    return values.contiguous().numpy()


@dataclass
class Result:
    """What a node gave when it was run on labels."""

    results: list[Labels]
    call: Call | None = None  # None: no tensor, or the input
