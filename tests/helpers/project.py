"""Copies of the project for tests that run its tools as users do."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = (
    "Snakefile", "workflow", "st", "params", "params.yaml", "profiles", "tools",
    "pyproject.toml",
    "dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvc/plots", ".dvcignore", ".gitignore",
    "requirements.lock",
)  # fmt: skip
BIN = Path(sys.executable).parent
TRAININGS = ("pretrain", "train")


def copy_project(folder: Path) -> Path:
    for part in PARTS:
        source = ROOT / part
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / part, ignore=ignore)
        else:
            shutil.copy(source, folder / part)
    return folder


def run(folder: Path, *command: str, fails: bool = False, **environment: str) -> str:
    """Run a command of the environment in `folder`; what it printed."""
    variables = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{
            f"GIT_{who}_{what}": "test"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
        **environment,
    }
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=900, check=False
    )
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, output[-4000:]
    return output


def snakemake(folder: Path, *arguments: str, fails: bool = False) -> str:
    return run(folder, "snakemake", "--cores", "2", *arguments, fails=fails)


def jobs(output: str) -> set[str]:
    """The jobs that Snakemake says it runs, by their messages: 'train digits/vgg/seed0/st'."""
    return set(re.findall(r"^Job \d+: (.*)$", output, re.MULTILINE))


def trainings(output: str) -> set[str]:
    return {job for job in jobs(output) if job.startswith(TRAININGS)}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def wait_for(condition: Callable, workflow: subprocess.Popen, output: Path):
    """What `condition` returns as soon as it is true, while the workflow runs."""
    deadline = time.monotonic() + 600
    while not (result := condition()):
        told = output.read_text()[-5000:] if output.exists() else "nothing was logged"
        assert workflow.poll() is None and time.monotonic() < deadline, told
        time.sleep(0.2)
    return result


def stages_run(output: str) -> list[str]:
    """The stages that `dvc repro` says it runs."""
    return re.findall(r"^Running stage '(.*)':$", output, re.MULTILINE)


def assert_settled(folder: Path) -> None:
    """DVC knows of no change; images outside it can't know, so it always asks Snakemake."""
    assert run(folder, "dvc", "status").split() == ["prepare:", "always", "changed"]


def wait_until(condition: Callable, seconds: float = 120) -> None:
    """Return as soon as `condition` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
