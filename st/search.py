"""Search: from channel scores and a budget to a structure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from st.errors import StError
from st.graph import Graph, Keep, node_cost


@dataclass(frozen=True)
class Budget:
    """Upper bounds on what a subnet may cost, as fractions of its supernet; None: no bound."""

    params: float | None = None
    macs: float | None = None

    def limits(self, graph: Graph) -> tuple[float, float]:
        full = graph.cost(graph.widths({}))
        fractions = (self.params, self.macs)
        # rounded before the floor: 0.29 of 100 is 29, though 0.29 * 100 is 28.999999999999996
        return tuple(
            np.inf if f is None else np.floor(round(f * n, 6))
            for f, n in zip(fractions, full, strict=True)
        )


def least_widths(graph: Graph, min_channels: int, round_to: int) -> dict[str, int]:
    """The smallest width per group: `min_channels` rounded up to `round_to`, at most its size."""
    least = -(-min_channels // round_to) * round_to
    return {name: min(group.size, least) for name, group in graph.groups.items()}


def check_reachable(graph: Graph, budget: Budget, min_channels: int = 1, round_to: int = 1) -> None:
    """Raise StError, naming the tightest budget that can be met, if this one can't."""
    least = graph.cost(least_widths(graph, min_channels, round_to))
    if any(cost > limit for cost, limit in zip(least, budget.limits(graph), strict=True)):
        full = graph.cost(graph.widths({}))
        # rounded up, so that the numbers of the message can be used as they are
        params, macs = (np.ceil(1e4 * a / b) / 1e4 for a, b in zip(least, full, strict=True))
        raise StError(
            f"the budget (params: {budget.params}, macs: {budget.macs}) cannot be met; with "
            f"min_channels {min_channels} and round_to {round_to} the tightest is "
            f"params: {params:.4f}, macs: {macs:.4f}"
        )


def select_channels(
    graph: Graph,
    scores: Mapping[str, np.ndarray],
    budget: Budget,
    ranking: str = "global",
    min_channels: int = 1,
    round_to: int = 1,
) -> Keep:
    """The best-scored channels that the budget pays for.

    Channels are ranked together by score (`global`, as network slimming's single threshold) or by
    their place within their group (`local`: the same fraction of every layer, as Li et al.'s
    pruning ratio). They are added from the top until one would exceed the budget; after it, each
    further one that still fits is added too. So the budget is met from below and the result is
    maximal: no channel can be added. Every group first gets its best `min_channels`, because a
    layer without channels is no network. With `round_to` > 1 channels come in blocks of that many,
    ranked by the block's mean. Equal scores are ordered by group, then by channel.

    `scores`: per group, shape (size,), finite. Raises StError if the budget cannot be met.
    """
    check_reachable(graph, budget, min_channels, round_to)
    limits = budget.limits(graph)
    widths = least_widths(graph, min_channels, round_to)
    order, candidates = {}, []
    for position, (name, group) in enumerate(graph.groups.items()):
        values = np.asarray(scores.get(name, ()), dtype=np.float64)
        if values.shape != (group.size,) or not np.isfinite(values).all():
            raise StError(f"the criterion gave no finite score for each channel of '{name}'")
        order[name] = np.argsort(-values, kind="stable")
        ranked = values[order[name]]
        key = np.inf
        for start in range(widths[name], group.size, round_to):
            stop = min(start + round_to, group.size)
            worth = -stop / group.size if ranking == "local" else ranked[start:stop].mean()
            key = min(key, worth)  # equal scores' means may differ by rounding: keep the order
            candidates.append((-key, position, start, stop - start, name))
    layers = _layers_by_group(graph)
    used = np.array(graph.cost(widths))
    for _, _, start, amount, name in sorted(candidates):
        if widths[name] != start:
            continue  # an earlier block of this group did not fit, so neither does this one
        before = sum(np.array(node_cost(node, widths)) for node in layers[name])
        widths[name] += amount
        after = sum(np.array(node_cost(node, widths)) for node in layers[name])
        if np.all(used + after - before <= limits):
            used = used + after - before
        else:
            widths[name] -= amount
    return {name: np.sort(order[name][: widths[name]]) for name in graph.groups}


def _layers_by_group(graph: Graph) -> dict[str, list]:
    """Per group, the nodes whose cost depends on its width."""
    layers = {name: [] for name in graph.groups}
    for node in graph.nodes:
        if node.op in ("conv", "bn", "linear"):
            for name in {node.group_in, node.group_out} - {None}:
                layers[name].append(node)
    return layers
