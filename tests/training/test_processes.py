"""`st pretrain --processes N`: how processes start, stop, and end together."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers.gpus import fake_driver
from helpers.params import TINY
from helpers.project import copy_project, run, trainings, wait_for

from st import cli
from st.networks.checkpoint import load_model

PARAMS = """
seeds: [0]
datasets:
  digits: {source: digits, augment: {crop: 1}}
architectures:
  vgg: {family: vgg, options: {layers: [8, M, 8]}, sparsity: 1e-3}
training: {epochs: 30, batch_size: 64, lr: 5e-2, schedule: onecycle}
supernets:
  plain: {rewind_epoch: 2}
  endless: {sparse: true, training: {epochs: 100000}}
  astray: {training: {lr: 100, momentum: 0.99, weight_decay: 1}}
  small: {training: {batch_size: 2}}
searches:
  slimming: {supernet: plain, criterion: bn_scale, budget: {params: 0.5}}
methods:
  st: {search: slimming}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "params.yaml").write_text(PARAMS)
    subprocess.run([sys.executable, "-m", "st", "prepare", "digits"], cwd=folder, check=True)
    return folder


class Command:
    """`st pretrain` of a supernet, running."""

    def __init__(self, project: Path, supernet: str, processes: int, *options: str):
        self.folder = project / "results/pretrain/digits/vgg/seed0" / supernet
        self.log = project / f"{supernet}.log"
        self.log.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "st", "pretrain", f"digits/vgg/seed0/{supernet}",
                "--processes", str(processes), "--threads", str(processes), "--log", self.log,
                *(options or ("--device", "cpu")),
            ],
            cwd=project, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def members(self) -> list[psutil.Process]:
        """By their number."""
        found = psutil.Process(self.process.pid).children()
        return sorted(found, key=lambda p: int(p.environ()["RANK"]))

    def trains(self) -> None:
        """Wait until it does, from wherever an earlier test's run left it."""
        wait_for(
            lambda: self.log.exists() and self.log.read_text().count(": epoch ") >= 2,
            self.process, self.log,
        )  # fmt: skip

    def ends(self) -> tuple[int, list[str]]:
        """Its status and its errors' lines, none of them a traceback's."""
        told = self.process.communicate(timeout=600)[1].splitlines()
        assert all(line.startswith("pretrain digits/vgg/seed0/") for line in told), told
        errors = [line.partition("error: ")[2] for line in told if "error: " in line]
        assert [line for line in errors if line not in self.log.read_text()] == []
        return self.process.returncode, errors


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=10)[1]


def finished(folder: Path) -> np.ndarray:
    """The rows of a finished training's history, all of whose files are removed."""
    lines = (folder / "history.csv").read_text().splitlines()[1:]
    files = list(folder.iterdir())
    assert {f.name for f in files} == {"model.safetensors", "rewind.safetensors", "history.csv"}
    for file in files:
        file.unlink()
    return np.array([[float(value) for value in line.split(",")[:5]] for line in lines])


@pytest.fixture(scope="module")
def by_one(project):
    """The history of the training `plain` by one process."""
    command = Command(project, "plain", 1)
    assert command.ends() == (0, [])
    return finished(command.folder)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the launcher", "a member", "the leader"])
