"""Jobs that share a machine's GPUs, with made-up GPUs: real processes, real locks."""

import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.gpus import fake_driver, wait_for
from helpers.params import TINY
from helpers.project import copy_project, run

from st.core import slots

# Takes a slot, notes that in a file that all share, works for a while, and notes the end.
JOB = """
import os, sys, time
from st.core import progress, slots
progress.start("job", None)
count = int(os.environ.get("WANTED", 1))
while not os.path.exists(os.environ.get("GO", ".")):
    time.sleep(1e-4)
slots.take(count)
slots.take(count)  # what asks again has it already
def note(what):
    with open(sys.argv[1], "a") as file:
        file.write(f"{what} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
note("begin")
time.sleep(float(sys.argv[2]))
note("end")
"""


@pytest.fixture
def start(tmp_path):
    """Start a job for `seconds` that has these environment variables."""
    started = []

    def begin(seconds: float, **environment: str) -> subprocess.Popen:
        variables = {k: v for k, v in os.environ.items() if k != "SLURM_JOB_ID"}
        variables |= {"TMPDIR": str(tmp_path), **environment}
        command = [sys.executable, "-c", JOB, str(tmp_path / "notes"), str(seconds)]
        job = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
        started.append(job)
        return job

    yield begin
    for job in started:
        job.kill()
        job.wait()
        job.stderr.close()


