"""Trainings with the distillation losses: their taps, caches, and the weights that they have."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import stripes
from helpers.networks import SMALL
from helpers.training import RECIPE, STRUCTURE, a_run, a_teacher, interrupt_after, trained
from torch import nn

from st.config import check
from st.config.grid import Grid
from st.core.device import Device, choose
from st.core.errors import StError
from st.core.registry import inits, losses
from st.core.tensors import read_tensors, write_tensors
from st.data.augment import Augment
from st.data.dataset import save_data
from st.networks import network
from st.networks.checkpoint import load_model, save_model
from st.networks.structure import Structure
from st.phases import prepare, train
from st.training.objective import Objective
from st.training.resume import FORMAT, Interrupted
from st.training.teacher import Teacher, room

TAPS = STRUCTURE.graph.taps
HINTS = {"ce": {"weight": 1.0}, "fitnet": {"weight": 1.0, "stage": None}}
# weights as usual
EVERY = {
    "ce": 1, "kd": 0.9, "cc": 0.02, "at": 1000, "sp": 3000, "rkd": 1, "pkt": 3.0e4,
    "dkd": {"weight": 1, "beta": 2}, "fitnet": {"weight": 100, "stage": 1},
}  # fmt: skip


def hinted(epochs=2, seed=0, objective=HINTS, **recipe):
    run = a_run(epochs=epochs, seed=seed, teacher=a_teacher(), objective=None, **recipe)
    run.objective = Objective(objective, TAPS)
    run.__post_init__()
    return run


def copies(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def test_losses_without_adapters_have_none():
    run = a_run()
    assert not run.objective.adapters and not run.objective.adaptive
    assert len(run.weights) == len(list(run.network.parameters()))


def test_the_adapter_is_trained_with_the_student():
    run = hinted(epochs=6, lr=0.02, weight_decay=0.0)
    assert list(run.objective.adapters) == ["fitnet"]
    before = copies(run.objective.adapters)
    assert before["fitnet.0.weight"].shape == (9, 6, 1, 1)
    trained(run)
    after = copies(run.objective.adapters)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert run.history[-1]["fitnet"] < 0.7 * run.history[0]["fitnet"]


def test_the_adapter_takes_the_same_steps_as_in_torchs_sgd():
    """One step of the loop, written again with torch.optim."""
    run = hinted(epochs=1, batch_size=40, momentum=0.9, weight_decay=0.01)
    student = network.build(STRUCTURE, network.tensors(run.network)).train()
    adapter = nn.Sequential(nn.Conv2d(6, 9, 1, bias=False), nn.BatchNorm2d(9))
    adapter.load_state_dict(copies(run.objective.adapters["fitnet"]))
    weights = [*student.parameters(), *adapter.parameters()]
    sgd = torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=0.01)
    batch, labels = run.images.normalise(run.images.train_images[:]), run.images.train_labels
    ours = student(batch, ("logits", "stage1"))
    with torch.no_grad():
        theirs = run.teacher.eval()(batch, ("stage1",))
    hint = (adapter(ours["stage1"]) - theirs["stage1"]).square().mean()
    (nn.functional.cross_entropy(ours["logits"], labels) + hint).backward()
    sgd.step()
    trained(run)
    for weight, other in zip(run.weights, weights, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-5)


def test_adapters_are_seeded():
    one, again, other = (copies(hinted(seed=seed).objective.adapters) for seed in (0, 0, 1))
    for name, value in one.items():
        assert torch.equal(value, again[name])
    assert not torch.equal(one["fitnet.0.weight"], other["fitnet.0.weight"])
    # it depends on nothing else: the other losses, or what was drawn before
    torch.manual_seed(5)
    more = hinted(objective={"at": {"weight": 1.0}, **HINTS}).objective
    assert torch.equal(copies(more.adapters)["fitnet.0.weight"], one["fitnet.0.weight"])
    # and leaves torch's own generator alone
    state = torch.get_rng_state()
    sample = {"stage1": torch.zeros(2, 3, 4, 4), "stage2": torch.zeros(2, 3, 2, 2)}
    more.adapt(sample, sample, 0, choose("cpu"))
    assert torch.equal(state, torch.get_rng_state())


def test_making_adapters_changes_nothing_else():
    run, plain = hinted(), a_run()
    for name, value in network.tensors(run.network).items():
        np.testing.assert_array_equal(value, network.tensors(plain.network)[name])
    # with a weight of 0, it learns nothing and teaches nothing
    spec = {"ce": {"weight": 1.0}, "fitnet": {"weight": 0.0}}
    one, two = trained(hinted(objective=spec)), trained(a_run())
    for name, value in network.tensors(one.network).items():
        np.testing.assert_array_equal(value, network.tensors(two.network)[name])


def test_a_loss_of_ones_own_with_an_adapter(monkeypatch):
    """Any module will do, one with buffers too; and it needs no teacher."""

    def own(student, teacher, labels, adapter, *, width: int = 3):
        assert teacher is None
        return adapter(student["features"]).square().mean()

    def made(student, teacher, width=3):
        channels = student["features"].shape[1]
        return nn.Sequential(nn.Linear(channels, width), nn.BatchNorm1d(width))

    own.teacher, own.taps, own.adapter = False, ("features",), made
    monkeypatch.setitem(losses._entries, "own", own)  # until the test ends
    losses.register(own)
    run = a_run()
    run.objective = Objective({"ce": {"weight": 1.0}, "own": {"weight": 0.1, "width": 4}})
    run.__post_init__()
    trained(run)
    state = copies(run.objective.adapters)
    assert state["own.0.weight"].shape == (4, 5)
    assert state["own.1.num_batches_tracked"] == 2 * 5
    assert len(run.scales) == 3  # the sparsity penalty is the network's alone


@pytest.fixture
def subnet(tmp_path):
    """A function that trains a narrowed subnet with hints and attention, and returns its files."""
    save_data(tmp_path / "data", stripes(), {})
    options = {"depth": 8, "width": 0.5}
    full = Structure("resnet", options, (1, 8, 8), 3)
    part = Structure(
        "resnet", {**options, "width": 0.25}, (1, 8, 8), 3, supernet_options=options
    )  # as the criterion `uniform` finds it
    for name, structure in (("teacher", full), ("init", part)):
        save_model(tmp_path / name, structure, inits.get("random")(structure, None, 0))
    objective = {**HINTS, "at": {"weight": 10.0}}
    job = {
        "seed": 0,
        "objective": objective,
        "epoch_rule": "same",
        "max_epoch_factor": None,
        "augment": {"crop": 1, "flip": False},
        "training": {**RECIPE, "momentum": 0.9},
    }

    def run(folder: Path) -> dict[str, bytes]:
        files = {"model": folder / "model", "history": folder / "history"}
        inputs = (tmp_path / name for name in ("data", "init", "teacher"))
        train.run(job, *inputs, **files, device="cpu", threads=1)
        return {name: path.read_bytes() for name, path in files.items()}

    return run


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 4])
def test_resuming_with_an_adapter_is_exact(subnet, tmp_path, monkeypatch, epochs_run, epoch):
    whole, place = subnet(tmp_path / "whole"), tmp_path / "part"
    with monkeypatch.context() as patch:
        interrupt_after(patch, epoch)
        with pytest.raises(Interrupted):
            subnet(place)
    state, _ = read_tensors(place / "resume.safetensors", FORMAT)
    assert state["adapter:fitnet.0.weight"].shape == (16, 8, 1, 1)
    epochs_run.clear()
    assert subnet(place) == whole
    assert epochs_run == list(range(epoch + 1, 6))
    model = load_model(place / "model")
    names = {tensor.name for tensor in model.structure.graph.tensors()}
    assert set(model.tensors) == names  # the model has no adapter in it


def test_the_adapters_state_matters(subnet, tmp_path, monkeypatch):
    """What the test above proves: a state with another adapter, or momentum, ends differently."""
    whole = subnet(tmp_path / "whole")
    for change in ("adapter:fitnet.1.bias", "moment:last"):
        place = tmp_path / change.replace(":", "")
        with monkeypatch.context() as patch:
            interrupt_after(patch, 2)
            with pytest.raises(Interrupted):
                subnet(place)
        path = place / "resume.safetensors"
        tensors, header = read_tensors(path, FORMAT)
        last = max(int(n.partition(":")[2]) for n in tensors if n.startswith("moment"))
        name = change.replace("last", str(last))
        assert tensors[name].shape == (16,)
        write_tensors(path, {**tensors, name: tensors[name] + 0.1}, header)
        assert subnet(place)["model"] != whole["model"]


# Caches and params.


def test_room_on_a_gpu(monkeypatch):
    """A quarter of its memory, of which each job that may share it has its part."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: (0, 64 * 2**30))
    monkeypatch.delenv("ST_GPU_SLOTS", raising=False)
    assert room(Device("cuda")) == 16 * 2**30
    monkeypatch.setenv("ST_GPU_SLOTS", "8")
    assert room(Device("cuda")) == 2 * 2**30
    assert room(Device("cpu")) == 2**30


