"""Budgets: what the selected channels promise, on random scores, budgets and networks."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.networks import SMALL, small_structure
from hypothesis import given, settings
from hypothesis import strategies as st_

from st.core.errors import StError
from st.networks.graph import Graph, draw
from st.pruning.selection import Budget, check_reachable, least_widths, select_channels, usage

GRAPHS = {name: small_structure(name).graph for name in SMALL}
SMALLEST = 0.02  # below it hardly any budget of these networks can be met


@st_.composite
def searches(draw_):
    """(graph, scores, budget, ranking, min_channels, round_to), most of them possible."""
    graph = GRAPHS[draw_(st_.sampled_from(sorted(GRAPHS)))]
    rng = np.random.default_rng(draw_(st_.integers(0, 2**32)))
    levels = draw_(st_.sampled_from([None, 1, 3]))  # None: no ties
    scores = {
        name: rng.standard_normal(group.size)
        if levels is None
        else 0.7 * rng.integers(levels, size=group.size)
        for name, group in graph.groups.items()
    }
    fractions = st_.none() | st_.floats(SMALLEST, 1)
    budget = Budget(draw_(fractions), draw_(fractions), channels=draw_(fractions))
    ranking = draw_(st_.sampled_from(["global", "local", "normalized"]))
    return (
        graph,
        scores,
        budget,
        ranking,
        draw_(st_.integers(1, 3)),
        draw_(st_.sampled_from([1, 2, 3, 5])),
    )


def search(graph, scores, budget, ranking, least, multiple):
    """Widths, or None where the budget can't be met."""
    try:
        keep = select_channels(graph, scores, budget, ranking, least, multiple)
    except StError:
        with pytest.raises(StError):
            check_reachable(graph, budget, least, multiple)
        return None
    return graph.widths(keep)


def fits(graph: Graph, widths: dict, budget: Budget) -> bool:
    def amounts(widths):
        return *graph.cost(widths), sum(widths.values())

    *costs, channels = amounts(widths)
    *wholes, all_channels = amounts(graph.widths({}))
    # fractions such as 0.29 x 100 may lie a rounding error below the whole number they mean
    if budget.channels not in (None, 1) and channels >= budget.channels * all_channels - 1e-6:
        return False  # network slimming's threshold is itself a channel, which goes
    bounds = (budget.params, budget.macs)
    return all(
        bound is None or cost <= bound * whole + 1e-6
        for cost, bound, whole in zip(costs, bounds, wholes, strict=True)
    )


def enlarged(graph: Graph, widths: dict, name: str, multiple: int) -> dict:
    """With the next block of a group's channels."""
    return {**widths, name: min(widths[name] + multiple, graph.groups[name].size)}


@given(searches())
@settings(max_examples=150)
def test_budget_is_met_and_nothing_can_be_added(case):
    graph, _, budget, _, least, multiple = case
    widths = search(*case)
    if widths is None:
        return
    assert fits(graph, widths, budget)
    for name, group in graph.groups.items():
        assert widths[name] >= min(least, group.size)
        assert widths[name] % multiple == 0 or widths[name] == group.size
        if widths[name] < group.size:
            assert not fits(graph, enlarged(graph, widths, name, multiple), budget)


@given(searches())
@settings(max_examples=100)
def test_each_group_keeps_its_best_channels(case):
    graph, scores, budget, ranking, least, multiple = case
    if search(*case) is None:
        return
    keep = select_channels(graph, scores, budget, ranking, least, multiple)
    assert list(keep) == list(graph.groups)
    for name, kept in keep.items():
        assert list(kept) == sorted(set(kept.tolist()))
        # ties go to the first channels
        best = sorted(range(len(scores[name])), key=lambda i: (-scores[name][i], i))
        assert set(kept.tolist()) == set(best[: len(kept)])
    again = select_channels(graph, scores, budget, ranking, least, multiple)
    assert all(np.array_equal(keep[name], again[name]) for name in keep)


