"""The files of every job: what one phase reads another has written, wherever they are named."""

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import random_tensors
from helpers.project import ROOT

from st.config import layout, wiring
from st.config.check import parse
from st.config.grid import Grid
from st.config.layout import Experiment
from st.config.named import named_job
from st.config.params import Export
from st.config.supernets import networks
from st.core.tensors import save_tensors
from st.phases.command import load_phase

PHASES = ["prepare", "draw", "pretrain", "search", "initialize", "train", "deploy", "evaluate"]


@pytest.fixture
def grid(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    supernet = networks(parse(tiny))[1]["digits", "vgg"]
    for name in ("vgg", "mine", "given"):
        tensors = random_tensors(supernet, np.random.default_rng(0))
        save_tensors(tmp_path / f"{name}.safetensors", tensors)
    imported = {"module": "torchvision.models:resnet18"}
    tiny["seeds"] = [0, 3]
    tiny["architectures"] |= {
        "mine": {"family": "import", "options": imported},
        "given": {"family": "import", "options": {**imported, "weights": "vgg.safetensors"}},
    }
    tiny["supernets"]["given"] = {"weights": "{architecture}.safetensors"}
    tiny["supernets"]["plain"] = {}
    tiny["searches"] |= {
        "taylor": {"supernet": "plain", "criterion": "taylor", "budget": {"params": 0.5}},
        "rounds": {**tiny["searches"]["slimming"], "rounds": 3},
    }
    tiny["methods"] |= {"tuned": {"search": "taylor", "init": "inherit"}}
    tiny["methods"]["lottery"]["search"] = "rounds"
    tiny["methods"]["small"] = {"search": "slimming", "architectures": ["vgg"]}
    # not parsed: the packages that they need may not be there
    exports = {"small": Export(to=["onnx", "int8", "module"], raw=True)}
    return Grid(parse(tiny).model_copy(update={"exports": exports}))


def test_a_librarys_code_is_no_input(grid, monkeypatch):
    """Wherever its environment lies; a module of one's own is one, with what it imports."""
    monkeypatch.chdir(Path(sys.prefix).parent)
    assert wiring.own_code(grid, "mine") == ()
    monkeypatch.chdir(ROOT)
    grid.params.architectures["mine"].options["module"] = "st.core.seeds:stream"
    assert [path.name for path in wiring.own_code(grid, "mine")][-1] == "seeds.py"


def flat(files: layout.Paths) -> list[str]:
    lists = [path if isinstance(path, list) else [path] for path in files.values() if path]
    return [path for paths in lists for path in paths]


def test_all_inputs_are_the_outputs_of_earlier_phases(grid):
    made = {f"{name}.safetensors" for name in ("vgg", "mine", "given")}  # the user's
    for phase in [*PHASES, "report"]:
        for experiment in grid.experiments(phase):
            files = wiring.files(grid, phase, experiment)
            assert set(flat(files.inputs)) <= made
            assert set(files.outputs) == set(layout.OUTPUTS[phase])
            if phase != "report":
                assert tuple(files.inputs) == layout.INPUTS[phase]
            assert grid.job(phase, experiment)
        new = wiring.made(grid, phase)
        assert len(set(new)) == len(new) and not made & set(new)
        made |= set(new)
        assert phase == "report" or {layout.owner(path)[0] for path in new} == {phase}


def test_what_only_some_jobs_have(grid):
    absent = set()
    for phase in PHASES:
        for experiment in grid.experiments(phase):
            files = wiring.files(grid, phase, experiment)
            absent |= {(phase, option) for option, path in files.inputs.items() if path is None}
            assert None not in files.outputs.values()
    assert absent == {(phase, name) for phase, names in layout.OPTIONAL.items() for name in names}


def test_which_supernet(grid):
    run = "digits/vgg/seed3"
    search = wiring.files(grid, "search", Experiment("digits", "vgg", 3, "rounds"))
    assert search.inputs == {
        "supernet": f"results/pretrain/{run}/sparse/model.safetensors",
        "data": "results/prepare/digits/data.safetensors",
        "rewind": f"results/pretrain/{run}/sparse/rewind.safetensors",
    }
    start = wiring.files(grid, "initialize", Experiment("digits", "vgg", 3, "tuned"))
    assert start.inputs == {
        "structure": f"results/search/{run}/taylor/structure.json",
        "source": f"results/pretrain/{run}/plain/model.safetensors",
    }
    taught = wiring.files(grid, "train", Experiment("digits", "vgg", 3, "st"))
    assert taught.inputs["teacher"] == f"results/pretrain/{run}/sparse/model.safetensors"


def test_evaluate_has_a_row_for_each_of_its_files(grid):
    experiment = Experiment("digits", "vgg", 0)
    files = wiring.files(grid, "evaluate", experiment)
    rows = grid.job("evaluate", experiment)["rows"]
    for option in ("metrics", "predictions"):
        assert [path.split("/")[-2] for path in files.outputs[option]] == [
            row["method"] for row in rows
        ]
    files = len(files.inputs["models"]), len(files.inputs["exports"])
    assert files == (len(rows) - 3, 3)
    assert rows[-2] == {
        "method": "small-int8", "teacher": None, "of": "small", "to": "int8", "raw": True,
    }  # fmt: skip


def test_files_for_other_programs(grid):
    """They lie beside their metrics; DVC then has them with those."""
    job, files, label = named_job(grid, "deploy", "digits/vgg/seed3/small-int8")
    assert job == {"to": "int8", "raw": True} and label == "digits/vgg/seed3/small-int8"
    assert str(files["model"]) == "results/train/digits/vgg/seed3/small/model.safetensors"
    folder = "results/evaluate/digits/vgg/seed3/small-int8"
    assert str(files["exported"]) == f"{folder}/network.onnx"
    measured = wiring.files(grid, "evaluate", Experiment("digits", "vgg", 3))
    assert str(files["exported"]) in measured.inputs["exports"]
    assert wiring.beside(grid, Experiment("digits", "vgg", 3)) == [
        f"{folder.replace('int8', 'module')}/network.safetensors"
    ]
    names, outputs = wiring.deployed(grid, "module")
    assert names == ["small-module"]
    place = "results/evaluate/{dataset}/{architecture}/seed{seed}/{exported}"
    assert outputs == {
        "exported": f"{place}/network.py", "safetensors": f"{place}/network.safetensors",
        "about": f"{place}/network.py.json", "card": f"{place}/MODEL_CARD.md",
    }  # fmt: skip
    assert f"{folder}/metrics.json" in measured.outputs["metrics"]
    assert wiring.files(grid, "evaluate", Experiment("digits", "mine", 3)).inputs["exports"] is None
    about = {name: rows for name, rows in grid.report()["exports"].items() if rows}
    assert about == {
        "vgg": [
            {"method": f"small-{to}", "of": "small", "to": to} for to in ("onnx", "int8", "module")
        ]
    }  # fmt: skip


def test_without_the_workflow_files_are_the_same(grid):
    job, files, label = named_job(grid, "train", "digits/vgg/seed3/st")
    experiment = Experiment("digits", "vgg", 3, "st")
    expected = wiring.files(grid, "train", experiment)
    assert {name: str(path) for name, path in files.items()} == expected.inputs | expected.outputs
    assert job == grid.job("train", experiment) and label == "digits/vgg/seed3/st"


def test_owners_of_files():
    assert layout.owner("results/train/d/a/seed0/st/model.safetensors") == ("train", "model")
    assert layout.owner("results/train/d/a/seed0/st/resume.safetensors") is None
    assert layout.owner("results/train/d/a/b/seed0/st/model.safetensors") is None


@pytest.mark.parametrize("phase", layout.OUTPUTS)
def test_phases_take_these_files(phase):
    taken = set(inspect.signature(load_phase(phase).run).parameters)
    taken -= {"job", "device", "threads", "member"}
    assert taken == {*layout.INPUTS[phase], *layout.OUTPUTS[phase]}
