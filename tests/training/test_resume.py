"""Interrupted trainings end as if nothing had happened: the same bytes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.images import stripes
from helpers.project import ROOT
from helpers.training import EPOCHS, JOB, NAMES, RECIPE, interrupt_after, run, run_interrupted
from safetensors.numpy import save_file

from st.core import sources
from st.core.tensors import read_tensors, write_tensors
from st.data.dataset import save_data
from st.networks.checkpoint import load_model, save_model
from st.networks.structure import Structure, save_structure
from st.phases import initialize, train
from st.training import resume
from st.training.resume import Interrupted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data; each test works in a folder of its own below."""
    path = tmp_path_factory.mktemp("resume")
    save_data(path / "data", stripes(), {})
    return path


@pytest.fixture(scope="module")
def uninterrupted(folder):
    result = run(folder / "uninterrupted")
    assert sorted(f.name for f in (folder / "uninterrupted").iterdir()) == sorted(NAMES)
    return result


@pytest.mark.parametrize(
    "epoch, number", [(1, "SIGTERM"), (2, "SIGURG"), (3, "SIGTERM"), (4, "SIGTERM")]
)
def test_signals(folder, uninterrupted, epochs_run, monkeypatch, epoch, number):
    place = folder / f"{number}{epoch}"
    with monkeypatch.context() as patch:
        interrupt_after(patch, epoch, number=getattr(signal, number))
        with pytest.raises(Interrupted, match=f"after epoch {epoch} of {EPOCHS}; run it again"):
            run(place)
    # nothing that the workflow would take for a result, or delete and miss afterwards
    assert [f.name for f in place.iterdir()] == ["resume.safetensors"]
    assert run(place) == uninterrupted
    assert epochs_run == list(range(1, EPOCHS + 1))
    assert sorted(f.name for f in place.iterdir()) == sorted(NAMES)


def test_a_training_with_adamw(folder, monkeypatch):
    """Whose moments, and number of steps, are kept too."""
    recipe = {**RECIPE, "optimiser": "adamw", "lr": 0.01, "label_smoothing": 0.1}
    job = {**JOB, "training": recipe}
    whole = run(folder / "adamw-whole", job)
    run_interrupted(monkeypatch, folder / "adamw", job, 3)
    tensors, _ = read_tensors(folder / "adamw" / "resume.safetensors", resume.FORMAT)
    steps = max(int(n.partition(":")[2]) for n in tensors if n.startswith("moment:"))
    assert tensors[f"moment:{steps}"] == 3 * 5  # epochs of five steps
    assert run(folder / "adamw", job) == whole
    assert run(folder / "sgd", {**job, "training": {**recipe, "optimiser": "sgd"}}) != whole


def test_sigterm_again_and_again(folder, uninterrupted, epochs_run, monkeypatch):
    place = folder / "again"
    interrupt_after(monkeypatch, 1, 2, 4, 5)
    for _ in range(3):
        with pytest.raises(Interrupted):
            run(place)
    assert run(place) == uninterrupted  # in the last epoch it is too late to stop
    assert epochs_run == list(range(1, EPOCHS + 1))


SCRIPT = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers.training import run
from st.core import files
from st.training import resume
from st.training.progress import Progress

resume.INTERVAL = 0.0
at, told = sys.argv[3], Progress.epoch
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def epoch(self, row, speed):
    if row["epoch"] == 4 and at == "epoch":
        die()
    if row["epoch"] == 3 and at == "write":
        files.os.fsync = die
    told(self, row, speed)

