"""Estimates: the right jobs, networks that cost what the budget says, times that add up."""

from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.images import stripes, write_folder
from helpers.networks import SMALL, small_structure
from helpers.project import copy_project, jobs, snakemake

from st.cli import main
from st.config.check import load, parse
from st.config.grid import Grid
from st.config.layout import DATA
from st.core import registry
from st.core.errors import StError
from st.core.files import read_json, write_json
from st.data.dataset import Data
from st.data.shards import Shards
from st.estimate.predict import predict, run
from st.estimate.trainings import (
    Rates,
    Sample,
    datasets,
    sample_of,
    stand_in,
    to_measure,
    trainings,
)
from st.networks.structure import Structure
from st.phases import draw, prepare
from st.pruning.selection import Budget, select_channels

DIGITS = ((1, 8, 8), 10)


def images(train: int = 1000, test: int = 100) -> Sample:
    (shape, classes) = DIGITS
    data = Data(
        np.zeros((train, *shape), np.uint8), np.zeros(train, np.int64),
        np.zeros((test, *shape), np.uint8), np.zeros(test, np.int64),
        [str(n) for n in range(classes)],
    )  # fmt: skip
    return sample_of(data)


def known(grid: Grid) -> Rates:
    keys = trainings(grid, {"digits": DIGITS})
    start = {"initialize": 0.5, "train": 3.0, "evaluate": 4.0}
    return Rates(start, dict.fromkeys(keys, 1e-3), dict.fromkeys(keys, 0.0))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("bounds", [{"params": 0.4}, {"macs": 0.4}, {"latency": 0.4}])
@pytest.mark.parametrize("criterion", ["bn_scale", "uniform", "tapered"])
def test_stand_ins_use_up_the_budget(name, bounds, criterion):
    full = small_structure(name)
    full = replace(full, options=registry.architectures.check(full.family, full.options))
    search = {
        "criterion": criterion, "seed": 0, "options": {}, "min_channels": 1, "round_to": 1,
        "ranking": "global",
        "budget": {"params": None, "macs": None, "latency": None, **bounds},
    }  # fmt: skip
    part = stand_in(full, search)
    kept = [a / b for a, b in zip(part.cost(), part.full.cost(), strict=True)]
    assert 0.15 < kept["params" not in bounds] <= 0.4
    assert part.full.cost() == full.cost()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("budget", [{"params": 0.4}, {"params": 0.5, "macs": 0.6}])
@pytest.mark.parametrize("shape", ["early", "late", "random", "even"])
def test_what_a_search_finds_is_between_the_estimates(name, budget, shape):
    """Of the rankings that a search may have, none has more MACs than the largest; a local one is
    the stand-in itself."""
    full = small_structure(name)
    search = {
        "criterion": "bn_scale", "seed": 0, "options": {}, "min_channels": 1, "round_to": 1,
        "ranking": "global",
        "budget": {"params": None, "macs": None, "latency": None, **budget},
    }  # fmt: skip
    groups, generator = full.graph.groups, np.random.default_rng(0)
    scores = {
        one: {
            "early": np.full(group.size, -float(place)),
            "late": np.full(group.size, float(place)),
            "random": generator.random(group.size),
            "even": np.arange(group.size),
        }[shape]
        for place, (one, group) in enumerate(groups.items())
    }
    ranking = "local" if shape == "even" else "global"
    found = full.with_keep(select_channels(full.graph, scores, Budget(**budget), ranking))
    even, largest = (stand_in(full, search, most).cost()[1] for most in (False, True))
    assert even <= largest <= full.cost()[1]
    assert found.cost()[1] <= 1.02 * largest
    normalized = {**search, "ranking": "normalized"}  # which may find the same
    assert stand_in(full, normalized, most=True).cost()[1] == largest
    if shape == "even":
        assert found.cost()[1] == even
        local = {**search, "ranking": "local"}
        assert stand_in(full, local, most=True).cost()[1] == even


