"""Search: from channel scores and a budget to a structure."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from st.core.errors import StError
from st.networks.drawing import Drawing, Keep, Term


@dataclass(frozen=True)
class Budget:
    """Upper bounds on what a subnet may cost, as fractions of its supernet; None: no bound."""

    params: float | None = None
    macs: float | None = None
    latency: float | None = None  # measured, so it depends on the machine
    channels: float | None = None  # of all groups together, as network slimming's pruning ratio

    def part_way(self, share: float) -> "Budget":
        """The budget after this share (0...1) of a geometric path from the supernet to this one."""
        bounds = asdict(self).values()
        return Budget(*(None if bound is None else bound**share for bound in bounds))

    def limits(self, graph: Drawing) -> tuple[float, float, float]:
        """Of what `usage` gives: parameters, MACs and channels."""
        full = usage(graph, graph.widths({}))
        # rounded first: 0.29 of 100 is 29, though 0.29 * 100 is 28.999999999999996
        params, macs, channels = (
            np.inf if f is None else round(f * n, 6)
            for f, n in zip((self.params, self.macs, self.channels), full, strict=True)
        )
        if self.channels is not None and self.channels < 1:
            # Network slimming keeps what is above the threshold, which is itself a channel's scale.
            channels = np.ceil(channels) - 1
        return np.floor(params), np.floor(macs), channels


def usage(graph: Drawing, widths: Mapping[str, int]) -> tuple[int, int, int]:
    """Parameters, MACs and prunable channels of a network with these group widths."""
    return *graph.cost(widths), sum(widths.values())


def macs_per_parameter(graph: Drawing) -> dict[str, float]:
    """By group, of what one of its channels costs in a whole network."""
    widths, found = graph.widths({}), {}
    whole = graph.cost(widths)
    for group in graph.groups:
        less = graph.cost({**widths, group: widths[group] - 1})
        params, macs = (a - b for a, b in zip(whole, less, strict=True))
        found[group] = macs / max(1, params)
    return found


def least_widths(
    graph: Drawing, min_channels: int, round_to: int, whole: Collection[str] = ()
) -> dict[str, int]:
    """The smallest width per group: `min_channels` rounded up to `round_to`, at most its size; its
    size for those that stay `whole`."""
    least = -(-min_channels // round_to) * round_to
    return {
        name: group.size if name in whole else min(group.size, least)
        for name, group in graph.groups.items()
    }


def tightest(budget: Budget, least: Iterable[int], full: Iterable[int]) -> list[str]:
    """The bounds that a network with the usage `least` meets, of those that the budget has, as they
    stand in params.yaml. `full`: the whole network's usage."""
    found = []
    for name, a, b in zip(("params", "macs", "channels"), least, full, strict=True):
        if getattr(budget, name) is not None:
            # rounded up, so that the numbers can be used as they are; of channels fewer than the
            # fraction are kept
            steps = np.floor(1e4 * a / b) + 1 if name == "channels" else np.ceil(1e4 * a / b)
            found.append(f"{name}: {min(steps / 1e4, 1):.4f}")
    return found


def check_reachable(
    graph: Drawing,
    budget: Budget,
    min_channels: int = 1,
    round_to: int = 1,
    whole: Collection[str] = (),
) -> None:
    """Raise StError, naming the tightest budget that can be met, if this one can't."""
    least = usage(graph, least_widths(graph, min_channels, round_to, whole))
    if any(cost > limit for cost, limit in zip(least, budget.limits(graph), strict=True)):
        if not graph.groups:
            raise StError("the budget cannot be met: the network has no channels to remove")
        full = usage(graph, graph.widths({}))
        bounds = {"params": budget.params, "macs": budget.macs, "channels": budget.channels}
        asked = [f"{name}: {bound}" for name, bound in bounds.items() if bound is not None]
        stay = f"; {len(whole)} of {len(graph.groups)} groups stay whole" if whole else ""
        raise StError(
            f"the budget ({', '.join(asked)}) cannot be met; with min_channels {min_channels} and "
            f"round_to {round_to} the tightest is {', '.join(tightest(budget, least, full))}{stay}"
        )