Progress.epoch = epoch
run(Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("at, left", [("epoch", [4, 5]), ("write", [3, 4, 5])])
def test_kill(folder, uninterrupted, epochs_run, at, left):
    """Killed without a word: in the fourth epoch, or while the third state was being written."""
    place = folder / f"kill-{at}"
    command = [sys.executable, "-c", SCRIPT, str(ROOT / "tests"), str(place), at]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not any((place / name).exists() for name in NAMES)
    assert run(place) == uninterrupted
    assert epochs_run == left


def test_states_are_written_now_and_then(folder, monkeypatch):
    written = []
    monkeypatch.setattr(resume, "write_tensors", lambda *arguments: written.append(arguments))
    run(folder / "rarely")
    assert not written  # it took less than INTERVAL
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    run(folder / "often")
    assert len(written) == EPOCHS - 1


@pytest.fixture
def state(folder, monkeypatch) -> bytes:
    """A state after the third epoch."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(Interrupted):
            run(folder / "state")
    path = folder / "state" / "resume.safetensors"
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.parametrize("kind", ["empty", "half", "noise", "flipped", "keyless", "model", "text"])
def test_damaged_and_foreign_states_are_ignored(folder, uninterrupted, epochs_run, state, kind):
    place = folder / f"damaged-{kind}"
    place.mkdir()
    path = place / "resume.safetensors"
    flipped = bytearray(state)
    flipped[state.index(b"key")] ^= 1
    header = {"format": resume.FORMAT, "version": 1, "history": []}
    save_file({"weight:conv1.weight": np.zeros(3)}, place / "keyless", {"st": json.dumps(header)})
    path.write_bytes(
        {
            "empty": b"",
            "half": state[: len(state) // 2],
            "noise": np.random.default_rng(0).bytes(5000),
            "flipped": bytes(flipped),
            "keyless": (place / "keyless").read_bytes(),
            "model": uninterrupted["model"],
            "text": b"hello",
        }[kind]
    )
    epochs_run.clear()
    assert run(place) == uninterrupted
    assert epochs_run == list(range(1, EPOCHS + 1))


CHANGES = [
    {"seed": 1}, {"sparsity": 0.0}, {"augment": {"crop": 0, "flip": True}},
    {"init_options": {"bn_scale": 1}},
]  # fmt: skip
CHANGES += [{"training": {**RECIPE, **change}} for change in ({"lr": 0.04}, {"epochs": 4})]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_a_state_of_other_params_is_ignored(folder, epochs_run, state, change):
    place = folder / f"other-{json.dumps(change)[:40]}".replace("/", "")
    job, clean = {**JOB, **change}, place.with_name(place.name + "-clean")
    place.mkdir()
    (place / "resume.safetensors").write_bytes(state)
    epochs_run.clear()
    assert run(place, job) == run(clean, job)
    assert epochs_run == 2 * list(range(1, job["training"]["epochs"] + 1))


@pytest.mark.parametrize(
    "fact, words",
    [
        ({"device": "GPU"}, "device GPU instead of CPU"),
        ({"precision": "bfloat16"}, "precision bfloat16 instead of float32"),
        ({"cuDNN": 91000}, "cuDNN 91000 instead of None"),
        ({"torch": "2.0"}, "torch 2.0 instead of"),
    ],
)
def test_a_state_from_another_device_starts_over_and_says_so(
    folder, uninterrupted, epochs_run, state, fact, words, monkeypatch
):
    place = folder / f"other-{words}"
    place.mkdir()
    (place / "resume.safetensors").write_bytes(state)
    tensors, header = read_tensors(place / "resume.safetensors", resume.FORMAT)
    write_tensors(
        place / "resume.safetensors", tensors, {**header, "made": {**header["made"], **fact}}
    )
    said = []
    monkeypatch.setattr(resume, "say", said.append)
    epochs_run.clear()
    assert run(place) == uninterrupted
    assert epochs_run == list(range(1, EPOCHS + 1))
    assert len(said) == 1 and said[0].startswith("starts over") and words in said[0]


@pytest.mark.parametrize(
    "edited", ["st.training.losses.ce", "st.networks.architectures.vgg", "st.training.trainer"]
)
def test_other_code_is_noticed(folder, uninterrupted, epochs_run, state, monkeypatch, edited):
    """A loss that was edited meanwhile would else go on from what the former one had made."""
    place = folder / f"edited-{edited}"
    place.mkdir()
    (place / "resume.safetensors").write_bytes(state)
    digest = sources.digest
    monkeypatch.setattr(
        sources, "digest", lambda *names: digest(*names) + "edited" * (edited in names)
    )
    epochs_run.clear()
    assert run(place) == uninterrupted
    assert epochs_run == list(range(1, EPOCHS + 1))


def test_a_modules_code_is_what_its_file_says(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "edited_loss.py").write_text("from st.core.registry import losses\n")
    before = sources.digest("edited_loss")
    assert sources.digest("edited_loss") == before != sources.digest("st.core.registry")
    (tmp_path / "edited_loss.py").write_text("from st.core.registry import losses  # edited\n")
    assert sources.digest("edited_loss") != before
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert sources.digest("__main__") == sources.digest()  # a script is no module


def test_other_data_is_noticed(folder, epochs_run, state):
    save_data(folder / "elsewhere" / "data", stripes(seed=1), {})
    place = folder / "elsewhere" / "place"
    place.mkdir()
    (place / "resume.safetensors").write_bytes(state)
    epochs_run.clear()
    run(place)
    assert epochs_run == list(range(1, EPOCHS + 1))


def test_rewind_weights_are_those_of_their_epoch(folder, uninterrupted):
    """Those of a training that is cut off there, since the schedule is the longer one's."""
    early = load_model(folder / "uninterrupted" / "rewind")
    assert early.facts["epochs"] == 2 and early.tensors["bn1.num_batches_tracked"] == 2 * 5
    last = run(folder / "rewind-last", {**JOB, "rewind_epoch": EPOCHS})
    assert last["model"] != last["rewind"]  # what they say of themselves differs
    one, two = (load_model(folder / "rewind-last" / name).tensors for name in ("model", "rewind"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    run(folder / "rewind-first", {**JOB, "rewind_epoch": 0})
    first = load_model(folder / "rewind-first" / "rewind")
    assert first.facts["epochs"] == 0 and (first.tensors["bn1.weight"] == 0.5).all()


@pytest.fixture
def subnet(folder, uninterrupted):
    """A function that trains a subnet of the uninterrupted supernet, with all losses."""
    teacher = folder / "uninterrupted" / "model"
    full = load_model(teacher).structure
    keep = {"conv1": np.array([0, 2, 5]), "conv2": np.array([1, 4])}
    part = Structure(full.family, full.options, full.input_shape, full.classes, keep)
    save_structure(folder / "structure.json", part)
    job = {
        "seed": 0,
        "objective": {
            "ce": {"weight": 0.1},
            "kd": {"weight": 0.9, "temperature": 4.0},
            "cc": {"weight": 0.02, "gamma": 0.4, "order": 2},
        },
        "epoch_rule": "computation",
        "max_epoch_factor": 1.5,
        "augment": {"crop": 1, "flip": False},
        "training": {**RECIPE, "epochs": 8},
    }
    start = {"seed": 0, "init": "random", "options": {"bn_scale": 1.0}}
    initialize.run(start, folder / "structure.json", None, folder / "init")

    def trained(place: Path, **other: Path) -> dict[str, bytes]:
        inputs = {"data": folder / "data", "init": folder / "init", "teacher": teacher, **other}
        files = {"model": place / "model", "history": place / "history"}
        train.run(job, **inputs, **files, device="cpu", threads=1)
        return {name: path.read_bytes() for name, path in files.items()}

    return trained


def test_a_subnet_under_supervision_resumes_too(folder, subnet, monkeypatch, epochs_run):
    """From computing the teacher's outputs each time to reading them from a cache: 12 epochs (8
    times the saved computation, at most 1.5) are more than 9 views."""
    whole = subnet(folder / "subnet-whole")
    assert epochs_run == list(range(1, 13))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        with pytest.raises(Interrupted):
            subnet(folder / "subnet")
    assert subnet(folder / "subnet") == whole
    header, *rows = whole["history"].decode().splitlines()
    shares = "share_ce,share_kd,share_cc"
    assert header == f"epoch,lr,loss,ce,kd,cc,{shares},train_accuracy,test_accuracy"
    assert [row.split(",")[0] for row in rows] == [str(n) for n in range(1, 13)]


def test_other_inputs_of_a_subnet_are_noticed(folder, subnet, monkeypatch, epochs_run):
    save_data(folder / "other-data", stripes(seed=1), {})
    start = load_model(folder / "init")
    save_model(folder / "other-init", start.structure, {k: v + 1 for k, v in start.tensors.items()})
    other = {
        "data": folder / "other-data",
        "init": folder / "other-init",
        "teacher": folder / "uninterrupted" / "rewind",
    }
    for name, path in other.items():
        with monkeypatch.context() as patch:
            interrupt_after(patch, 2)
            with pytest.raises(Interrupted):
                subnet(folder / f"subnet-{name}")
        epochs_run.clear()
        subnet(folder / f"subnet-{name}", **{name: path})
        assert epochs_run == list(range(1, 13)), name