def test_the_largest_structures_take_longer(tiny):
    """As much as their MACs are on the way to the supernet's."""
    tiny["searches"]["slimming"]["budget"] = {"params": 0.3}
    grid, shapes = Grid(parse(tiny)), {"digits": DIGITS}
    rates = known(grid)
    for key in rates.image:
        if key.startswith("pretrain/"):
            rates.image[key] = 6e-3
    kinds = {most: trainings(grid, shapes, most) for most in (False, True)}
    costs = {most: predict(grid, {"digits": images()}, rates, most) for most in kinds}
    longer = 0.0
    for name in tiny["methods"]:
        even, larger = (kinds[most][f"train/digits/vgg/{name}"] for most in (False, True))
        few, more = (one.structure.cost()[1] for one in (even, larger))
        whole = even.structure.full.cost()[1]
        assert few < 0.9 * more < whole
        # two epochs of 1000 images, and a test; a millisecond each, six of the supernet alone
        added = (8 if even.teacher else 6) - 1
        longer += (2000 + 100 / 3) * 1e-3 * added * (more - few) / (whole - few)
    (usual, chain), (largest, longest) = costs.values()
    assert largest["train"].seconds - usual["train"].seconds == pytest.approx(longer)
    assert longest > chain
    assert all(largest[name].seconds == usual[name].seconds for name in ("pretrain", "search"))


@pytest.mark.parametrize("bounds", [{"params": 0.3}, {"params": 1.0}])
def test_what_the_largest_take_is_printed_where_it_is_more(tiny, tmp_path, monkeypatch, bounds):
    monkeypatch.chdir(tmp_path)
    tiny["searches"]["slimming"]["budget"] = bounds
    grid = Grid(parse(tiny))
    rates = known(grid)
    for key in rates.image:
        if key.startswith("pretrain/"):
            rates.image[key] = 6e-3
    write_json("rates.json", asdict(rates))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny))
    lines: list[str] = []
    run("params.yaml", 1, "cpu", tmp_path / "rates.json", None, lines.append)
    largest, _ = predict(grid, datasets(grid), rates, most=True)
    told = [line for line in lines if line.startswith("if searches find")]
    assert len(told) == (bounds["params"] < 1)
    for line in told:
        assert f"train takes {largest['train'].seconds / 3600:.3f} job-hours" in line
        assert f"{largest['train'].seconds / 3600:.3f}" not in lines[5]
        assert line.partition("; ")[2].startswith("with 1 at a time: ")
        assert " to " not in line.partition("; ")[2]


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


@pytest.mark.parametrize("criterion, passes", [("taylor", 0.1), ("activation", 0.25)])
def test_searches_that_look_at_some_images_cost_these(tiny, criterion, passes):
    options = {"images": round(1000 * passes)}
    changes = {"criterion": criterion, "options": options, "ranking": "local"}
    tiny["searches"]["slimming"] |= changes
    grid = Grid(parse(tiny))
    phases, _ = predict(grid, {"digits": images()}, known(grid))
    per_image, start = 1e-3, 3.0
    seeds, networks = len(tiny["seeds"]), len(tiny["architectures"])
    expected = seeds * networks * (start + passes * 1000 * per_image)
    assert phases["search"].seconds == pytest.approx(expected)


def test_published_structures_are_known(tiny):
    job = {
        "criterion": "published", "options": {"name": "resnet56-b"}, "seed": 0,
        "budget": {"params": None, "macs": None, "latency": None},
    }  # fmt: skip
    full = Structure("resnet", {"depth": 56}, (3, 32, 32), 10)
    full = replace(full, options=registry.architectures.check(full.family, full.options))
    (params, macs), (all_params, all_macs) = stand_in(full, job).cost(), full.cost()
    assert macs / all_macs == pytest.approx(1 - 0.276, abs=2e-3)  # Li et al. 2017, table 1
    assert params / all_params == pytest.approx(1 - 0.137, abs=2e-3)


