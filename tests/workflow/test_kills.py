"""Trainings of every kind, killed at any moment and started again: the same bytes in the end."""

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.project import run

from st import cli
from st.core import files
from st.core.locks import alone
from st.core.progress import logger
from st.networks.checkpoint import load_model
from st.training import resume

PARAMS = """
seeds: [0]
datasets:
  digits: {source: digits, augment: {crop: 1, flip: true}}
architectures:
  net: {family: resnet, options: {depth: 8, width: 0.25}, sparsity: 1e-3}
training: {epochs: 4, batch_size: 128, lr: 0.1, schedule: onecycle, test_every: 2}
supernets:
  plain: {rewind_epoch: 1}
  sparse: {sparse: true, bn_scale: 0.5}
searches:
  slimming: {supernet: sparse, criterion: bn_scale, budget: {params: 0.5}}
  lottery: {supernet: plain, criterion: l1_norm, ranking: local, budget: {params: 0.4}, rounds: 3}
  tas: {supernet: plain, criterion: tas, budget: {macs: 0.5}, options: {epochs: 4, crop: 1}}
methods:
  st: {search: slimming, objective: {ce: 0.1, kd: {weight: 0.9, temperature: 4}, cc: 0.02}}
  fitnet: {search: slimming, objective: {ce: 1, fitnet: 0.1}}
  ticket: {search: lottery, init: rewind}
  tas: {search: tas, objective: {ce: 0.1, kd: 0.9}}
evaluation: {latency_rounds: 1}
"""
RUN = "digits/net/seed0"
KINDS = {
    "supernet": ("pretrain", "plain"),
    "sparse supernet": ("pretrain", "sparse"),
    "lottery": ("search", "lottery"),
    "tas": ("search", "tas"),
    "kd and cc": ("train", "st"),
    "adapters": ("train", "fitnet"),
}
pytestmark = pytest.mark.slow
fork = multiprocessing.get_context("fork")


def st(*arguments: str) -> int:
    status = cli.main(list(arguments))
    logger.handlers.clear()
    return status


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def empty(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.unlink()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which everything is made, without interruption."""
    folder = tmp_path_factory.mktemp("kills")
    before = Path.cwd()
    os.chdir(folder)
    (folder / "params.yaml").write_text(PARAMS)
    assert st("prepare", "digits") == 0
    for name in ("plain", "sparse"):
        assert st("pretrain", f"{RUN}/{name}", "--device", "cpu", "--threads", "1") == 0
    for name in ("slimming", "lottery", "tas"):
        assert st("search", f"{RUN}/{name}", "--device", "cpu", "--threads", "1") == 0
    for name in ("st", "fitnet"):
        assert st("initialize", f"{RUN}/{name}") == 0
        assert st("train", f"{RUN}/{name}", "--device", "cpu", "--threads", "1") == 0
    yield folder
    os.chdir(before)


def child(arguments: list[str], truncates: bool) -> None:
    """The command in a process of its own, which writes its state after every epoch."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    resume.INTERVAL = 0.0
    if truncates:  # as a power cut: half of what was being written
        flush = files._flush

        def half(path: Path) -> None:
            if path.is_file() and random.random() < 0.3:
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            flush(path)

        files._flush = half
    os._exit(st(*arguments))


def run_with_kills(
    arguments: list[str], rng: random.Random, longest: float = 0, attempts: int = 8
) -> Counter:
    """Start the command again and again, killed at random times, until it ends by itself."""
    told = Counter()
    while not told["ended"]:
        how = rng.choice(["SIGKILL", "SIGTERM", "cut"]) if told.total() < attempts else "ended"
        random.seed(rng.random())
        process = fork.Process(target=child, args=(arguments, how == "cut"))
        process.start()
        if how.startswith("SIG"):
            process.join(rng.uniform(0, longest))
            if process.is_alive():
                os.kill(process.pid, getattr(signal, how))
        process.join(120)
        # 2: it stopped after SIGTERM and has said so
        assert process.exitcode in (0, 2, -signal.SIGKILL, -signal.SIGTERM), process.exitcode
        told[how if process.exitcode else "ended"] += 1
    return told


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_times(project, kind):
    command, name = KINDS[kind]
    folder = project / "results" / command / RUN / name
    expected = contents(folder)
    arguments = [command, f"{RUN}/{name}", "--device", "cpu", "--threads", "1"]
    rng, rounds, kills, longest = random.Random(kind), 0, 0, 0.0
    started = time.monotonic()
    # on a busy machine a round may end before it is killed; then there is another
    while rounds < int(os.environ.get("ST_KILLS", 2)) or (not kills and rounds < 30):
        rounds += 1
        empty(folder)
        if not longest:  # how long it takes undisturbed
            began = time.monotonic()
            assert run_with_kills(arguments, rng, attempts=0) == {"ended": 1}
            longest = time.monotonic() - began
            assert contents(folder) == expected
            empty(folder)
        told = run_with_kills(arguments, rng, longest)
        kills += told.total() - told["ended"]
        # all of it, to the last byte, and nothing beside it: no state, no temporary file
        assert contents(folder) == expected, told
    print(f"{kind}: {kills} kills, {time.monotonic() - started:.0f} s")
    assert kills


def test_two_at_once(project, capfd):
    """Without Snakemake, in one folder: the second one says so, and the first is not disturbed."""
    folder = project / "results" / "pretrain" / RUN / "plain"
    before = contents(folder)
    with alone(folder, "training"):
        capfd.readouterr()
        assert st("pretrain", f"{RUN}/plain", "--device", "cpu") == 2
    told = capfd.readouterr().err
    assert "another process is training here; wait for it, or stop it" in told
    assert contents(folder) == before
    assert st("pretrain", f"{RUN}/plain", "--device", "cpu", "--threads", "1") == 0
    assert contents(folder) == before


def test_a_lock_ends_with_its_process(tmp_path):
    def hold() -> None:
        with alone(tmp_path, "training"):
            os.kill(os.getpid(), signal.SIGKILL)

    process = fork.Process(target=hold)
    process.start()
    process.join(20)
    with alone(tmp_path, "training"):
        assert not list(tmp_path.iterdir())


def test_thread_counts_change_little(project, tmp_path):
    """Sums are added in another order, and training amplifies the difference: after 4 epochs it is
    less than 1 % of the weights, by their norm, and less than a point of accuracy."""
    found = []
    for threads in ("1", "2"):
        out = tmp_path / threads
        arguments = ["--device", "cpu", "--threads", threads]
        outputs = ("model", "rewind", "history")
        arguments += [part for name in outputs for part in (f"--{name}", str(out / name))]
        run(project, "st", "pretrain", f"{RUN}/plain", *arguments)  # a fork has the threads it has
        rows = (out / "history").read_text().splitlines()
        found.append((load_model(out / "model"), float(rows[-1].rsplit(",", 1)[1])))
    (one, accuracy), (two, other) = found
    assert one.facts["environment"]["threads"] == 1 and two.facts["environment"]["threads"] == 2
    trained = [t.name for t in one.structure.graph.tensors() if t.trained]
    weights, others = (
        np.concatenate([c.tensors[name].ravel() for name in trained]) for c in (one, two)
    )
    difference = np.linalg.norm(weights - others) / np.linalg.norm(weights)
    print(f"1 and 2 threads: weights differ by {difference:.2%}, accuracies by {accuracy - other}")
    assert difference < 0.01
    assert abs(accuracy - other) <= 1