def notes(folder: Path) -> list[tuple[str, str]]:
    path = folder / "notes"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,1", ["0", "1"]),
        (" 3 , 2", ["3", "2"]),
        ("GPU-8932f937,MIG-45a1", ["GPU-8932f937", "MIG-45a1"]),
        ("1,-1,2", ["1"]),
        ("NoDevFiles", []),
        ("", []),
    ],
)
def test_visible_gpus(visible, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots.gpus() == expected


def test_without_cuda_visible_devices_the_driver_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", fake_driver(tmp_path, 3))
    assert slots.gpus() == ["0", "1", "2"]
    monkeypatch.setenv("PATH", fake_driver(tmp_path, 0, status=9))
    assert slots.gpus() == []
    # containers may have devices without the driver's programs
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(slots, "DEVICES", tmp_path)
    assert slots.gpus() == slots.here() == []
    for name in ("nvidia0", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert slots.gpus() == slots.here() == ["0", "1"]


def test_no_gpu_is_here_because_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(slots, "DEVICES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert slots.here() == []
    monkeypatch.setenv("PATH", fake_driver(tmp_path, 3))
    assert slots.here() == ["0", "1"]


def test_without_a_workflow_nothing_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv(slots.SLOTS, raising=False)
    slots.take()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1" and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_gpu_has_more_jobs_than_slots(start, tmp_path):
    jobs = [start(0.4, CUDA_VISIBLE_DEVICES="4,7", ST_GPU_SLOTS="2") for _ in range(9)]
    assert not any(job.wait(60) for job in jobs)
    running, most, together = {"4": 0, "7": 0}, {"4": 0, "7": 0}, 0
    for what, gpu in notes(tmp_path):
        running[gpu] += 1 if what == "begin" else -1
        most[gpu] = max(most[gpu], running[gpu])
        together = max(together, sum(running.values()))
    assert len(notes(tmp_path)) == 18
    assert max(most.values()) <= 2
    assert together > 2 and min(most.values()) >= 1  # they do run at once, on both


def test_jobs_spread_before_they_share(start, tmp_path):
    for number in range(3):
        start(60, CUDA_VISIBLE_DEVICES="0,1,2", ST_GPU_SLOTS="4")
        wait_for(lambda n=number: len(notes(tmp_path)) > n)
    assert sorted(gpu for _, gpu in notes(tmp_path)) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("percent", "slots_each", "at_once"),
    [
        ("50", 4, 2),
        ("51", 4, 1),
        ("100", 4, 1),
        ("25", 4, 4),
        ("1", 4, 4),
        ("0", 4, 4),
        ("50", 1, 1),
    ],
)
def test_a_job_takes_as_many_slots_as_it_needs(start, tmp_path, percent, slots_each, at_once):
    environment = {"CUDA_VISIBLE_DEVICES": "3", "ST_GPU_SLOTS": str(slots_each)}
    large = environment | {"ST_GPU_PERCENT": percent}
    for number in range(at_once):
        start(60, **large)
        wait_for(lambda n=number: len(notes(tmp_path)) > n)
    assert "waits for " in start(0, **large).stderr.readline()


def test_large_and_small_jobs_share_a_gpu(start, tmp_path):
    """And what is too little for a large job is left to small ones."""
    environment = {"CUDA_VISIBLE_DEVICES": "0,1", "ST_GPU_SLOTS": "2"}
    large = environment | {"ST_GPU_PERCENT": "100"}
    assert "has slots 0, 1 of GPU 0" in start(60, **large).stderr.readline()
    small = start(60, **environment)
    assert "has slot 0 of GPU 1" in small.stderr.readline()
    waits = start(0, **large)
    assert "waits for 2 of 2 slots of one of these GPUs: 0, 1" in waits.stderr.readline()
    assert start(0, **environment).wait(30) == 0
    assert waits.poll() is None
    small.kill()
    assert waits.wait(30) == 0
    assert notes(tmp_path)[-2:] == [("begin", "1"), ("end", "1")]


def test_jobs_that_look_at_once_do_not_wait(start, tmp_path):
    """Each looks at all slots; none must take another's look for a slot that is taken."""
    go = tmp_path / "go"
    environment = {"CUDA_VISIBLE_DEVICES": "0,1", "ST_GPU_SLOTS": "40", "GO": str(go)}
    jobs = [start(60, **environment) for _ in range(8)]
    time.sleep(1)  # they have started
    go.touch()
    assert all("has slot " in job.stderr.readline() for job in jobs)
    wait_for(lambda: len(notes(tmp_path)) == 8)
    assert sorted(gpu for _, gpu in notes(tmp_path)) == ["0"] * 4 + ["1"] * 4


def test_the_part_of_a_gpu_that_is_a_jobs(monkeypatch):
    for name in (slots.SLOTS, slots.SHARED, slots.PERCENT):
        monkeypatch.delenv(name, raising=False)
    assert slots.part() == 1
    monkeypatch.setenv(slots.PERCENT, "30")
    assert slots.part() == 1  # no workflow says that GPUs are shared
    monkeypatch.setenv(slots.SHARED, "8")
    assert slots.part() == 3 / 8
    monkeypatch.setenv(slots.PERCENT, "0")
    assert slots.part() == 1 / 8


@pytest.mark.slow
def test_several_gpus_are_different_ones(start, tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": "0,1,2", "ST_GPU_SLOTS": "2"}
    first = start(60, **environment)
    wait_for(lambda: notes(tmp_path))
    start(60, **environment, WANTED="2")
    wait_for(lambda: len(notes(tmp_path)) == 2)
    # free: the second slots of 0 to 2, and no first one
    third = start(0, **environment, WANTED="3")
    assert third.wait(30) == 0
    assert notes(tmp_path) == [("begin", gpus) for gpus in ("0", "1,2", "0,1,2")] + [
        ("end", "0,1,2")
    ]
    start(60, **environment, WANTED="3")
    wait_for(lambda: len(notes(tmp_path)) == 5)
    waits = start(0, **environment, WANTED="2")
    assert "waits for 1 of 2 slots of 2 of these GPUs: 0, 1, 2" in waits.stderr.readline()
    first.kill()
    time.sleep(1)
    assert waits.poll() is None  # one GPU is not enough
    # and while it waits it keeps nothing from others
    assert start(0, **environment).wait(30) == 0


@pytest.mark.slow
def test_jobs_that_want_all_gpus_take_turns(start, tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": "0,1", "ST_GPU_SLOTS": "1", "WANTED": "2"}
    jobs = [start(0.1, **environment) for _ in range(4)]
    assert not any(job.wait(60) for job in jobs)
    assert notes(tmp_path) == [("begin", "0,1"), ("end", "0,1")] * 4


def test_a_killed_job_frees_its_slot(start, tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": "0", "ST_GPU_SLOTS": "1"}
    first = start(60, **environment)
    wait_for(lambda: notes(tmp_path))
    second = start(0, **environment)
    assert "waits for 1 of 1 slots of one of these GPUs: 0" in second.stderr.readline()
    assert len(notes(tmp_path)) == 1
    first.kill()  # SIGKILL
    assert second.wait(30) == 0
    assert notes(tmp_path) == [("begin", "0"), ("begin", "0"), ("end", "0")]


def test_each_slurm_job_has_gpus_of_its_own(start, tmp_path):
    """Within a job SLURM may call any GPU 0."""
    environment = {"CUDA_VISIBLE_DEVICES": "0", "ST_GPU_SLOTS": "1"}
    start(60, **environment, SLURM_JOB_ID="1")
    wait_for(lambda: notes(tmp_path))
    assert start(0, **environment, SLURM_JOB_ID="2").wait(30) == 0


def test_a_folder_that_cannot_be_used_is_named(start, tmp_path):
    (tmp_path / f"st-gpus-{os.getuid()}").write_text("")
    job = start(0, CUDA_VISIBLE_DEVICES="0", ST_GPU_SLOTS="1")
    assert "cannot hold the locks of GPUs" in job.stderr.read()
    assert job.wait(30) != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "slot"),
    [
        ([], "0"),
        (["--resources", "gpu=2"], "1"),
        (["--profile", "workflow/profiles/gpu"], "1"),
        (["--profile", "workflow/profiles/gpu", "--resources", "gpu=0"], None),
    ],
)
def test_the_workflow_states_the_slots(arguments, slot, tmp_path):
    """One GPU, and another workflow's job in its slot 0 if there is a slot 1."""
    project = copy_project(tmp_path / "project")
    locks = tmp_path / f"st-gpus-{os.getuid()}"
    locks.mkdir()
    model = "results/pretrain/digits/vgg/seed0/plain/model.safetensors"
    with open(locks / "0.0", "w") as other:
        if slot == "1":
            fcntl.flock(other, fcntl.LOCK_EX)
        run(
            project, "snakemake", "--cores", "2", "--configfile", "params/tiny.yaml",
            *arguments, "--", model,
            PATH=fake_driver(tmp_path / "bin", 1), TMPDIR=str(tmp_path),
        )  # fmt: skip
    log = (project / "results/logs/pretrain/digits/vgg/seed0/plain.log").read_text()
    assert re.findall(r"has slot (\d) of GPU 0", log) == [slot][: slot is not None]
    # this driver has no GPU that torch could use, which is no secret
    assert ("torch sees none" in log) == (slot is not None)


@pytest.mark.slow
def test_params_say_how_much_of_a_gpu_jobs_need(tmp_path):
    """By architecture, for each kind of job; saying something else makes nothing run again."""
    project = copy_project(tmp_path / "project")
    text = TINY + "resources: {gpu_percent: {vgg: 60}}\n"
    (project / "params.yaml").write_text(text)
    environment = {"PATH": fake_driver(tmp_path / "bin", 1), "TMPDIR": str(tmp_path)}
    command = ["snakemake", "--cores", "1", "--resources", "gpu=4"]
    run(project, *command, "--", "results/table.csv", **environment)
    logs = {log.relative_to(project / "results/logs").parts[0]: log.read_text()
            for log in (project / "results/logs").rglob("*.log")}  # fmt: skip
    taken = {phase for phase, log in logs.items() if "has slots 0, 1, 2 of GPU 0" in log}
    assert taken >= {"pretrain", "train", "evaluate"}
    assert taken == {phase for phase, log in logs.items() if "has slot" in log}
    (project / "params.yaml").write_text(text.replace("60", "100"))
    assert "Nothing to be done" in run(project, *command, "--", "results/table.csv", **environment)
    (project / "params.yaml").write_text(text.replace("vgg: 60", "vg: 60"))
    told = run(project, *command, "--", "results/table.csv", fails=True, **environment)
    assert "resources.gpu_percent: unknown architecture 'vg'; did you mean 'vgg'?" in told