def test_another_data_set_of_the_same_name_is_not_the_one(tiny, tmp_path, monkeypatch):
    """As params files have that share a name."""
    monkeypatch.chdir(tmp_path)
    root = write_folder(tmp_path / "photos", stripes(images=60, side=16))
    tiny["datasets"] = {"digits": {"source": "imagefolder", "options": {"root": str(root)}}}
    options = tiny["datasets"]["digits"]["options"]
    options |= {"size": 8, "per_class": 4}
    prepare.run(Grid(parse(tiny)).prepare("digits"), Path(DATA.format(dataset="digits")))
    few = datasets(Grid(parse(tiny)))["digits"]
    options |= {"size": 16, "per_class": None}
    found = datasets(Grid(parse(tiny)))["digits"]
    assert few.train == 12 < found.train and found.data.input_shape[1:] == (16, 16)
    options |= {"size": 8, "per_class": 4}
    assert datasets(Grid(parse(tiny)))["digits"].read == 0  # it is there


@pytest.mark.slow
def test_networks_that_divide_by_their_weights(tiny, tmp_path, monkeypatch, capsys):
    """Weight normalisation of a bare network, whose parameters are zero, is 0 / 0."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "from torch.nn.utils.parametrizations import weight_norm\n\n"
        "def net():\n"
        "    return nn.Sequential(weight_norm(nn.Conv2d(1, 8, 3)), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n"
    )
    tiny["architectures"] = {"own": {"family": "import", "options": {"module": "own.py:net"}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny))
    grid = Grid(parse(tiny))
    prepare.run(grid.prepare("digits"), Path(DATA.format(dataset="digits")))
    files = Path(DATA.format(dataset="digits")), Path("results/prepare/digits/own")
    draw.run(grid.draw("own"), files[0], files[1] / "drawing.safetensors", None)
    assert main(["estimate", "--jobs", "1", "--device", "cpu"]) == 0
    assert "pretrain" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    "change, words",
    [
        ({"start": 3}, "rates.json: is not a rates file; make one with --save"),
        ({"image": {"train/digits/vgg/st": "fast"}}, "rates.json: is not a rates file"),
        ({"start": {}}, "the rates do not say how long jobs take to start; measure again"),
        ({"setup": {}}, "the rates do not say how long "),
    ],
)
def test_rates_that_are_none(tiny, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(tiny))
    write_json("rates.json", {**asdict(known(Grid(parse(tiny)))), **change})
    with pytest.raises(StError, match=words):
        run("params.yaml", 1, "cpu", Path("rates.json"), None)


def test_rates_of_epochs_that_would_keep_outputs_are_refused(tiny):
    tiny["datasets"]["digits"]["augment"] = {"flip": True}  # two views
    grid = Grid(parse(tiny))
    rates = known(grid)
    keeps = {key: training.keeps for key, training in trainings(grid, {"digits": DIGITS}).items()}
    predict(grid, {"digits": images()}, replace(rates, keeps=keeps))
    other = {key: not kept for key, kept in keeps.items()}
    with pytest.raises(StError, match="are of other epochs: its teacher's outputs"):
        predict(grid, {"digits": images()}, replace(rates, keeps=other))


def test_rates_of_another_grid_are_refused(tiny):
    grid = Grid(parse(tiny))
    rates = known(grid)
    del rates.image["train/digits/vgg/st"]
    with pytest.raises(StError, match="train/digits/vgg/st takes; measure again"):
        predict(grid, {"digits": images()}, rates)


@pytest.mark.slow
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
    assert capsys.readouterr().out == measured and "not measured" not in measured
    exports = {"exports": {"st": {"to": ["torch", "module"]}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny | exports))
    assert main(["estimate", "--jobs", "2", "--rates", "rates.json"]) == 0
    told = f"not measured: {2 * len(tiny['seeds'])} files for other programs\n"
    assert capsys.readouterr().out.startswith(measured.partition("if searches")[0] + told)
    (tmp_path / "rates.json").write_text("{}")
    assert main(["estimate", "--rates", "rates.json"]) == 2
    assert "rates.json: is not a rates file" in capsys.readouterr().err


FOLDERS = [{}, {"size": 8, "train_size": 12}, {"store": "jpeg"}, {"per_class": 25}]


@pytest.mark.slow
@pytest.mark.parametrize("held", [0.0, 0.25])
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("options", FOLDERS, ids=str)
def test_folders_are_read_in_part(tiny, tmp_path, options, split, held, monkeypatch):
    """An estimate for a million photographs takes as long as one for a thousand; numbers, bytes and
    the store are those of all."""
    monkeypatch.chdir(tmp_path)
    root = write_folder(tmp_path / "photos", stripes(images=300, side=16))
    options = {"size": 8, "root": str(root), **options}
    if not split:
        options |= {"root": str(root / "train"), "test_fraction": 0.2}
    tiny["training"]["batch_size"] = 4
    tiny["architectures"] = {"vgg": tiny["architectures"]["vgg"]}
    tiny["datasets"] = {"digits": {"source": "imagefolder", "options": options, "holdout": held}}
    grid = Grid(parse(tiny))
    found = datasets(grid)["digits"]
    monkeypatch.setattr("st.estimate.trainings.STEPS", 10**6)
    whole = datasets(grid)["digits"]
    # what is held out is a whole number of images of each class, and of all here
    near = partial(pytest.approx, abs=3 * bool(held))
    there = len(whole.data.train_labels), len(whole.data.test_labels)
    assert there == near((whole.train, whole.test))
    assert (found.train, found.test) == near((whole.train, whole.test))
    assert found.bytes == pytest.approx(whole.bytes, rel=0.1)
    assert type(found.data.train_images) is type(whole.data.train_images)
    assert found.data.input_shape == whole.data.input_shape
    # 16 batches of 4 images are measured, which the held out ones are beside
    there = len(found.data.train_labels) + len(found.data.test_labels)
    assert min(64, whole.train + whole.test) <= there <= 64 / 0.75 * 2 + 12
    assert "per_class" in options or len(found.data.train_labels) < whole.train


def test_the_store_of_an_estimate_is_that_of_all_images(tiny, tmp_path, monkeypatch):
    """Few images would fit into the memory where all do not."""
    monkeypatch.chdir(tmp_path)
    root = write_folder(tmp_path / "photos", stripes(images=300, side=16))
    tiny["training"]["batch_size"] = 4
    options = {"size": 16, "root": str(root)}
    tiny["datasets"] = {"digits": {"source": "imagefolder", "options": options}}
    kinds = {}
    for memory in (600 * 16 * 16, 10**9):
        monkeypatch.setattr("st.data.datasets.imagefolder.memory", lambda memory=memory: memory)
        kinds[memory] = type(datasets(Grid(parse(tiny)))["digits"].data.train_images)
    assert list(kinds.values()) == [Shards, np.ndarray]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"train_size": 12}, {"store": "jpeg", "train_size": 12}], ids=str
)
def test_command_for_folders_that_are_not_prepared(tiny, tmp_path, capsys, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    root = write_folder(tmp_path / "photos", stripes(images=300, side=16))
    source = {"source": "imagefolder", "options": {"root": str(root), "size": 8, **options}}
    tiny["datasets"]["digits"] = {**source, "augment": {"resized_crop": {}}}
    tiny["architectures"] = {"vgg": tiny["architectures"]["vgg"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny))
    assert main(["estimate", "--jobs", "1", "--device", "cpu"]) == 0
    assert "prepare          1" in capsys.readouterr().out


def test_fewer_batches_of_larger_images_are_measured():
    sides = {8: 16, 32: 16, 64: 4, 224: 2, 600: 2}
    for side, steps in sides.items():
        assert to_measure(((3, side, side), 10), 32, gpus=False) == 32 * steps


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
