"""Full disks, failing devices, jobs that lack keys: one line says what to do, nothing is lost."""

import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
import yaml

from st import cli
from st.core import files
from st.core.errors import explained
from st.core.progress import logger
from st.training.progress import Progress

RUN = "digits/vgg/seed0"
ARGUMENTS = ["pretrain", f"{RUN}/sparse", "--device", "cpu", "--threads", "1"]
FOLDER = Path("results/pretrain") / RUN / "sparse"
STATE = FOLDER / "resume.safetensors"


def st(*arguments: str) -> int:
    status = cli.main(list(arguments))
    logger.handlers.clear()
    return status


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def project(tmp_path, tiny, monkeypatch):
    """A folder with a params file and prepared data."""
    tiny["training"]["epochs"] = 4
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny))
    monkeypatch.chdir(tmp_path)
    assert st("prepare", "digits") == 0
    return tmp_path


@pytest.fixture
def stopped(project, monkeypatch, capsys):
    """The same with a supernet's training that was told to stop after its second epoch; what it
    would have made without that."""
    assert st(*ARGUMENTS) == 0
    whole = contents(FOLDER)
    for path in FOLDER.iterdir():
        path.unlink()
    told = Progress.epoch

    def signalled(self, row, speed):
        told(self, row, speed)
        if row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "epoch", signalled)
        assert st(*ARGUMENTS) == 2
    assert set(contents(FOLDER)) == {str(STATE)}
    capsys.readouterr()
    return whole


def fails(capsys, *words: str) -> None:
    """The training ends with one line, which has these words, and its state is as it was."""
    before = contents(FOLDER)
    assert st(*ARGUMENTS) == 2
    told = capsys.readouterr().err
    (line,) = [line for line in told.split("\n") if "sparse: error: " in line]
    assert all(word in line for word in words) and "Traceback" not in told, told
    assert contents(FOLDER) == before


def goes_on(whole: dict[str, bytes]) -> None:
    assert st(*ARGUMENTS) == 0
    assert contents(FOLDER) == whole


ERRORS = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "batch_size"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "which is 64"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "memory is full"),
    (torch.AcceleratorError("CUDA error: unspecified launch failure\nmore"), "nvidia-smi"),
    (RuntimeError("CUDA error: the device is gone"), "the GPU failed"),
    (MemoryError(), "fewer jobs at once"),
    (
        OSError(errno.ENOSPC, "No space left on device", "x"),
        "x: No space left on device; make room",
    ),
    (OSError(errno.EROFS, "Read-only file system", "x"), "fix the permissions"),
]


@pytest.mark.slow
@pytest.mark.parametrize("error, words", ERRORS, ids=lambda x: type(x).__name__)
def test_what_libraries_raise(stopped, monkeypatch, capsys, error, words):
    with monkeypatch.context() as patch:
        patch.setattr("st.training.loop.learning_rate", lambda *_: (_ for _ in ()).throw(error))
        fails(capsys, words, "are kept", "run it again")
    goes_on(stopped)


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shape"), OSError(5, "I/O")])
def test_bugs_keep_their_traceback(project, monkeypatch, error):
    monkeypatch.setattr("st.training.loop.learning_rate", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)) as caught:
        st(*ARGUMENTS)
    assert caught.value is error and explained(error, "") is None


