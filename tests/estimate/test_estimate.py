"""Estimates: the right jobs, networks that cost what the budget says, times that add up."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import yaml
from helpers.networks import SMALL, small_structure
from helpers.project import copy_project, jobs, snakemake

from st.cli import main
from st.config.check import load, parse
from st.config.grid import Grid
from st.core import registry
from st.core.errors import StError
from st.core.files import read_json
from st.data.dataset import Data
from st.estimate.predict import predict
from st.estimate.trainings import Rates, stand_in, trainings

DIGITS = ((1, 8, 8), 10)


def images(train: int = 1000, test: int = 100) -> Data:
    (shape, classes) = DIGITS
    return Data(
        np.zeros((train, *shape), np.uint8), np.zeros(train, np.int64),
        np.zeros((test, *shape), np.uint8), np.zeros(test, np.int64),
        [str(n) for n in range(classes)],
    )  # fmt: skip


def known(grid: Grid) -> Rates:
    keys = trainings(grid, {"digits": DIGITS})
    start = {"initialize": 0.5, "train": 3.0, "evaluate": 4.0}
    return Rates(start, dict.fromkeys(keys, 1e-3), dict.fromkeys(keys, 0.0))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("bounds", [{"params": 0.4}, {"macs": 0.4}, {"latency": 0.4}])
@pytest.mark.parametrize("criterion", ["bn_scale", "uniform"])
def test_stand_ins_use_up_the_budget(name, bounds, criterion):
    full = small_structure(name)
    full = replace(full, options=registry.architectures.check(full.family, full.options))
    search = {
        "criterion": criterion, "seed": 0, "min_channels": 1, "round_to": 1,
        "budget": {"params": None, "macs": None, "latency": None, **bounds},
    }  # fmt: skip
    part = stand_in(full, search)
    kept = [a / b for a, b in zip(part.cost(), part.full.cost(), strict=True)]
    assert 0.15 < kept["params" not in bounds] <= 0.4
    assert part.full.cost() == full.cost()


def test_times_add_up(tiny):
    grid = Grid(parse({**tiny, "seeds": [0, 1, 2]}))
    phases, chain = predict(grid, {"digits": images()}, known(grid))
    # after three seconds of starting two epochs of 1000 images, at a millisecond each; then a test
    # of 100 images, at a third of that
    test = 100 / 3 * 1e-3
    training = 3 + 2 + test
    assert phases["pretrain"].jobs == 3
    assert phases["pretrain"].seconds == pytest.approx(3 * training)
    assert phases["train"].jobs == 6 and phases["train"].seconds == pytest.approx(6 * training)
    assert phases["search"].seconds == pytest.approx(1.5)
    assert phases["prepare"].bytes == 1100 * 64
    # prepare, pretrain, search, initialize, train, and the test of three networks
    assert chain == pytest.approx(1 + training + 0.5 + 0.5 + training + 4 + 3 * test)


@pytest.mark.parametrize(("every", "tests"), [(0, 1), (1, 5), (2, 3), (5, 1), (9, 1)])
def test_tests_within_a_training_count(tiny, every, tests):
    tiny["training"] |= {"epochs": 5, "test_every": every}
    grid = Grid(parse(tiny))
    phases, _ = predict(grid, {"digits": images()}, known(grid))
    assert phases["pretrain"].seconds == pytest.approx(3 + 5 + tests * 100 / 3 * 1e-3)


def test_params_files_are_named_as_snakemake_names_them(tmp_path, capsys):
    for option in ("--params", "--configfile"):
        assert main(["estimate", option, str(tmp_path / "none.yaml")]) == 2
        assert "none.yaml" in capsys.readouterr().err


def test_epochs_follow_the_rule(tiny):
    tiny["searches"]["slimming"]["budget"] = {"macs": 0.25}
    tiny["methods"]["long"] = {"search": "slimming", "epoch_rule": "computation"}
    found = trainings(Grid(parse(tiny)), {"digits": DIGITS})
    assert found["train/digits/vgg/st"].epochs == 2
    assert found["train/digits/vgg/long"].epochs >= 8


def test_searches_that_train_cost_that(tiny):
    tiny["searches"]["slimming"]["rounds"] = 3
    grid = Grid(parse(tiny))
    phases, _ = predict(grid, {"digits": images()}, known(grid))
    assert phases["search"].seconds == pytest.approx(3 + 2 * 2)


def test_disk(tiny, tmp_path):
    """The bytes of weights are those of the files."""
    from st.core.registry import inits
    from st.networks.checkpoint import save_model

    grid = Grid(parse(tiny))
    kind = trainings(grid, {"digits": DIGITS})["train/digits/vgg/st"]
    save_model(tmp_path / "m", kind.structure, inits.get("random")(kind.structure, None, 0))
    phases, _ = predict(grid, {"digits": images()}, known(grid))
    size = (tmp_path / "m").stat().st_size
    assert phases["train"].bytes / 2 < size < phases["train"].bytes / 2 + 4000


def test_rates_of_another_grid_are_refused(tiny):
    grid = Grid(parse(tiny))
    rates = known(grid)
    del rates.image["train/digits/vgg/st"]
    with pytest.raises(StError, match="train/digits/vgg/st takes; measure again"):
        predict(grid, {"digits": images()}, rates)


def test_command(tiny, tmp_path, capsys, monkeypatch):
    """Measured once, the rates give the same estimate anywhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny))
    assert main(["estimate", "--jobs", "2", "--device", "cpu", "--save", "rates.json"]) == 0
    measured = capsys.readouterr().out
    rates = read_json("rates.json")
    assert set(rates["image"]) == set(trainings(Grid(load("params.yaml")), {"digits": DIGITS}))
    assert all(value > 0 for value in rates["image"].values())
    assert main(["estimate", "--jobs", "2", "--rates", "rates.json"]) == 0
    assert capsys.readouterr().out == measured
    (tmp_path / "rates.json").write_text("{}")
    assert main(["estimate", "--rates", "rates.json"]) == 2
    assert "rates.json: is not a rates file" in capsys.readouterr().err


@pytest.mark.slow
def test_as_many_jobs_as_the_workflow_has(tmp_path):
    project = copy_project(tmp_path)
    plan = snakemake(project, "-n", "--configfile", "params/tiny.yaml", "--", "results/table.csv")
    found = Counter(job.split()[0] for job in jobs(plan))
    grid = Grid(load(project / "params/tiny.yaml"))
    phases, _ = predict(grid, {"digits": images()}, known(grid))
    assert {name: phase.jobs for name, phase in phases.items()} | {
        "report": 1, "notebook": 1
    } == found  # fmt: skip