@given(searches())
@settings(max_examples=100)
def test_as_a_plain_greedy_search(case):
    """Against a slow and simple version: try every block in turn, counting the whole network."""
    graph, scores, budget, ranking, least, multiple = case
    found = search(*case)
    if found is None:
        return
    blocks = []
    widths = least_widths(graph, least, multiple)
    for position, (name, group) in enumerate(graph.groups.items()):
        ranked, lowest = np.sort(scores[name])[::-1], np.inf
        if ranking == "normalized":
            ranked = ranked / (np.abs(ranked).mean() or 1)
        for start in range(widths[name], group.size, multiple):
            stop = min(start + multiple, group.size)
            worth = -stop / group.size if ranking == "local" else ranked[start:stop].mean()
            lowest = min(lowest, worth)  # a mean of equal numbers may be rounded up
            blocks.append((-lowest, position, start, name))
    full = set()
    for *_, name in sorted(blocks):
        bigger = enlarged(graph, widths, name, multiple)
        if name not in full and fits(graph, bigger, budget):
            widths = bigger
        else:
            full.add(name)
    assert found == widths


@given(searches())
@settings(max_examples=100)
def test_global_ranking_is_a_threshold_until_the_budget_is_used(case):
    """Network slimming's threshold: only when the next channel in order would exceed the budget
    are lower ones added, as far as they fit."""
    graph, scores, budget, _, least, _ = case
    case = (graph, scores, budget, "global", least, 1)
    widths = search(*case)
    if widths is None:
        return
    keep = select_channels(*case)
    cut = {n: np.setdiff1d(np.arange(g.size), keep[n]) for n, g in graph.groups.items()}
    if not any(len(removed) for removed in cut.values()):
        return
    threshold, _, _, name = max(
        (scores[n][i], -p, -i, n) for p, (n, removed) in enumerate(cut.items()) for i in removed
    )
    least_kept = least_widths(graph, least, 1)
    above = {n: max(least_kept[n], int((scores[n] > threshold).sum())) for n in graph.groups}
    assert all(widths[n] >= above[n] for n in above)
    # channels of the same score as the threshold's come in the order of groups
    for n in graph.groups:
        if n == name:
            break
        above[n] = max(above[n], int((scores[n] >= threshold).sum()))
    above[name] = widths[name]
    assert not fits(graph, enlarged(graph, above, name, 1), budget)


@given(searches())
@settings(max_examples=100)
def test_local_ranking_keeps_equal_fractions_until_the_budget_is_used(case):
    graph, scores, budget, _, _, _ = case
    widths = search(graph, scores, budget, "local", 1, 1)
    if widths is None or widths == graph.widths({}):
        return
    sizes = {name: group.size for name, group in graph.groups.items()}
    # the first block that did not fit ends the even part
    cut = min((widths[n] + 1) / sizes[n] for n in sizes if widths[n] < sizes[n])
    even = {n: max(1, sum(k / sizes[n] < cut for k in range(1, sizes[n] + 1))) for n in sizes}
    for name, size in sizes.items():
        assert widths[name] >= even[name]
        assert even[name] == 1 or cut - 1 / size - 1e-9 <= even[name] / size < cut
    # and what was added afterwards is less than one step of all groups
    step = {n: min(even[n] + 1, sizes[n]) for n in sizes}
    assert not fits(graph, step, budget)


@given(searches(), st_.floats(1, 3))
@settings(max_examples=150)
def test_a_larger_budget_is_used(case, factor):
    """With one bound, more of what it bounds; with two, more of one of them or the same."""
    graph, scores, budget, ranking, least, multiple = case
    fractions = (budget.params, budget.macs, budget.channels)
    bounds = [None if f is None else min(1, f * factor) for f in fractions]
    small = search(*case)
    if small is None:
        return
    larger = Budget(bounds[0], bounds[1], channels=bounds[2])
    large = search(graph, scores, larger, ranking, least, multiple)
    before, after = usage(graph, small), usage(graph, large)
    if large != small:
        grown = [b > a for a, b, f in zip(before, after, bounds, strict=True) if f is not None]
        assert any(grown)
    if sum(bound is not None for bound in bounds) == 1:
        which = next(n for n, bound in enumerate(bounds) if bound is not None)
        assert after[which] >= before[which]


