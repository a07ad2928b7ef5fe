"""Criteria: how much each channel of a supernet matters.

A criterion is called with a `Subject` and returns one score per channel and group, the higher the
more important; or, if it needs no ranking, the subnet's `Structure` itself. Each module registers
one. What else the workflow must know are attributes of the function, all optional:

- `ranks`: False if it returns a structure;
- `comparable`: False if its scores cannot be compared between layers, because they grow with a
  layer's size, so that no ranking may mix them as they are; or a function of its options that says
  so;
- `budget`: False if it follows none;
- `inherits`: False if its structures are not made of the supernet's channels, so that the
  supernet's weights do not fit them;
- `suits`: a function that is given the supernet's structure, the budget and the options,
  and raises StError if they do not go together: so that params.yaml can be checked before any job;
- `data`: True if it looks at training images (through st/pruning/scoring.py, imported within the
  function).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from st.networks.graph import Graph
from st.networks.structure import Structure
from st.pruning.selection import Budget


@dataclass(frozen=True)
class Subject:
    """What a criterion may look at: the supernet and its weights, the budget, and a seed.

    `data`: the prepared data's file, for criteria that say they need it; `device` and `threads`:
    where to compute with torch, if at all. `latency`: measures a structure where the budget bounds
    that, as a fraction of the supernet's; `select_channels` sees to it unless `ranks` is False.
    `state`: where a long search may keep what it needs to go on after an interruption.
    """

    structure: Structure
    tensors: dict[str, np.ndarray]
    budget: Budget
    seed: int
    data: Path | None = None
    device: str = "auto"
    threads: int = 0
    latency: Callable[[Structure], float] | None = None
    state: Path | None = None

    @property
    def graph(self) -> Graph:
        """The drawing of the searched network."""
        return self.structure.graph

    @property
    def widths(self) -> dict[str, int]:
        """Channels per group, and so the shape of its scores."""
        return self.structure.widths


Scores = dict[str, np.ndarray]  # group -> (channels,)


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
        rows = [np.moveaxis(w, axis, 0).reshape(subject.widths[name], -1) for w in weights]
        scores[name] = measure(np.concatenate(rows, axis=1))
    return scores
