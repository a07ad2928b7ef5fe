"""The API and the workflow's jobs give the same bits, from the same settings, seed and threads."""

import copy
import csv
import importlib.util

import numpy as np
import pytest
import yaml
from helpers.params import TINY

import st
from st import cli
from st.core.progress import logger
from st.networks.checkpoint import load_model
from st.networks.structure import load_structure

NET = """
import torch
from torch import nn


class Net(nn.Module):
    '''A residual sum, a depthwise convolution and dropout.'''

    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8),
        )
        self.drop, self.fc = nn.Dropout(0.1), nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(self.drop(torch.relu(x + self.deep(x)).mean((2, 3))))
"""
RECIPE = {"epochs": 2, "batch_size": 64, "lr": 5e-2, "schedule": "onecycle"}
AUGMENT = {"crop": 1}
OBJECTIVE = {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}, "cc": 0.02}
PHASES = (
    ("pretrain", "sparse"), ("search", "slimming"), ("search", "taylor"),
    ("initialize", "st"), ("train", "st"), ("initialize", "tuned"), ("train", "tuned"),
)  # fmt: skip


@pytest.fixture(scope="module", params=["vgg", pytest.param("mine", marks=pytest.mark.slow)])
def made(request, tmp_path_factory):
    """The folder in which the command line has made an experiment of a drawn or imported network,
    its results, and a function that makes the same network."""
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "net.py").write_text(NET)
    params = copy.deepcopy(yaml.safe_load(TINY))
    mine = {"family": "import", "options": {"module": "net.py:Net"}, "sparsity": 1e-3}
    params["architectures"]["mine"] = mine
    taylor = {"supernet": "sparse", "criterion": "taylor", "budget": {"macs": 0.4}}
    params["searches"]["taylor"] = {**taylor, "options": {"images": 100}}
    params["methods"] = {
        "st": {"search": "slimming", "objective": OBJECTIVE},
        "tuned": {"search": "taylor", "init": "inherit"},
    }
    params["training"].update(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        commands = [("prepare", "digits")]
        commands += [("draw", "digits/mine")] if request.param == "mine" else []
        commands += [(phase, f"digits/{request.param}/seed0/{name}") for phase, name in PHASES]
        for command in commands:
            place = () if command[0] in ("prepare", "draw", "initialize") else ("--device", "cpu")
            place += ("--threads", "1") if place else ()
            assert cli.main([*command, *place]) == 0
            logger.handlers.clear()
    return folder / "results", request.param, folder / "net.py"


def supernet(family, file):
    init = {"bn_scale": 0.5}
    if family == "vgg":
        options = {"layers": [8, "M", 8]}
        return st.supernet("vgg", (1, 8, 8), 10, options=options, init_options=init)
    spec = importlib.util.spec_from_file_location("net", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.Net(10)
    return st.supernet(net, (1, 8, 8), weights="random", init_options=init)


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


def test_equal_to_the_bit(made, tmp_path):
    """Supernet, structures, first weights, subnet: all of one method from scratch."""
    results, family, file = made
    where = {"device": "cpu", "threads": 1}
    data = st.dataset("digits")
    at = f"digits/{family}/seed0"

    def kept(name, network):
        """The file of the workflow, and the network as its file would be."""
        st.save(network, tmp_path / "own.safetensors")
        return load_model(results / name), load_model(tmp_path / "own.safetensors")

    drawn = supernet(family, file)
    full = st.train(drawn, data, **RECIPE, sparsity=1e-3, augment=AUGMENT, **where)
    theirs, ours = kept(f"pretrain/{at}/sparse/model.safetensors", full)
    same(ours.tensors, theirs.tensors)

    found = st.search(full, {"params": 0.5})
    expected = load_structure(results / f"search/{at}/slimming/structure.json")
    same(found.keep, expected.keep)
    assert 0 < found.cost()[0] <= 0.5 * full.structure.cost()[0]
    by_images = {"options": {"images": 100}, "data": data, **where}
    other = st.search(full, {"macs": 0.4}, "taylor", **by_images)
    same(other.keep, load_structure(results / f"search/{at}/taylor/structure.json").keep)

    begun = st.prune(full, found, "random")
    theirs, ours = kept(f"initialize/{at}/st/init.safetensors", begun)
    same(ours.tensors, theirs.tensors)
    small = st.train(begun, data, OBJECTIVE, teacher=full, **RECIPE, augment=AUGMENT, **where)
    theirs, ours = kept(f"train/{at}/st/model.safetensors", small)
    same(ours.tensors, theirs.tensors)
    assert ours.facts == theirs.facts  # seed, recipe, environment, classes, normalisation
    same(ours.structure.keep, theirs.structure.keep)
    with open(results / f"train/{at}/st/history.csv", newline="") as history:
        rows = list(csv.DictReader(history))
    assert [float(row["loss"]) for row in rows] == pytest.approx(
        [row["loss"] for row in small.history], rel=1e-5
    )

    tuned = st.prune(full, other)
    same(
        kept(f"initialize/{at}/tuned/init.safetensors", tuned)[1].tensors,
        load_model(results / f"initialize/{at}/tuned/init.safetensors").tensors,
    )


def test_files_of_the_workflow_go_on_in_the_api(made, tmp_path):
    """A model file, a structure and prepared data; what comes out is the next phase's file."""
    results, family, _ = made
    at = f"digits/{family}/seed0"
    data = st.dataset(results / "prepare/digits/data.safetensors")
    full = st.load(results / f"pretrain/{at}/sparse/model.safetensors")
    begun = st.prune(full, results / f"search/{at}/slimming/structure.json", "random")
    small = st.train(
        begun, data, OBJECTIVE, teacher=full, **RECIPE, augment=AUGMENT, device="cpu", threads=1
    )
    st.save(small, tmp_path / "own.safetensors")
    file = results / f"train/{at}/st/model.safetensors"
    assert (tmp_path / "own.safetensors").read_bytes() == file.read_bytes()
    assert st.evaluate(small, data)["accuracy"] == small.history[-1]["test_accuracy"]