@pytest.mark.parametrize("share, cached", [(1.01, True), (0.99, False)])
def test_large_maps_are_not_cached(monkeypatch, share, cached):
    """The limit counts every tap: maps are far larger than logits."""
    objective = Objective({"at": {"weight": 1.0}}, TAPS)
    run = a_run(objective=None, teacher=a_teacher())
    floats = 9 * 64 + 12 * 16 + 3  # stage1, stage2, logits
    augment = Augment(crop=1)
    room = share * 4 * floats * 40 * augment.views
    monkeypatch.setattr("st.training.teacher.room", lambda device: room)
    teacher = Teacher(run.teacher, objective.taps, run.images, augment, 99, run.device)
    assert teacher.keeps == cached
    views, index = augment.draw(40, 0, 0), torch.arange(8)
    batch = run.images.normalise(augment.apply(run.images.train_images[:], views)[index])
    found, expected = teacher(batch, index, views[index]), teacher._run(batch)
    assert found.keys() == expected.keys() == {"stage1", "stage2", "logits"}
    for tap, value in found.items():
        torch.testing.assert_close(value, expected[tap], rtol=1e-4, atol=1e-4)


def test_missing_stages_are_found_in_params(tiny):
    tiny["architectures"]["resnet"] = {"family": "resnet", "options": {"depth": 8, "width": 0.5}}
    tiny["methods"]["hints"] = {
        "search": "slimming",
        "objective": {"ce": 1, "fitnet": {"weight": 100, "stage": 3}},
    }
    words = "methods.hints.objective: vgg: loss 'fitnet': the network has no 'stage3'"
    with pytest.raises(StError, match=words) as caught:
        check.parse(tiny)
    assert "stage1, stage2" in str(caught.value) and "resnet:" not in str(caught.value)
    tiny["methods"]["hints"]["architectures"] = ["resnet"]
    check.parse(tiny)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "data"
    prepare.run({"source": "digits", "options": {}, "holdout": 0.0}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("found_by", ["keep", "width"])
@pytest.mark.parametrize("family", ["vgg", "resnet", "preresnet", "densenet"])
def test_all_losses_at_once(tiny, digits, tmp_path, family, found_by):
    """An epoch of digits, as params.yaml gives it."""
    assert sorted(EVERY) == losses.names()
    name, options = SMALL[family]
    tiny["architectures"] = {family: {"family": name, "options": options}}
    tiny["training"]["epochs"] = 1
    tiny["training"]["lr"] = 0.01
    tiny["methods"] = {"all": {"search": "slimming", "objective": EVERY}}
    grid = Grid(check.parse(tiny))
    full = Structure(name, options, (1, 8, 8), 10)
    narrow = {**options, "width": options.get("width", 1) / 2}
    keep = {g: np.arange(-(-group.size // 2)) for g, group in full.graph.groups.items()}
    part = {
        "keep": Structure(name, options, (1, 8, 8), 10, keep),
        "width": Structure(name, narrow, (1, 8, 8), 10, supernet_options=options),
    }[found_by]
    for file, structure in (("teacher", full), ("init", part)):
        save_model(tmp_path / file, structure, inits.get("random")(structure, None, 0))
    job = grid.train("digits", family, 0, "all")
    train.run(
        job, digits, tmp_path / "init", tmp_path / "teacher", tmp_path / "model",
        tmp_path / "history", device="cpu", threads=1,
    )  # fmt: skip
    header, row = (tmp_path / "history").read_text().splitlines()
    values = dict(zip(header.split(","), map(float, row.split(",")), strict=True))
    assert all(np.isfinite(values[loss]) and values[loss] > 0 for loss in EVERY)
