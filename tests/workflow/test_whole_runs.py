"""Whole runs in clones: the same table to the byte, killed or not; what shell and network see."""

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from helpers.project import BIN, ROOT, copy_project, run, snakemake
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """A repository with one architecture of the tiny grid, as the project's params.yaml."""
    folder = copy_project(tmp_path_factory.mktemp("origin"))
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text())
    del params["architectures"]["densenet"]
    params["searches"]["lottery"] = {
        "supernet": "plain", "criterion": "l1_norm", "ranking": "local", "budget": {"params": 0.5},
        "rounds": 2,
    }  # fmt: skip
    params["methods"]["ticket"] = {"search": "lottery", "init": "rewind"}
    params["seeds"] = [0]
    params["evaluation"] = {"latency_rounds": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "params")
    return folder


def clone(origin: Path, folder: Path) -> Path:
    run(folder.parent, "git", "clone", "--quiet", str(origin), str(folder))
    return folder


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        ["snakemake", "--cores", "2", "results/table.csv"],
        cwd=folder,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        start_new_session=True,
        stdout=(folder / "run.log").open("a"),
        stderr=subprocess.STDOUT,
    )


def listening(process: psutil.Process) -> set[str]:
    """The addresses at which a process or its descendants wait for connections."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            connections = one.net_connections(kind="inet")
        except psutil.Error:
            continue
        found |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return found


@pytest.fixture(scope="module")
def whole(origin, tmp_path_factory):
    """A run that nobody disturbed, and the addresses at which it listened."""
    folder, addresses = clone(origin, tmp_path_factory.mktemp("whole") / "clone"), set()
    process = start(folder)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        addresses |= listening(watched)
        time.sleep(0.1)
    assert process.returncode == 0, (folder / "run.log").read_text()[-4000:]
    return folder, addresses


def table(folder: Path) -> str:
    """table.csv as it is, but for the latencies."""
    lines = (folder / "results/table.csv").read_text().splitlines()
    number = lines[0].split(",").index("latency_ms")
    return "\n".join(",".join(c for n, c in enumerate(x.split(",")) if n != number) for x in lines)


def made(folder: Path) -> dict[str, bytes]:
    """Everything that trainings and searches make."""
    parts = ("prepare", "pretrain", "search", "initialize", "train")
    files = [f for part in parts for f in (folder / "results" / part).rglob("*") if f.is_file()]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def test_nothing_listens_beyond_this_machine(whole):
    """The notebook's kernel does, for its own process, on the loopback interface; nothing else."""
    assert whole[1] <= {"127.0.0.1", "::1"}


def test_the_environment_is_told(whole, origin):
    folder = whole[0]
    found = json.loads((folder / "results/environment.json").read_text())
    commit = run(origin, "git", "rev-parse", "HEAD").strip()
    (trained,), (evaluated,) = found["trained"], found["evaluated"]
    assert evaluated["commit"] == commit and evaluated["modified"] is False
    assert trained["threads"] == 1 and trained["torch"] == evaluated["torch"]
    runs = (folder / "results/runs.csv").read_text().splitlines()
    assert trained["networks"] == evaluated["networks"] == len(runs) - 1
    page = (folder / "results/comparison.html").read_text()
    assert commit in page and found["params"] in page and "The environment" in page


def test_a_run_that_is_killed_again_and_again(whole, origin, tmp_path):
    """In a second clone, by kill -9 of all its processes, at random times; and started twice."""
    folder, rng, kills = clone(origin, tmp_path / "clone"), random.Random(0), 0
    for attempt in range(3):
        process = start(folder)
        locks = folder / ".snakemake/locks"
        deadline = time.monotonic() + 60
        while not (locks.is_dir() and any(locks.iterdir())) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        if attempt == 0:
            told = snakemake(folder, "results/table.csv", fails=True)
            assert "LockException" in told or "locked" in told.lower(), told
        time.sleep(rng.uniform(0.5, 8))
        if process.poll() is not None:
            break  # earlier attempts had made nearly all
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        snakemake(folder, "--unlock")
    assert kills
    snakemake(folder, "results/table.csv")
    assert table(folder) == table(whole[0])
    assert made(folder) == made(whole[0])
    left = [f.name for f in (folder / "results").rglob(".*") if f.is_file()]
    assert not [name for name in left if name.endswith(".tmp")]


EVIL = "-e a b'\"$(touch ran1)`touch ran2`;touch ran3|touch ran4 {input} {{x}} *é\\"


def test_values_do_not_reach_the_shell(tmp_path):
    """A project in a folder, with a data set and a plugin, whose names a shell would run."""
    # braces in the folder's own path are a matter of Snakemake, which formats it
    folder = tmp_path / EVIL.replace("{", "").replace("}", "")
    folder.mkdir()
    copy_project(folder)
    rng = np.random.default_rng(0)
    for name in ("$(touch ran5)", "--help", "a b"):
        (folder / EVIL / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / EVIL / name / f"-{number} ;touch ran6.png")
    (folder / "plugins_").mkdir()
    (folder / "plugins_/mine.py").write_text("")
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text())
    params["plugins"] = ["plugins_.mine"]
    options = {"root": EVIL, "size": 8, "test_fraction": 0.5}
    params["datasets"] = {"a.b_c-d": {"source": "imagefolder", "options": options}}
    params |= {"seeds": [0], "methods": {}}
    del params["architectures"]["densenet"]
    params["training"]["batch_size"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True))
    target = "results/pretrain/a.b_c-d/vgg/seed0/plain/model.safetensors"
    snakemake(folder, target)
    assert (folder / target).exists()
    assert not [f for f in tmp_path.rglob("ran*") if re.fullmatch(r"ran\d", f.name)]


@pytest.mark.parametrize(
    "name",
    ["x;touch ran1", "$(touch ran1)", "-x", "a b", "a'b", "../a", "a/b", ".", "", "é;", "a."],
)
def test_plugin_names_are_names_of_modules(tmp_path, tiny, name):
    from st.config.check import parse
    from st.core.errors import StError

    with pytest.raises(StError, match=r"plugins\.0"):
        parse({**tiny, "plugins": [name]})
