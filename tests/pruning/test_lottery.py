"""Lottery rounds, against the same steps made one by one."""

from pathlib import Path

import numpy as np
import pytest
from helpers.images import stripes
from helpers.networks import random_keep, small_structure
from helpers.training import interrupt_after

from st.config.check import parse
from st.config.grid import Grid
from st.config.named import named_job
from st.core.errors import StError
from st.core.registry import criteria
from st.core.sources import sources
from st.data.dataset import save_data
from st.networks.checkpoint import load_model
from st.networks.structure import Structure, load_structure
from st.phases import initialize, pretrain, search, train
from st.pruning import lottery
from st.pruning.criteria import Subject
from st.pruning.selection import Budget, select_channels
from st.training.recipe import Training
from st.training.resume import Interrupted

RECIPE = Training(epochs=3, batch_size=8, lr=0.05, schedule="onecycle").model_dump()
COMMON = {"seed": 0, "augment": {"crop": 1, "flip": False}, "training": RECIPE, "sparsity": 0.0}
PRETRAIN = {
    **{"family": "vgg", "options": {"layers": [9, "M", 12, 10]}, "init_options": {"bn_scale": 0.5}},
    **{"rewind_epoch": 1, **COMMON},
}
SEARCH = {
    "seed": 0,
    "criterion": "bn_scale",
    "options": {},
    "ranking": "global",
    "budget": {"params": 0.25, "macs": 0.5},
    "min_channels": 2,
    "round_to": 1,
    "latency": None,
    "lottery": {"rounds": 3, **COMMON},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With data and a trained supernet."""
    path = tmp_path_factory.mktemp("lottery")
    save_data(path / "data", stripes(), {})
    names = {name: path / name for name in ("model", "rewind", "history")}
    pretrain.run(PRETRAIN, path / "data", **names, device="cpu", threads=1)
    return path


def run(folder: Path, place: str, job: dict = SEARCH) -> Structure:
    files = {name: folder / name for name in ("data", "rewind")}
    target = folder / place / "structure.json"
    search.run(job, folder / "model", target, **files, device="cpu", threads=1)
    return load_structure(target)


def plain(budget: dict) -> dict:
    return {**SEARCH, "lottery": None, "budget": budget}


def greedy(scores: dict, full: Structure, limits) -> dict[str, set]:
    """The best two of each group, then by score what fits: a slow and simple search. `scores`:
    (group, channel) to score."""
    ranked = sorted(scores, key=lambda key: -scores[key])
    kept = {g: {i for n, i in ranked if n == g} for g in full.graph.groups}
    kept = {g: set(sorted(c, key=lambda i: -scores[g, i])[:2]) for g, c in kept.items()}
    closed = set()
    for name, channel in ranked:
        if channel in kept[name] or name in closed:
            continue
        bigger = {g: len(c) + (g == name) for g, c in kept.items()}
        if all(n <= limit for n, limit in zip(full.graph.cost(bigger), limits, strict=True)):
            kept[name].add(channel)
        else:
            closed.add(name)
    return kept


def test_as_the_steps_by_hand(folder):
    found = run(folder, "rounds")
    full = load_model(folder / "model").structure
    hand, weights = folder / "hand", load_model(folder / "model")
    for number in (1, 2, 3):
        scores = {}
        for name, group in full.graph.groups.items():
            gamma = np.abs(weights.tensors[group.norms[0]])
            kept = weights.structure.kept(name)
            scores |= {(name, int(i)): g for i, g in zip(kept, gamma, strict=True)}
        share = Budget(0.25 ** (number / 3), 0.5 ** (number / 3))
        kept = greedy(scores, full, share.limits(full.graph)[:2])
        keep = {name: np.array(sorted(channels)) for name, channels in kept.items()}
        part = Structure(full.family, full.options, full.input_shape, full.classes, keep)
        if number < 3:
            place = hand / str(number)
            search.save_structure(place / "structure", part)
            start = {"seed": 0, "init": "rewind", "options": {}}
            initialize.run(start, place / "structure", folder / "rewind", place / "init")
            job = {"objective": {"ce": {"weight": 1.0}}, "epoch_rule": "same", **COMMON}
            job |= {"max_epoch_factor": None}
            train.run(
                job, folder / "data", place / "init", None, place / "model", place / "history",
                "cpu", 1,
            )  # fmt: skip
            weights = load_model(place / "model")
            trained = (place / "history").read_bytes()
            assert (folder / "rounds" / f"round{number}" / "history.csv").read_bytes() == trained
    assert found.to_json() == part.to_json()
    # and this is not what one round finds
    once = run(folder, "once", plain(SEARCH["budget"]))
    assert once.to_json() != found.to_json()


def test_rounds_are_nested_and_shrink_evenly(folder, monkeypatch):
    seen, told = [], lottery.fit_and_save

    def noted(job, data, work, *others):
        seen.append((work.structure, work.initial))
        told(job, data, work, *others)

    monkeypatch.setattr(lottery, "fit_and_save", noted)
    last = run(folder, "nested")
    full, early = last.full, load_model(folder / "rewind").tensors
    parts = [part for part, _ in seen] + [last]
    assert len(parts) == 3
    for number, (before, after) in enumerate(zip([full, *parts], parts, strict=False), start=1):
        assert all(set(after.kept(g)) <= set(before.kept(g)) for g in full.graph.groups)
        used = [n / whole for n, whole in zip(after.cost(), full.cost(), strict=True)]
        bounds = [0.25 ** (number / 3), 0.5 ** (number / 3)]
        assert all(u <= b for u, b in zip(used, bounds, strict=True))
        assert max(u / b for u, b in zip(used, bounds, strict=True)) > 0.9
    for part, initial in seen:  # rewound, not as trained
        np.testing.assert_array_equal(
            initial["conv1.weight"], early["conv1.weight"][part.kept("conv1")]
        )


def test_what_is_left_behind(folder):
    run(folder, "left")
    left = {str(f.relative_to(folder / "left")) for f in (folder / "left").rglob("*.*")}
    assert left == {"structure.json", "round1/history.csv", "round2/history.csv"}


def test_an_interrupted_search_goes_on(folder, monkeypatch, epochs_run):
    whole = run(folder, "whole").to_json()
    assert epochs_run == [1, 2, 3] * 2
    epochs_run.clear()
    fit, calls = lottery.fit_and_save, []

    def second_is_stopped(*arguments, **options):
        calls.append(1)
        with monkeypatch.context() as patch:
            interrupt_after(patch, *([2] if len(calls) == 2 else []))
            fit(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lottery, "fit_and_save", second_is_stopped)
        with pytest.raises(Interrupted, match="after epoch 2 of 3"):
            run(folder, "stopped")
    assert not (folder / "stopped/structure.json").exists()
    assert run(folder, "stopped").to_json() == whole
    assert epochs_run == [1, 2, 3, 1, 2, 3]  # nothing twice


def test_finished_rounds_of_another_job_are_not_taken(folder, monkeypatch, epochs_run):
    monkeypatch.setattr(lottery, "tidy", lambda *arguments: None)
    run(folder, "other")
    epochs_run.clear()
    run(folder, "other")
    assert epochs_run == []
    recipe = {**SEARCH["lottery"], "training": {**RECIPE, "lr": 0.04}}
    run(folder, "other", {**SEARCH, "lottery": recipe})
    assert epochs_run == [1, 2, 3] * 2


def test_data_and_early_weights_are_needed(folder):
    with pytest.raises(StError, match="need --data and --rewind"):
        search.run(SEARCH, folder / "model", folder / "none")


@pytest.mark.parametrize("criterion", ["taylor", "activation", "l1_norm", "geometric_median"])
def test_other_criteria(folder, criterion):
    budget = {"params": 0.3, "macs": None}
    options = criteria.check(criterion, {})
    found = run(
        folder, criterion, {**SEARCH, "budget": budget, "criterion": criterion, "options": options}
    )
    assert 0.2 < found.cost()[0] / found.full.cost()[0] <= 0.3


def test_only_available_channels_are_kept(small):
    rng = np.random.default_rng(0)
    graph, available = small.graph, random_keep(small, rng)
    kept = {name: available.get(name, np.arange(g.size)) for name, g in graph.groups.items()}
    scores = {name: rng.random(len(channels)) for name, channels in kept.items()}
    everything = select_channels(graph, scores, Budget(), available=available)
    assert all(np.array_equal(everything[name], kept[name]) for name in kept)
    params = graph.cost(graph.widths(kept))[0] / graph.cost(graph.widths({}))[0]
    bound = (params + graph.cost(dict.fromkeys(kept, 1))[0] / graph.cost(graph.widths({}))[0]) / 2
    for ranking in ("global", "local"):
        keep = select_channels(graph, scores, Budget(bound), ranking, available=available)
        for name, channels in keep.items():
            best = kept[name][np.argsort(-scores[name])][: len(channels)]
            assert set(channels) == set(best)


def test_params_to_job(tiny):
    tiny["searches"]["rounds"] = {**tiny["searches"]["slimming"], "rounds": 3}
    tiny["methods"]["lottery"]["search"] = "rounds"
    grid = Grid(parse(tiny))
    job = grid.search("digits", "vgg", 0, "rounds")
    pretrained = grid.pretrain("digits", "vgg", 0, "sparse")
    assert job["lottery"].pop("rounds") == 3
    assert job["lottery"] == {key: pretrained[key] for key in job["lottery"]}
    assert set(job["lottery"]) == {"seed", "sparsity", "augment", "training"}
    once = grid.search("digits", "vgg", 0, "slimming")
    assert {**job, "lottery": None} == once
    _, files, _ = named_job(grid, "search", "digits/vgg/seed0/rounds")
    assert files["rewind"].name == "rewind.safetensors"
    assert files["data"].name == "data.safetensors"
    _, files, _ = named_job(grid, "search", "digits/vgg/seed0/slimming")
    assert files["rewind"] is None and files["data"] is None


def test_plain_searches_do_not_depend_on_training():
    files = {path.name for path in sources("st.phases.search", "st.pruning.criteria.bn_scale")}
    assert not files & {"lottery.py", "latency.py", "loop.py", "trainer.py"}
    assert {"loop.py", "trainer.py"} <= {path.name for path in sources("st.pruning.lottery")}


def test_budgets_on_the_way():
    budget = Budget(0.1, None, 0.5)
    assert budget.part_way(1) == budget and budget.part_way(0) == Budget(1, None, 1)
    assert budget.part_way(0.5).params == pytest.approx(0.1**0.5)
    assert Subject(small_structure("vgg"), {}, budget, 0).widths["conv1"] == 6
