"""No criterion, but the budget's whole size: a control of what a search finds."""

import numpy as np

from st.core.registry import criteria
from st.core.seeds import stream
from st.pruning.criteria import Scores, Subject
from st.pruning.selection import macs_per_parameter, select_channels

STEEPEST = 8.0


@criteria.register
def tapered(subject: Subject) -> Scores:
    """Random channels, of each group a share that follows from its MACs a parameter, by a power.

    With the power at 0 every layer keeps the same share, and a network of a tenth of the
    parameters has a tenth of the MACs. The larger it is, the more is kept where images are large.
    It is chosen so that parameters and MACs are both used up; with a bound on one of them it is 0.
    So the subnet is as large as one that a search finds within the same budget, and neither weights
    nor data were looked at.
    """
    graph, budget = subject.graph, subject.budget
    cost = {name: np.log(max(r, 1e-9)) for name, r in macs_per_parameter(graph).items()}
    # each channel's place in its group, in (0, 1]
    places = {
        name: (stream(subject.seed, "criterion", name).permutation(width) + 1) / width
        for name, width in subject.widths.items()
    }

    def scores(power: float) -> Scores:
        return {name: power * cost[name] - np.log(place) for name, place in places.items()}

    if budget.params is None or budget.macs is None:
        return scores(0.0)
    limits = np.array(budget.limits(graph)[:2])
    low, high = -STEEPEST, STEEPEST
    for _ in range(30):
        power = (low + high) / 2
        keep = select_channels(graph, scores(power), budget, available=subject.structure.keep)
        params, macs = graph.cost(graph.widths(keep)) / limits
        low, high = (power, high) if macs < params else (low, power)
    return scores((low + high) / 2)


tapered.shares = True
tapered.blind = True