def select_channels(
    graph: Drawing,
    scores: Mapping[str, np.ndarray],
    budget: Budget,
    ranking: str = "global",
    min_channels: int = 1,
    round_to: int = 1,
    latency: Callable[[Keep], float] | None = None,
    available: Keep | None = None,
) -> Keep:
    """The best-scored channels that the budget pays for.

    Channels are ranked together by score (`global`, as network slimming's single threshold), by
    score over the mean of its group's magnitudes (`normalized`: for scores that grow with a layer's
    size), or by their place within their group (`local`: the same fraction of every layer, as Li
    et al.'s pruning ratio). They are added from the top until one would exceed the budget; after
    it, each further one that still fits is added too. So the budget is met from below and the
    result is maximal: no channel can be added. Every group first gets its best `min_channels`,
    because a network needs every layer. With `round_to` > 1 channels come in blocks of
    that many, ranked by the block's mean. Equal scores are ordered by group, then by channel.

    With a budget of channels alone this is network slimming's threshold. A latency budget ends the
    list of added blocks early, where `latency(keep)`, a fraction of the supernet's, is measured to
    be within it.

    `scores`: per group, finite, shape (size,); of the channels `available`, if only some are.
    Groups without stay whole.
    Raises StError if the budget cannot be met.
    """
    unknown = sorted(scores.keys() - graph.groups.keys())
    if unknown:
        raise StError(
            f"the criterion gave scores of '{unknown[0]}', which the network does not have"
        )
    whole = graph.groups.keys() - scores.keys()
    check_reachable(graph, budget, min_channels, round_to, whole)
    least = least_widths(graph, min_channels, round_to, whole)
    order, ranked = {}, {}
    for name, group in graph.groups.items():
        channels = (available or {}).get(name, np.arange(group.size))
        none = np.zeros(channels.shape)
        values = np.asarray(scores.get(name, none), dtype=np.float64)
        if values.shape != channels.shape or not np.isfinite(values).all():
            raise StError(f"the criterion gave no finite score for each channel of '{name}'")
        best = np.argsort(-values, kind="stable")
        if ranking == "normalized":
            values = values / (np.abs(values).mean() or 1)
        order[name], ranked[name] = channels[best], values[best]
        least[name] = min(least[name], len(channels))
    blocks = _affordable(graph, _blocks(graph, ranked, least, ranking, round_to), least, budget)

    def keep(number: int) -> Keep:
        widths = dict(least)
        for name, amount in blocks[:number]:
            widths[name] += amount
        return {name: np.sort(order[name][: widths[name]]) for name in order}

    number = len(blocks)
    if budget.latency is not None:
        assert latency is not None
        number = most_within(number, lambda n: latency(keep(n)), budget.latency)
    return keep(number)


Block = tuple[float, int, int, int, str]  # sorts by: -worth, group, first channel; then size, name


def _blocks(
    graph: Drawing,
    ranked: dict[str, np.ndarray],
    least: dict[str, int],
    ranking: str,
    round_to: int,
) -> list[Block]:
    """All that can be added to the least widths, best first. `ranked`: scores, descending."""
    blocks = []
    for position, (name, group) in enumerate(graph.groups.items()):
        available = len(ranked[name])
        starts = range(least[name], available, round_to)
        stops = [min(start + round_to, available) for start in starts]
        if ranking == "local":
            worths = -np.array(stops) / group.size
        elif round_to == 1:
            worths = ranked[name][least[name] :]
        else:
            worths = np.array(
                [ranked[name][a:b].mean() for a, b in zip(starts, stops, strict=True)]
            )
        # equal scores' means may differ by rounding: keep the order
        keys = np.minimum.accumulate(worths).tolist() if len(worths) else []
        blocks += [
            (-key, position, start, stop - start, name)
            for key, start, stop in zip(keys, starts, stops, strict=True)
        ]
    return sorted(blocks)


def _affordable(
    graph: Drawing, blocks: list[Block], least: dict[str, int], budget: Budget
) -> list[tuple[str, int]]:
    """In order, the (group, channels) that parameters and MACs admit, each after those before."""
    terms, extents, limits = _terms_by_group(graph), graph.extents(), budget.limits(graph)
    # Most are admitted without a gap. How many is found by bisection, since costs only grow.
    first, beyond = 0, len(blocks) + 1
    while beyond - first > 1:
        middle = (first + beyond) // 2
        cost = usage(graph, _lengthened(least, blocks[:middle]))
        fits = np.all(np.array(cost) <= limits)
        first, beyond = (middle, beyond) if fits else (first, middle)
    lengthened = {
        name: [(axis, e.groups[name]) for axis, e in extents.items() if name in e.groups]
        for name in graph.groups
    }
    widths = _lengthened(least, blocks[:first])
    sizes, used = graph.sizes(widths), np.array(usage(graph, widths))
    admitted = [(name, amount) for _, _, _, amount, name in blocks[:first]]

    def lengthen(name: str, amount: int) -> np.ndarray:
        for axis, times in lengthened[name]:
            sizes[axis] += times * amount
        return sum((np.array(term.cost(sizes)) for term in terms[name]), np.zeros(2, np.int64))

    for _, _, start, amount, name in blocks[first:]:
        if widths[name] != start:
            continue  # an earlier block of this group did not fit, so neither does this one
        before = lengthen(name, 0)
        added = np.append(lengthen(name, amount) - before, amount)
        if np.all(used + added <= limits):
            used, widths[name] = used + added, start + amount
            admitted.append((name, amount))
        else:
            lengthen(name, -amount)
    return admitted


def _lengthened(widths: Mapping[str, int], blocks: list[Block]) -> dict[str, int]:
    """The widths with these blocks added."""
    result = dict(widths)
    for _, _, _, amount, name in blocks:
        result[name] += amount
    return result


def most_within(number: int, latency: Callable[[int], float], bound: float) -> int:
    """The largest n of 0...number, by bisection, with latency(n) <= bound.

    Latency grows with n but for the noise of measuring; what is returned was measured to be within
    the bound. Raises StError that names the tightest bound, if none is.
    """
    if latency(number) <= bound:
        return number
    tightest = latency(0)
    if tightest > bound:
        raise StError(
            f"the budget (latency: {bound}) cannot be met on this device; the narrowest network "
            f"that min_channels and round_to allow was measured at latency: {tightest:.4f}"
        )
    low, high = 0, number
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if latency(middle) <= bound else (low, middle)
    return low


def _terms_by_group(graph: Drawing) -> dict[str, list[Term]]:
    """Per group, the terms of the cost that depend on its width."""
    extents = graph.extents()
    found: dict[str, list[Term]] = {name: [] for name in graph.groups}
    for term in graph.terms():
        for name in {group for axis in term.axes for group in extents[axis].groups}:
            found[name].append(term)
    return found
