"""Criteria: how much each channel of a supernet matters.

A criterion is called with a `Subject` and returns one score per channel and group, the higher the
more important; or, if it needs no ranking, the subnet's `Structure` itself (then its attribute
`ranks` is False). A criterion that reads the training data has the attribute `data` (True). One
that does not rank may have an attribute `check`: called with the full structure, the budget and the
options before any job runs, it raises StError if the search can't succeed. Each module registers
one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from st.graph import Graph
from st.search import Budget
from st.structure import Structure


@dataclass(frozen=True)
class Subject:
    """What a criterion may look at: the supernet and its weights, the budget, and a seed.

    `data`: the prepared data file, for criteria that ask for it (st.data.load_data reads it).
    `device` and `threads`: as st.device.choose takes them. `state`: where a long search may keep
    what it needs to go on after an interruption.
    """

    structure: Structure
    tensors: dict[str, np.ndarray]
    budget: Budget
    seed: int
    data: Path | None = None
    device: str = "auto"
    threads: int = 0
    state: Path | None = None

    @property
    def graph(self) -> Graph:
        return self.structure.graph


Scores = dict[str, np.ndarray]  # group -> (size,)


def per_channel(subject: Subject, measure) -> Scores:
    """`measure` applied to each channel's weights, flattened to shape (channels, n).

    A filter group is measured by the filters that make its channels. A selection has no filters of
    its own, since the stream's channels belong to all: it is measured by the weights with which its
    consumer reads each channel.
    """
    scores = {}
    for name, group in subject.graph.groups.items():
        layers, axis = (group.producers, 0) if group.kind == "filters" else (group.consumers, 1)
        weights = [subject.tensors[f"{layer}.weight"].astype(np.float64) for layer in layers]
        rows = [np.moveaxis(w, axis, 0).reshape(group.size, -1) for w in weights]
        scores[name] = measure(np.concatenate(rows, axis=1))
    return scores