@given(searches())
@settings(max_examples=100)
def test_the_tightest_budget_of_the_message_can_be_met(case):
    graph, scores, _, ranking, least, multiple = case
    with pytest.raises(StError) as caught:
        check_reachable(graph, Budget(1e-9, 1e-9, channels=1e-9), least, multiple)
    tightest = re.findall(r"(\w+): ([\d.]+)", str(caught.value).partition("tightest is ")[2])
    bounds = {name: float(value) for name, value in tightest}
    assert set(bounds) == {"params", "macs", "channels"}
    assert search(graph, scores, Budget(**bounds), ranking, least, multiple) is not None
    params, macs = bounds["params"], bounds["macs"]
    # tight: it is the smallest of four decimals
    if params > 1e-4:
        assert search(graph, scores, Budget(params - 1e-4, None), ranking, least, multiple) is None
    if macs > 1e-4:
        assert search(graph, scores, Budget(None, macs - 1e-4), ranking, least, multiple) is None


def chain(*channels: int, side: int = 1) -> Graph:
    return draw("vgg", {"layers": list(channels)}, (1, side, side), 2)


def test_a_fraction_means_the_whole_number_it_spells():
    """0.29 x 100 is 28.999999999999996 in floating point, and 29 channels are 29 %."""
    hundred = SimpleNamespace(widths=lambda keep: {}, cost=lambda widths: (100, 12_300))
    for percent in range(1, 101):
        assert Budget(percent / 100, None).limits(hundred) == (percent, np.inf, np.inf)
        assert Budget(None, percent / 100).limits(hundred) == (np.inf, 123 * percent, np.inf)
        assert Budget(percent / 100 - 1e-4, None).limits(hundred) == (percent - 1, np.inf, np.inf)


def test_no_budget_keeps_everything():
    graph = GRAPHS["vgg"]
    scores = {name: np.zeros(group.size) for name, group in graph.groups.items()}
    for budget in (Budget(), Budget(1.0, 1.0)):
        assert graph.widths(select_channels(graph, scores, budget)) == graph.widths({})


def test_equal_scores_of_any_value_do_not_lose_the_last_block():
    """The mean of three times 0.7 is rounded to less than 0.7, the single rest is not."""
    assert np.full(3, 0.7).mean() < 0.7
    graph = chain(10, 10)
    for value in (0.1, 0.3, 0.7, 1e-9, 1.1):
        scores = {name: np.full(10, value) for name in graph.groups}
        for ranking in ("global", "local"):
            keep = select_channels(graph, scores, Budget(1.0), ranking, 1, 3)
            assert graph.widths(keep) == {"conv1": 10, "conv2": 10}
        for bound in (0.9, 0.6, 0.4):
            widths = graph.widths(select_channels(graph, scores, Budget(bound), "global", 1, 3))
            assert all(width == 10 or width % 3 == 0 for width in widths.values()), widths


def test_round_to_ranks_by_the_blocks_mean():
    graph = chain(4, 4)
    scores = {"conv1": np.array([9, 9, 5, 0.0]), "conv2": np.array([9, 9, 3, 3.0])}
    least = graph.cost({"conv1": 2, "conv2": 2})
    one_more = graph.cost({"conv1": 2, "conv2": 4})
    assert one_more > least
    budget = Budget(one_more[0] / graph.cost(graph.widths({}))[0])
    keep = select_channels(graph, scores, budget, min_channels=2, round_to=2)
    assert graph.widths(keep) == {"conv1": 2, "conv2": 4}  # 3 is more than 2.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(bad):
    graph = chain(4, 4)
    scores = {"conv1": np.array([1, 2, bad, 4]), "conv2": np.ones(4)}
    with pytest.raises(StError, match="no finite score for each channel of 'conv1'"):
        select_channels(graph, scores, Budget(0.5))
    for wrong in (np.ones(3), []):
        with pytest.raises(StError, match="'conv2'"):
            select_channels(graph, {"conv1": np.ones(4), "conv2": wrong}, Budget(0.5))