def test_a_full_disk(stopped, monkeypatch, capsys):
    """Files of more than 1,500 bytes can't be written: the state, or the model."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        fails(capsys, "cannot be written", "File too large", "make room", "finished files are kept")
        monkeypatch.setattr("st.training.resume.INTERVAL", 0.0)
        fails(capsys, f"{STATE}: cannot be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    goes_on(stopped)


def test_a_full_disk_stops_no_phase_half_way(project, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = contents(project / "results")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        assert st("prepare", "digits") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = capsys.readouterr().err
    assert "data.safetensors: cannot be written" in told and told.count("\n") == 1
    assert contents(project / "results") == before


def test_results_that_are_read_only(stopped, monkeypatch, capsys):
    def refuse(self, target):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)  # also root would be refused
        fails(
            capsys, "rewind.safetensors: cannot be written (Read-only file system)", "permissions"
        )
    goes_on(stopped)
    if os.geteuid():
        FOLDER.chmod(0o500)
        try:
            assert st(*ARGUMENTS) == 2
        finally:
            FOLDER.chmod(0o700)
        assert "cannot be written (Permission denied)" in capsys.readouterr().err


def test_a_full_disk_does_not_stop_for_the_log(project, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = project / "log"
    log.write_bytes(b"")
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # the data fit
    try:
        assert st("prepare", "digits", "--log", "/dev/full") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_losses_that_are_not_finite(stopped, monkeypatch, capsys, value):
    from st.training.losses import ce

    with monkeypatch.context() as patch:
        patch.setitem(
            ce.losses._entries, "ce", _with(ce.ce, lambda *a, **o: ce.ce(*a, **o) * value)
        )
        fails(capsys, "the loss is nan" if value != value else "the loss is", "in epoch 3", "lower")
    goes_on(stopped)


def _with(known, function):
    """`function` with the attributes of a registered loss."""
    function.__dict__.update(known.__dict__)
    function.__module__ = known.__module__  # other code would start over
    return function


def test_weights_that_the_last_step_ruins(stopped, monkeypatch, capsys):
    """The loss of the last epoch is finite, the weights after it are not."""
    from st.training import loop

    def rate(recipe, progress):
        last = progress > 1 - 1 / (4 * (897 // 64)) - 1e-9
        return 1e300 if last else training_rate(recipe, progress)

    training_rate = loop.learning_rate
    with monkeypatch.context() as patch:
        patch.setattr("st.training.loop.learning_rate", rate)
        fails(capsys, "the weights are no longer finite in epoch 4", "lower training.lr")
    goes_on(stopped)


def test_missing_data(project, capsys):
    (project / "results/prepare/digits/data.safetensors").unlink()
    assert st(*ARGUMENTS) == 2
    told = capsys.readouterr().err
    assert "data.safetensors: is missing; the phase before this one makes it" in told
    assert not FOLDER.exists()


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    path, pid = tmp_path / "a[b]*.json", 2**22 + 1  # above the largest process number
    left = [tmp_path / f".a[b]*.json.{name}.tmp" for name in (pid, "x", 10**30)]
    kept = [tmp_path / f".a[b]*.json.{os.getppid()}.tmp", tmp_path / f".ab.json.{pid}.tmp"]
    for file in left + kept:
        file.write_text("half")
    files.write_json(path, 1)
    assert set(tmp_path.iterdir()) == {path, *kept}


def test_files_and_folders_reach_the_disk(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace

    def noted(descriptor):
        order.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def renamed(self, target):
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", renamed)
    files.write_json(tmp_path / "x.json", 1)
    assert order == [str(tmp_path / f".x.json.{os.getpid()}.tmp"), "rename", str(tmp_path)]


def test_jobs_that_lack_keys(project, tiny, capsys):
    """Whatever key is taken out of a job: it is named."""
    from st.config.check import parse
    from st.config.grid import Grid

    grid = Grid(parse(tiny))
    capsys.readouterr()
    data = ["--data", "results/prepare/digits/data.safetensors"]
    cases = {
        "prepare": (grid.prepare("digits"), ["--data", "out"]),
        "pretrain": (
            grid.pretrain("digits", "vgg", 0, "sparse"),
            [*data, "--model", "out", "--rewind", "out2", "--history", "out3", "--device", "cpu"],
        ),
    }
    for command, (job, arguments) in cases.items():
        for key in job:
            text = json.dumps({k: v for k, v in job.items() if k != key})
            assert st(command, "--job", text, *arguments) == 2
            told = capsys.readouterr().err
            assert f"--job: lacks '{key}'" in told and told.count("\n") == 1, told
            assert not Path("out").exists()
    # sections have defaults, but not for this
    job, arguments = cases["pretrain"]
    job["training"].pop("epochs")
    assert st("pretrain", "--job", json.dumps(job), *arguments) == 2
    assert "--job: lacks 'epochs'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"epochs": "x"}}, {"training": {"epocs": 1}}, {"family": "none"},
        {"options": {"depth": 12}},
    ],
    ids=str,
)  # fmt: skip
def test_jobs_with_wrong_values(project, tiny, capsys, change):
    from st.config.check import parse
    from st.config.grid import Grid

    job = Grid(parse(tiny)).pretrain("digits", "vgg", 0, "sparse") | change
    arguments = ["--data", "results/prepare/digits/data.safetensors", "--device", "cpu"]
    arguments += ["--model", "out", "--rewind", "out2", "--history", "out3"]
    capsys.readouterr()
    assert st("pretrain", "--job", json.dumps(job), *arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Traceback" not in told, told
    assert not Path("out").exists()
