"""Latency budgets: with a clock that is known, and once with the real one."""

import json

import numpy as np
import pytest
import torch
from helpers.networks import random_tensors, small_structure

from st.core.device import Device
from st.core.errors import StError
from st.core.registry import criteria
from st.networks import timing
from st.networks.checkpoint import save_model
from st.networks.network import Network
from st.networks.structure import Structure, load_structure
from st.phases import search
from st.pruning import latency
from st.pruning.criteria import Subject
from st.pruning.selection import Budget, most_within, select_channels

GRAPH = small_structure("preresnet").graph
FULL = GRAPH.widths({})
RNG = np.random.default_rng(0)
SCORES = {name: RNG.random(group.size) for name, group in GRAPH.groups.items()}


def clock(widths) -> float:
    """A latency unlike parameters and MACs: a fixed part, and one per channel."""
    return 0.2 + 0.8 * sum(widths.values()) / sum(FULL.values())


def select(budget, tick=clock, **rules):
    asked = []

    def measured(keep):
        asked.append(tick(GRAPH.widths(keep)))
        return asked[-1]

    keep = select_channels(GRAPH, SCORES, budget, latency=measured, **rules)
    return keep, asked


@pytest.mark.parametrize("bound", [0.3, 0.5, 0.75, 0.99, 1.0])
@pytest.mark.parametrize("rules", [{}, {"ranking": "local"}, {"min_channels": 2, "round_to": 2}])
def test_latency_is_met_with_as_many_channels_as_possible(bound, rules):
    keep, asked = select(Budget(latency=bound), **rules)
    widths, step = GRAPH.widths(keep), rules.get("round_to", 1)
    assert clock(widths) <= bound
    # one block more is too slow, or there is none
    assert clock(widths) + 0.8 * step / sum(FULL.values()) > bound or widths == FULL
    assert len(asked) <= 2 + np.ceil(np.log2(sum(FULL.values())))
    if not rules:  # a prefix of the ranking: what is kept is better than what is not
        best = {n: SCORES[n].argmax() for n in keep}
        kept = min(SCORES[n][i] for n in keep for i in keep[n] if i != best[n])
        cut = [np.delete(SCORES[n], keep[n]) for n in keep]
        assert kept > max(np.concatenate(cut), default=-1)


def test_all_bounds_hold():
    for budget in (Budget(0.5, None, 0.9), Budget(0.9, 0.8, 0.5), Budget(0.5, 0.5, 0.55)):
        keep, _ = select(budget)
        params, macs = GRAPH.cost(GRAPH.widths(keep))
        limits = budget.limits(GRAPH)
        assert params <= limits[0] and macs <= limits[1]
        assert clock(GRAPH.widths(keep)) <= budget.latency
    # where latency does not bind, the result is as without it
    keep, asked = select(Budget(0.5, None, 0.999))
    plain = select_channels(GRAPH, SCORES, Budget(0.5))
    assert len(asked) == 1 and all(np.array_equal(keep[n], plain[n]) for n in plain)


def test_out_of_reach():
    least = clock(dict.fromkeys(FULL, 1))
    with pytest.raises(StError, match=f"measured at latency: {least:.4f}"):
        select(Budget(latency=0.2))


def test_what_is_returned_was_measured_within_the_bound():
    """However noisy the clock."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        seen = {}

        def noisy(n, seen=seen):
            return seen.setdefault(n, n / 500 + 0.1 * rng.standard_normal())

        number = most_within(500, noisy, 0.5)
        assert seen[number] <= 0.5 and 50 < number < 450


def test_networks_take_turns(monkeypatch):
    """The median counts, not the first call and not a slow moment."""
    now, calls = [0.0], []
    durations = {"a": iter([99, 1, 2, 3, 50, 1]), "b": iter([99, 3, 80, 3, 3, 3])}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def network(name):
        def call(batch):
            calls.append(name)
            now[0] += next(durations[name])

        return call

    found = timing.seconds([network("a"), network("b")], None, 5, Device("cpu"))
    assert list(found) == [2, 3] and len(calls) == 12
    turns = [calls[n : n + 2] for n in range(0, 12, 2)]
    # in either order: what ran before may matter
    assert all(sorted(turn) == ["a", "b"] for turn in turns) and ["b", "a"] in turns


def test_networks_stay_as_they_are():
    """They are measured with weights in bfloat16 where that is computed in, and used afterwards."""
    net = Network(small_structure("vgg")).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = torch.rand(2, *net.st_structure.input_shape)
    timing.seconds([net], images, 1, Device("cpu", "bfloat16"))
    for name, value in net.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name])


def test_stopwatch_measures_a_structure_once(monkeypatch):
    full = small_structure("vgg")
    asked = []

    def seconds(networks, batch, rounds, device):
        asked.append(networks)
        assert tuple(batch.shape) == (3, 1, 9, 11) and rounds == 4
        return np.array([sum(p.numel() for p in net.parameters()) for net in networks])

    monkeypatch.setattr(latency, "seconds", seconds)
    watch = latency.Stopwatch(full, 3, 4, "cpu", 1)
    part = Structure(*full_parts(full), {"conv2": np.array([1, 5])})
    other = Structure(*full_parts(full), {"conv2": np.array([0, 2])})
    assert watch(part) == watch(other) == part.cost()[0] / full.cost()[0]
    assert len(asked) == 1 and all(isinstance(net, Network) for net in asked[0])
    assert not any(net.training for net in asked[0]) and watch(full) == 1


def full_parts(full):
    return full.family, full.options, full.input_shape, full.classes


@pytest.mark.parametrize("bound", [0.3, 0.6, 1.0])
def test_uniform_keeps_to_it_too(bound):
    full = Structure("vgg", {"layers": [32, "M", 64], "width": 1.0}, (1, 8, 8), 5)

    def tick(part):
        return sum(n.channels for n in part.graph.nodes) / sum(n.channels for n in full.graph.nodes)

    subject = Subject(full, {}, Budget(0.9, None, bound), 0, latency=tick)
    found = criteria.get("uniform")(subject)
    assert bound - 0.1 < tick(found) <= bound or found.cost()[0] / full.cost()[0] > 0.85
    assert found.cost()[0] <= 0.9 * full.cost()[0]


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["l1_norm", "uniform"])
def test_on_this_machine(tmp_path, criterion):
    """A network whose time grows with its channels; the bound is far from what noise could do."""
    full = Structure("vgg", {"layers": [64, 64, "M", 64, 64], "width": 1.0}, (3, 32, 32), 10)
    save_model(tmp_path / "model", full, random_tensors(full, np.random.default_rng(0)))
    job = {
        "seed": 0,
        "criterion": criterion,
        "options": {},
        "ranking": "local",
        "budget": {"params": 0.9, "latency": 0.6},
        "min_channels": 1,
        "round_to": 8,
        "latency": {"batch": 64, "rounds": 5},
        "lottery": None,
    }
    search.run(job, tmp_path / "model", tmp_path / "structure", device="cpu", threads=1)
    facts = json.loads((tmp_path / "structure").read_text())
    found = load_structure(tmp_path / "structure")
    assert 0 < facts["latency_kept"] <= 0.6
    assert found.cost()[0] <= 0.9 * full.cost()[0]
    job["budget"]["latency"] = 1e-6
    with pytest.raises(StError, match=r"cannot be met.* latency: 0\.\d{4}"):
        search.run(job, tmp_path / "model", tmp_path / "none", device="cpu", threads=1)
    assert not (tmp_path / "none").exists()
