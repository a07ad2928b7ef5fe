"""NVIDIA's multi-process service, with a made-up control program: real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.gpus import fake_driver, wait_for
from helpers.project import ROOT, copy_project, run

CONTROL = """#!/bin/sh
# As NVIDIA's: -d starts the service, else commands come in.
if [ "$1" = -d ]; then
  echo "start $CUDA_MPS_PIPE_DIRECTORY ${CUDA_VISIBLE_DEVICES-unset}" >> LOG; STATUS
else
  read command; echo "$command $CUDA_MPS_PIPE_DIRECTORY" >> LOG
fi
"""
# Says what start() does, and whether processes are told of a service.
PROGRAM = """
import os, sys
from st.core import mps
if sys.argv[1:]: mps.CLIENT = sys.argv[1]
print(mps.start()); print(os.environ.get(mps.MPS, "none"))
"""


def machine(folder: Path, status: str = "exit 0") -> tuple[dict[str, str], Path]:
    """An environment with a GPU and such a control program, and what that writes."""
    path, log = fake_driver(folder / "bin", 1), folder / "log"
    tool = folder / "bin/nvidia-cuda-mps-control"
    tool.write_text(CONTROL.replace("LOG", str(log)).replace("STATUS", status))
    tool.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_")}
    (folder / "tmp").mkdir()
    return environment | {"PATH": path, "TMPDIR": str(folder / "tmp")}, log


def said(environment: dict[str, str], client: str = "pass") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, client], cwd=ROOT, env=environment, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def lines(log: Path, count: int) -> list[str]:
    """What the control program wrote, when there are so many lines."""
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= count)
    return log.read_text().splitlines()


def test_parts_of_gpus_have_no_service(tmp_path):
    environment, log = machine(tmp_path)
    told, folder = said(environment | {"CUDA_VISIBLE_DEVICES": "MIG-45a1"})
    assert "take turns" in told and "MIG" in told and folder == "none" and not log.exists()


def test_a_service_lives_as_long_as_its_workflow(tmp_path):
    environment, log = machine(tmp_path)
    told, folder = said(environment | {"CUDA_VISIBLE_DEVICES": "1"})
    assert "of this workflow's own" in told and Path(folder).parent == tmp_path / "tmp"
    # of all GPUs, whichever the workflow may use
    assert lines(log, 2) == [f"start {folder} unset", f"quit {folder}"]
    wait_for(lambda: not Path(folder).exists())


@pytest.mark.parametrize(
    "status, client, reason",
    [
        ("echo 'no such luck'; exit 1", "pass", "no such luck"),
        ("exit 3", "pass", "status 3"),
        ("exit 0", "raise SystemExit('CUDA error 805')", "CUDA error 805"),
    ],
)
def test_a_service_that_does_not_work_is_not_used(tmp_path, status, client, reason):
    environment, log = machine(tmp_path, status)
    told, folder = said(environment, client)
    assert told.startswith("jobs take turns on a GPU") and reason in told and folder == "none"
    assert "CUDA error" not in reason or lines(log, 2)[1].startswith("quit")
    wait_for(lambda: not list((tmp_path / "tmp").iterdir()))


def test_no_service_here_or_one_that_is_there(tmp_path):
    environment, log = machine(tmp_path)
    told, folder = said(environment | {"CUDA_MPS_PIPE_DIRECTORY": "/mine"})
    assert "/mine" in folder and "that CUDA_MPS_PIPE_DIRECTORY names" in told
    (tmp_path / "bin/nvidia-cuda-mps-control").unlink()
    told, folder = said(environment)
    assert "has no nvidia-cuda-mps-control" in told and folder == "none" and not log.exists()


@pytest.mark.slow
def test_the_workflow_starts_one_only_where_jobs_share_a_gpu(tmp_path):
    environment, log = machine(tmp_path, "exit 1")
    project = copy_project(tmp_path / "project")
    own = {name: environment[name] for name in ("PATH", "TMPDIR")}

    def workflow(*options: str) -> str:
        command = ("snakemake", "--cores", "1", "--configfile", "params/tiny.yaml", "--forceall")
        return run(project, sys.executable, "-m", *command, *options, "--", "phase_prepare", **own)

    assert "take turns" not in workflow() and not log.exists()
    assert "take turns" not in workflow("--resources", "gpu=2", "-n") and not log.exists()
    assert "jobs take turns on a GPU" in workflow("--resources", "gpu=2")
    assert len(lines(log, 1)) == 1
