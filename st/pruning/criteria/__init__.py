"""Criteria: how much each channel of a supernet matters.

A criterion is called with a `Subject` and returns one score per channel and group, the higher the
more important; or, if it needs no ranking, the subnet's `Structure` itself. Groups that it gives no
scores stay whole. Each module registers one. What else the workflow must know are attributes of the
function, all optional:

- `ranks`: False if it returns a structure;
- `comparable`: False if its scores cannot be compared between layers, because they grow with a
  layer's size, so that no ranking may mix them as they are; or a function of its options that says
  so;
- `shares`: True if its scores say only how much of each layer to keep, so that no ranking within
  layers may be asked for;
- `budget`: False if it follows none;
- `inherits`: False if its structures are not made of the supernet's channels, so that the
  supernet's weights do not fit them;
- `blind`: True if it looks at nothing that was learned, as controls of a search do;
- `drawn`: True if it searches drawn families only, and no imported network;
- `suits`: a function that is given the supernet's structure, the budget and the options,
  and raises StError if they do not go together: so that params.yaml can be checked before any job;
- `told`: a function that is given the subject and returns what else structure.json is to say, as
  JSON, for the report;
- `data`: True if it looks at training images (through st/pruning/scoring.py, imported within the
  function).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from st.networks.drawing import Drawing
from st.networks.structure import Structure
from st.pruning.selection import Budget


@dataclass(frozen=True)
class Subject:
    """What a criterion may look at: the supernet and its weights, the budget, and a seed.

    `data`: the prepared data's file or the data itself, for criteria that say they need it, which
    open it with `st.data.dataset.opened`; `device` and `threads`: where to compute with torch, if
    at all. `latency`: measures a structure where the budget bounds
    that, as a fraction of the supernet's; `select_channels` sees to it unless `ranks` is False.
    `state`: where a long search may keep what it needs to go on after an interruption.
    """

    structure: Structure
    tensors: dict[str, np.ndarray]
    budget: Budget
    seed: int
    data: Any = None  # no type of st.data's: an edit of it would concern every search
    device: str = "auto"
    threads: int = 0
    latency: Callable[[Structure], float] | None = None
    state: Path | None = None

    @property
    def graph(self) -> Drawing:
        """The drawing of the searched network."""
        return self.structure.graph

    @property
    def widths(self) -> dict[str, int]:
        """Channels per group, and so the shape of its scores."""
        return self.structure.widths


Scores = dict[str, np.ndarray]  # group -> (channels,)
Measure = Callable[[np.ndarray], np.ndarray]


Members = Literal["mean", "sum", "max"]


def per_channel(subject: Subject, measure: Measure, members: Members = "mean") -> Scores:
    """`measure` applied to each channel's weights, flattened to shape (channels, n).

    Where several layers make a group's channels, as those of a residual stream or before and after
    a depthwise convolution, each is measured, and `members` says what of it counts. A filter is
    measured by the weights that make its channel. A selection has no filters of its own, since the
    stream's channels belong to all: it is measured by the weights with which its consumer reads
    each channel.
    """
    return {
        name: combined([measure(rows) for rows in rows_of(subject, name, group.members)], members)
        for name, group in subject.graph.groups.items()
    }


def rows_of(
    subject: Subject,
    name: str,
    tensors: Iterable[tuple[str, int]],
    values: Mapping[str, np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """Per tensor (its name, and the axis of the group's channels), what belongs to each channel of
    the group `name`: shape (channels, n), of the tensor's own type. `values`: by tensor, in place
    of the weights."""
    values = subject.tensors if values is None else values
    graph, keep = subject.graph, subject.structure.keep
    wanted = dict(tensors)
    for tensor in graph.tensors():
        if tensor.name in wanted:
            axis = wanted[tensor.name]
            places = graph.places(tensor.axes[axis], name, keep)
            value = np.moveaxis(values[tensor.name], axis, 0)
            if not np.array_equal(places.reshape(-1), np.arange(len(value))):
                value = value[places]
            yield value.reshape(len(places), -1)


def combined(scores: list[np.ndarray], members: Members) -> np.ndarray:
    """One score of each channel: the mean, sum or largest of its members', each (channels,)."""
    return getattr(np, members)(scores, axis=0)
