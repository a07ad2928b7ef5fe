"""The workflow on a SLURM cluster whose jobs are cancelled, requeued and out of time."""

import csv
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from helpers.cluster import Cluster, missing
from helpers.project import BIN, copy_project, run, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"for SLURM this machine lacks {missing()}"),
]

# The workflow's own profile. The test adds how its cluster is asked, and waits less.
COMMAND = (
    "snakemake",
    "--profile=workflow/profiles/slurm",
    "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=2",
    "--latency-wait=5",
)
# A loss of no weight, which holds its training up as long as there is a file of a given name.
PLUGIN = """
import os, time
from st.core.registry import losses

@losses.register
def held(student, teacher, labels, *, by: str):
    if os.path.exists(by):
        time.sleep(0.1)
    return 0 * student["logits"].sum()

held.teacher, held.taps = False, ("logits",)
"""
DISTURBED = ("cancelled", "requeued", "limited")
METHODS = (*DISTURBED, "undisturbed")
EPOCHS = 30


def held_up(tiny: dict) -> dict:
    """One method four times, the same but for the file that holds its training up."""
    tiny["plugins"] = ["held"]
    tiny["methods"] = {
        name: {
            "search": "slimming",
            "objective": {"ce": 1, "held": {"weight": 1, "by": name}},
            "training": {"epochs": EPOCHS},
        }
        for name in METHODS
    }
    return tiny


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path / "cluster").running() as cluster:
        yield cluster


@pytest.fixture
def project(tmp_path, tiny) -> Path:
    folder = copy_project(tmp_path / "project")
    (folder / "held.py").write_text(PLUGIN)
    (folder / "params.yaml").write_text(yaml.safe_dump(held_up(tiny)))
    return folder


def log_of(project: Path, method: str) -> str:
    path = project / f"results/logs/train/digits/vgg/seed0/{method}.log"
    return path.read_text() if path.exists() else ""


def trainings(cluster: Cluster, method: str) -> list[dict[str, str]]:
    """The SLURM jobs of a method's training, the first first."""
    jobs = [job for job in cluster.jobs() if job["comment"].endswith(f"digits_vgg_0_{method}")]
    return sorted(jobs, key=lambda job: int(job["id"]))


def test_disturbed_trainings_end_as_if_nothing_had_happened(cluster, project, tmp_path):
    environment = {
        **os.environ,
        **cluster.environment,
        "PATH": os.pathsep.join([str(BIN), cluster.environment["PATH"]]),
    }
    for name in DISTURBED:
        (project / name).touch()
    output = tmp_path / "output"
    with open(output, "w") as file:
        workflow = subprocess.Popen(
            COMMAND, cwd=project, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        for name in DISTURBED:
            wait_for(lambda name=name: "epoch 2/" in log_of(project, name), workflow, output)
        first = {name: trainings(cluster, name)[0] for name in DISTURBED}
        cluster.run("scancel", first["cancelled"]["id"])
        cluster.run("scontrol", "requeue", first["requeued"]["id"])
        # now less than the profile's notice is left
        cluster.run("scontrol", "update", f"JobId={first['limited']['id']}", "TimeLimit=2")
        for name in DISTURBED:
            wait_for(lambda name=name: "resumes after" in log_of(project, name), workflow, output)
            (project / name).unlink()
        assert workflow.wait(600) == 0, output.read_text()[-5000:]
    finally:
        workflow.kill()
        workflow.wait()
        # without control groups SLURM may leave the first attempt of a requeued job behind
        subprocess.run(["pkill", "-KILL", "-f", f"snakemake.*{project}/"], check=False)

    # what happened is what was meant to happen
    attempts = {name: trainings(cluster, name) for name in METHODS}
    states = {name: [job["state"] for job in jobs] for name, jobs in attempts.items()}
    assert states == {
        "cancelled": ["CANCELLED", "COMPLETED"],
        "requeued": ["COMPLETED"],
        "limited": ["FAILED", "COMPLETED"],  # stopped in time, so not TIMEOUT
        "undisturbed": ["COMPLETED"],
    }
    assert [job["memory"] for job in attempts["limited"]] == ["8000M", "16000M"]
    assert {job["limit"] for job in attempts["cancelled"]} == {"12:00:00"}
    logs = project / "results/logs/slurm/rule_train/digits_vgg_0_limited"
    log = (logs / f"{first['limited']['id']}.log").read_text()
    assert re.search(rf"stopped after epoch \d+ of {EPOCHS}; run it again", log)

    # and nobody sees it in the results
    folder = project / "results/train/digits/vgg/seed0"
    expected = (folder / "undisturbed/history.csv").read_text()
    for name in DISTURBED:
        assert (folder / name / "history.csv").read_text() == expected, name
    with open(project / "results/table.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"supernet", *METHODS}
    assert len({rows[name]["accuracy_mean"] for name in METHODS}) == 1
    assert float(rows["undisturbed"]["accuracy_mean"]) > 50

    # other resources are no reason to run anything again
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text + "resources: {runtime: {train: 7}}\n")
    assert "Nothing to be done" in run(project, *COMMAND, "-n", **environment)
    check_gpu_requests(project, cluster, environment)


def check_gpu_requests(project, cluster, environment):
    """In the profile's spelling, and only for jobs that compute on a GPU. This cluster has none: it
    refuses them, and Snakemake says what was submitted."""
    seed = "digits/vgg/seed0"
    model = f"results/train/{seed}/limited/model.safetensors"

    def submit(resource: str, target: str, fails: bool) -> str:
        options = ("--default-resources", resource, "--retries=0", "--force", "--", target)
        return run(project, *COMMAND, *options, fails=fails, **environment)

    refused = submit("gres=gpu:1", model, fails=True)
    assert re.search(r"sbatch call:\s+sbatch .* -t 7 .* --gres=gpu:1 --wrap", refused)
    refused = submit("gpu=1", f"results/evaluate/{seed}/limited/metrics.json", fails=True)
    assert re.search(r"sbatch call:\s+sbatch .* --gpus=1 --wrap", refused)
    submit("gres=gpu:1", f"results/search/{seed}/slimming/structure.json", fails=False)