def test_what_has_no_scores_stays_whole():
    graph = chain(4, 4)
    keep = select_channels(graph, {"conv2": np.arange(4.0)}, Budget(0.8))
    assert len(keep["conv1"]) == 4 > len(keep["conv2"])
    with pytest.raises(StError, match="; 1 of 2 groups stay whole"):
        select_channels(graph, {"conv2": np.arange(4.0)}, Budget(0.1))
    with pytest.raises(StError, match="scores of 'conv3', which the network does not have"):
        select_channels(graph, {"conv3": np.arange(4.0)}, Budget(0.5))


PAPER = {
    "vgg19": ("vgg", {"depth": 19}),
    "preresnet164": ("preresnet", {"depth": 164}),
    "densenet40": ("densenet", {"depth": 40}),
}


def test_local_ranking_is_of_the_full_layers():
    """Where only some of a layer's channels are left to choose from, as in lottery rounds."""
    graph = chain(10, 10)
    scores = {"conv1": np.arange(10.0), "conv2": np.arange(4.0)}
    left = {"conv1": np.arange(10), "conv2": np.arange(4)}
    bound = graph.cost({"conv1": 4, "conv2": 4})[0] / graph.cost(graph.widths({}))[0]
    keep = select_channels(graph, scores, Budget(bound), "local", available=left)
    assert graph.widths(keep) == {"conv1": 4, "conv2": 4}


def test_normalized_ranking_is_by_magnitudes_where_scores_are_negative():
    graph = chain(4, 4)
    scores = {"conv1": np.array([-2.0, -2, -2, -2]), "conv2": np.array([2.0, 2, 1, 1])}
    keep = select_channels(graph, scores, Budget(channels=0.75), "normalized")
    assert graph.widths(keep)["conv2"] == 4


def test_normalized_ranking_takes_no_notice_of_a_layers_scale():
    """L1 sums grow with fan-in: as they are, a wide layer's worst filters beat a narrow one's best.
    Over their layer's mean, the filters that stand out in their layer remain."""
    graph = chain(4, 8)
    values = np.array([4.0, 1.0, 3.0, 2.0])
    scores = {"conv1": values, "conv2": 100 * np.concatenate([values, values])}
    budget = Budget(channels=0.55)  # six of twelve
    raw = select_channels(graph, scores, budget, "global")
    assert [len(kept) for kept in raw.values()] == [1, 5]
    keep = select_channels(graph, scores, budget, "normalized")
    assert [kept.tolist() for kept in keep.values()] == [[0, 2], [0, 2, 4, 6]]
    other = {"conv1": 7 * scores["conv1"], "conv2": scores["conv2"] / 9}
    again = select_channels(graph, other, budget, "normalized")
    assert all(np.array_equal(keep[name], again[name]) for name in keep)
    zeros = {"conv1": np.zeros(4), "conv2": scores["conv2"]}
    assert len(select_channels(graph, zeros, budget, "normalized")["conv1"]) == 1


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("ranking", ["global", "local"])
def test_the_papers_networks_use_their_budget(name, ranking):
    """With random scores within 0.05 % of the binding bound, and within 0.5 % in eights."""
    graph = draw(*PAPER[name], (3, 32, 32), 10)
    rng = np.random.default_rng(0)
    scores = {group: rng.standard_normal(g.size) for group, g in graph.groups.items()}
    for budget in (Budget(0.1, 0.5), Budget(0.3), Budget(None, 0.3), Budget(0.5), Budget(0.5, 0.3)):
        for round_to, least in ((1, 0.9995), (8, 0.995)):
            widths = graph.widths(select_channels(graph, scores, budget, ranking, 1, round_to))
            limits = budget.limits(graph)
            used = [n / limit for n, limit in zip(usage(graph, widths), limits, strict=True)]
            assert least <= max(used) <= 1, (budget, round_to)
            assert all(w % round_to == 0 or w == graph.groups[n].size for n, w in widths.items())