def test_a_notice_stops_all_and_others_go_on(project, by_one, whom):
    """After the same epoch; the next run may have another number of processes."""
    command = Command(project, "plain", 2)
    command.trains()
    members = command.members()
    if whom == "the launcher":
        command.process.send_signal(signal.SIGTERM)
    else:
        members[whom == "a member"].send_signal(signal.SIGURG)
    status, errors = command.ends()
    assert status == 2 and len(errors) == 1, errors
    done = int(
        re.fullmatch(r"stopped after epoch (\d+) of 30; run it again to resume", errors[0])[1]
    )
    assert gone(members)
    assert [path.name for path in command.folder.iterdir()] == ["resume.safetensors"]
    other = Command(project, "plain", {"the launcher": 1, "a member": 3, "the leader": 2}[whom])
    assert other.ends() == (0, [])
    assert f"resumes after epoch {done} of 30" in other.log.read_text()
    found = finished(command.folder)
    np.testing.assert_array_equal(found[:, :2], by_one[:, :2])  # epochs and learning rates
    # float32 rounds differently, and 420 steps amplify it
    np.testing.assert_allclose(found[:5, 2:], by_one[:5, 2:], rtol=1e-3)
    np.testing.assert_allclose(found[-1, 2:4], by_one[-1, 2:4], rtol=0.1)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--max-restarts", "0"]


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_starts_them_too(project, by_one, nodes):
    """On one machine, and as on two, where each runs torchrun with its number."""
    each = str(2 // nodes)
    several = ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--nnodes", "2"]
    nodes = [["--standalone"]] if nodes == 1 else [[*several, f"--node-rank={n}"] for n in range(2)]
    folder, log = project / "results/pretrain/digits/vgg/seed0/plain", project / "torchrun.log"
    running = [
        subprocess.Popen(
            [
                *TORCHRUN, *node, "--nproc-per-node", each, "-m", "--", "st", "pretrain",
                "digits/vgg/seed0/plain", "--device", "cpu", "--threads", "2", "--log", log,
            ],
            cwd=project, stderr=subprocess.PIPE, text=True,
        )
        for node in nodes
    ]  # fmt: skip
    told = [process.communicate(timeout=600)[1] for process in running]
    assert [process.returncode for process in running] == [0] * len(nodes), told
    found, lines = finished(folder), log.read_text().splitlines()
    np.testing.assert_array_equal(found[:, :2], by_one[:, :2])
    np.testing.assert_allclose(found[:5, 2:], by_one[:5, 2:], rtol=1e-3)
    assert len([line for line in lines if "epoch 30/30" in line]) == 1  # the leader's


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_torchrun_passes_signals_on(project):
    """With the options of docs/cluster.md."""
    folder, log = project / "results/pretrain/digits/vgg/seed0/endless", project / "stop.log"
    running = subprocess.Popen(
        [
            *TORCHRUN, "--signals-to-handle", "SIGTERM,SIGINT,SIGURG",
                "--standalone", "--nproc-per-node", "2", "-m", "--", "st", "pretrain",
            "digits/vgg/seed0/endless", "--device", "cpu", "--threads", "2", "--log", log,
        ],
        cwd=project, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: log.exists() and "epoch 2/" in log.read_text(), running, log)
    running.send_signal(signal.SIGURG)
    told = running.communicate(timeout=600)[1]
    assert running.returncode and told.count("error: stopped after epoch") == 1, told
    assert {path.name for path in folder.iterdir()} == {"resume.safetensors", "rewind.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_member_s_death_ends_all(project, rank):
    command = Command(project, "endless", 2)
    command.trains()
    members = command.members()
    for member in members:  # nothing listens for others
        listening = [c for c in member.net_connections() if c.status == psutil.CONN_LISTEN]
        assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1", "::1"}
    started = time.monotonic()
    members[rank].kill()
    assert command.ends() == (
        2, [f"process {rank + 1} of 2 was ended by SIGKILL; run it again to resume"]
    )  # fmt: skip
    assert time.monotonic() - started < 15 and gone(members)
    assert not (command.folder / "model.safetensors").exists()


@pytest.mark.slow
def test_no_member_outlives_the_launcher(project):
    command = Command(project, "endless", 2)
    command.trains()
    members = command.members()
    command.process.kill()
    assert gone(members)
    command.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "supernet, options, told",
    [
        ("astray", (), "the loss is (nan|inf).*; lower training.lr"),
        ("small", (), "3 processes cannot share batches of 2 images"),
        ("plain", ("--device", "cuda"), "torch sees no GPU here"),
        ("plain", ("--device", "cuda:1"), "--device cuda:1: with --processes 3 each takes a GPU"),
    ],
)
def test_an_error_is_told_once(project, supernet, options, told, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    status, errors = Command(project, supernet, 3, *options).ends()
    assert status == 2 and len(errors) == 1 and re.search(told, errors[0]), errors


@pytest.mark.slow
def test_the_workflow_says_how_many(tmp_path):
    """As many processes as GPUs that a job asks for; asking for others makes nothing run again."""
    project = copy_project(tmp_path / "project")
    (project / "params.yaml").write_text(TINY)
    target = "results/pretrain/digits/vgg/seed0/sparse/model.safetensors"
    environment = {"PATH": fake_driver(tmp_path / "bin", 2), "TMPDIR": str(tmp_path)}
    command = ["snakemake", "--cores", "2", "--resources", "gpu=4", "--set-resources"]
    run(project, *command, "pretrain:gpu=2", "--", target, **environment)
    log = (project / "results/logs/pretrain/digits/vgg/seed0/sparse.log").read_text()
    assert re.findall(r"has slot (\d) of GPU (\d)", log) == [("0", "0"), ("0", "1")]
    assert "epoch 2/2" in log
    model = load_model(project / target)
    assert model.facts["environment"]["device"] == "2 x CPU"
    assert model.facts["environment"]["threads"] == 1
    for number in (1, 2):
        output = run(project, *command, f"pretrain:gpu={number}", "--", target, **environment)
        assert not trainings(output), output
    output = run(
        project, *command, "pretrain:gpu=3", "--forcerun", "pretrain", "--", target,
        fails=True, **environment,
    )  # fmt: skip
    assert "--processes 3: each takes a GPU of its own, and there are 2" in output


@pytest.mark.parametrize("text, number", [("0", 1), ("1", 1), ("4", 4), ("a100:2", 2)])
def test_how_clusters_are_asked(text, number):
    options = cli.parser().parse_args(["train", "digits/vgg/seed0/st", "--processes", text])
    assert options.processes == number
