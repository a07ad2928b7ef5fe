"""Snakemake and DVC build and version the same pipeline: either may be used, both agree."""

import base64
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from helpers.project import (
    BIN,
    ROOT,
    assert_settled,
    copy_project,
    edit,
    jobs,
    run,
    snakemake,
    stages_run,
    trainings,
)

pytestmark = pytest.mark.slow


def use_tiny_params(project: Path) -> None:
    """One architecture of the tiny grid, as the project's params.yaml."""
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text())
    del params["architectures"]["densenet"]
    for name in ("kd-uniform", "slimming-finetune"):
        del params["methods"][name]
    params["evaluation"] = {"latency_rounds": 2}
    text = yaml.safe_dump(params, sort_keys=False)
    # Short enough for edits: seeds in one line.
    (project / "params.yaml").write_text(text.replace("seeds:\n- 0\n- 1\n", "seeds: [0, 1]\n"))


def commit(project: Path, message: str) -> None:
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message", message)


def new_project(folder: Path) -> Path:
    copy_project(folder)
    use_tiny_params(folder)
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    commit(folder, "params")
    return folder


def table(project: Path) -> list[dict[str, str]]:
    """table.csv without what differs from run to run."""
    with open(project / "results/table.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "latency_ms"} for row in csv.DictReader(file)]


def record_of(project: Path, output: str, kind: str = "metadata") -> Path:
    """Snakemake's record of the job that made a file; of kind `incomplete`: that it runs."""
    return project / ".snakemake" / kind / base64.b64encode(output.encode()).decode()


def finished(project: Path, output: str) -> bool:
    """Whether Snakemake has recorded that a file is made, and taken the mark off that it is not."""
    return (
        record_of(project, output).exists()
        and not record_of(project, output, "incomplete").exists()
    )


def assert_clean(project: Path) -> None:
    """Both tools say that there is nothing to do."""
    assert "Nothing to be done" in snakemake(project, "-n")
    assert_settled(project)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Built by Snakemake, committed, with a remote that has everything. Not to be changed."""
    folder = new_project(tmp_path_factory.mktemp("built"))
    snakemake(folder, "results/table.csv")
    run(folder, "dvc", "remote", "add", "--default", "shared", str(folder.parent / "remote"))
    commit(folder, "results")
    run(folder, "dvc", "push")
    return folder


@pytest.fixture
def project(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "project", symlinks=True))


def test_after_snakemake_dvc_has_nothing_to_do(project):
    assert_clean(project)
    assert stages_run(run(project, "dvc", "repro")) == ["prepare"]


def test_after_dvc_snakemake_has_nothing_to_do(tmp_path, built):
    project = new_project(tmp_path / "project")
    run(project, "dvc", "repro")
    assert_clean(project)
    assert stages_run(run(project, "dvc", "repro")) == ["prepare"]
    assert table(project) == table(built)
    # The jobs of a phase ran side by side: Snakemake's records have their times.
    times = []
    for name in ("seed0/plain", "seed0/sparse", "seed1/plain", "seed1/sparse"):
        record = json.loads(
            record_of(project, f"results/pretrain/digits/vgg/{name}/model.safetensors").read_text()
        )
        times.append((record["starttime"], record["endtime"]))
    times.sort()
    assert any(second[0] < first[1] for first, second in pairwise(times))


def st_on(seeds) -> set[str]:
    return {f"train digits/vgg/seed{seed}/st" for seed in seeds}


# A file, what of it is replaced by what, and the trainings that run. Hyper-parameters: see below.
EDITS = {
    "code of a loss": ("st/training/losses/cc.py", {".square()": ".abs()"}, st_on((0, 1))),
    "a new seed": (
        "params.yaml", {"seeds: [0, 1]": "seeds: [0, 1, 2]"},
        {f"train digits/vgg/seed2/{m}" for m in ("st", "scratch-b")}
        | {f"pretrain digits/vgg/seed2/{s}" for s in ("plain", "sparse")},
    ),
    "a seed less and a new method": (
        "params.yaml",
        {
            "seeds: [0, 1]": "seeds: [0]",
            "methods:\n": "methods:\n  scratch-e: {search: slimming}\n",
        },
        {"train digits/vgg/seed0/scratch-e"},
    ),
    "a comment in code that no job uses": (
        "st/data/datasets/mnist.py", {'"""MNIST': '"""The MNIST data'}, set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_edits_rebuild_what_depends_on_them(name, project, tmp_path):
    file, changes, expected = EDITS[name]
    for old, new in changes.items():
        edit(project / file, old, new)
    other = Path(shutil.copytree(project, tmp_path / "other", symlinks=True))
    by_snakemake, by_dvc = snakemake(project, "results/table.csv"), run(other, "dvc", "repro")
    assert trainings(by_snakemake) == trainings(by_dvc) == expected
    assert jobs(by_snakemake) == jobs(by_dvc)
    assert table(project) == table(other)
    if not jobs(by_snakemake):  # Snakemake then records nothing by itself
        assert "changed" in run(project, "dvc", "status")
        run(project, sys.executable, "-m", "st", "record")
    for folder in (project, other):
        assert_clean(folder)


def assert_pulled(clone: Path, built: Path, **environment: str) -> None:
    """Results from elsewhere are as good as one's own, and edits to them are noticed."""
    run(clone, "dvc", "pull", **environment)
    assert table(clone) == table(built)
    assert_clean(clone)
    edit(clone / "params.yaml", "cc: 10", "cc: 5")
    assert trainings(snakemake(clone, "-n")) == st_on((0, 1))
    assert "params.yaml" in run(clone, "dvc", "status")


@pytest.mark.parametrize("link", ["hardlink", "symlink"])  # copies: from s3
def test_a_fresh_clone_pulls(built, tmp_path, link):
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(built), str(clone))
    run(clone, "dvc", "config", "--local", "cache.type", link)
    assert_pulled(clone, built)
    # Building anew must not write through a link into the cache.
    snakemake(clone, "results/table.csv")
    assert_clean(clone)
    run(clone, "git", "checkout", "--quiet", "--force", "HEAD")
    run(clone, "dvc", "checkout", "--force")
    assert table(clone) == table(built)
    assert_clean(clone)


def test_a_fresh_clone_pulls_from_s3(project, built, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [BIN / "moto_server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        secrets = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "no_proxy": "127.0.0.1"}
        import boto3

        client = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x",
            region_name="us-east-1",
        )  # fmt: skip
        for _ in range(100):
            try:
                client.create_bucket(Bucket="checkpoints")
                break
            except Exception:  # not up yet
                time.sleep(0.2)
        run(project, "dvc", "remote", "add", "--default", "--force", "s3", "s3://checkpoints/st")
        run(project, "dvc", "remote", "modify", "s3", "endpointurl", url)
        commit(project, "remote")
        run(project, "dvc", "push", **secrets)
        clone = tmp_path / "clone"
        run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
        assert_pulled(clone, built, **secrets)
    finally:
        server.kill()
        server.wait()


def test_back_to_an_older_version_and_forth(project, built):
    edit(project / "params.yaml", "cc: 10", "cc: 1000.0")
    snakemake(project, "results/table.csv")
    commit(project, "another weight")
    new = table(project)
    assert new != table(built)
    for revision, expected in (("HEAD~1", table(built)), ("main", new)):
        run(project, "git", "checkout", "--quiet", revision)
        run(project, "dvc", "checkout")
        assert table(project) == expected
        assert_clean(project)


def test_make_table_records_that_nothing_was_to_do(project):
    """Its recipe, without the environment that it would set up."""
    recipe = (ROOT / "Makefile").read_text().partition("\ntable: $(READY)")[2].partition("\n")[2]
    commands = [line.strip() for line in recipe.partition("\n\n")[0].splitlines()]
    assert commands[-1] == "python -m st record"
    edit(project / "st/data/datasets/mnist.py", '"""MNIST', '"""The MNIST data')
    for command in commands:
        output = run(project, "sh", "-c", command.replace("$(CORES)", "2"))
    assert not output
    assert_clean(project)


def test_records_that_were_not_packed_are(project):
    """As after a run that was killed between its last job and its end."""
    archive = project / "results/provenance.json.gz"
    packed = archive.read_bytes()
    record = record_of(project, "results/table.csv")
    record.write_text(record.read_text() + " ")
    run(project, sys.executable, "-m", "st", "record")
    assert archive.read_bytes() != packed
    assert_clean(project)


def test_a_partial_run_is_not_recorded(project):
    edit(project / "params.yaml", "cc: 10", "cc: 5")
    lock = (project / "dvc.lock").read_bytes()
    snakemake(project, "results/train/digits/vgg/seed0/st/model.safetensors")
    assert (project / "dvc.lock").read_bytes() == lock
    assert "changed" in run(project, "dvc", "status")
    output = run(project, sys.executable, "-m", "st", "record", fails=True)
    assert "not those of params.yaml" in output and output.count("\n") == 1
    assert (project / "dvc.lock").read_bytes() == lock
    assert trainings(run(project, "dvc", "repro")) == {"train digits/vgg/seed1/st"}
    assert_clean(project)


@pytest.mark.parametrize("command", [["dvc", "repro"], ["snakemake", "--cores", "2"]])
def test_a_killed_run_goes_on(project, built, command):
    edit(project / "params.yaml", "seeds: [0, 1]", "seeds: [0, 1, 2]")
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        command, cwd=project, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    # the last of the job's outputs: they are recorded one by one
    last = "results/pretrain/digits/vgg/seed2/sparse/history.csv"
    deadline = time.monotonic() + 300
    while not finished(project, last) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert finished(project, last)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert "changed" in run(project, "dvc", "status")
    if command[0] == "dvc":
        (project / ".dvc/tmp/rwlock").unlink(missing_ok=True)
    snakemake(project, "--unlock")
    output = run(project, *command)
    assert "pretrain digits/vgg/seed2/sparse" not in trainings(output)
    assert "train digits/vgg/seed2/scratch-b" in trainings(output)
    assert_clean(project)


def test_metrics_params_plots_and_experiments(project, tmp_path):
    output = run(project, "dvc", "exp", "run", "-S", "methods.st.objective.cc=5.0")
    assert trainings(output) == st_on((0, 1))
    assert_clean(project)
    shown = json.loads(run(project, "dvc", "exp", "show", "--json").partition("\n")[0])
    assert len(shown) >= 2
    changed = json.loads(run(project, "dvc", "params", "diff", "--json"))
    (name, change), *others = changed["params.yaml"].items()
    assert name == "methods.st.objective.cc" and not others
    assert (change["old"], change["new"]) == (10, 5.0)
    metrics = json.loads(run(project, "dvc", "metrics", "show", "--json"))
    value = metrics[""]["data"]["results/metrics.json"]["data"]["digits"]["vgg"]["st"]
    row = next(row for row in table(project) if row["method"] == "st")
    assert value["accuracy_mean"] == float(row["accuracy_mean"])
    changed = json.loads(run(project, "dvc", "metrics", "diff", "--json"))
    assert all(".st." in name for name in changed["results/metrics.json"])
    run(project, "dvc", "plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text()
    assert "accuracy against parameters" in page and "training curves" in page


def test_every_result_belongs_to_one_phase(built):
    stages = yaml.safe_load((built / "dvc.yaml").read_text())["stages"]
    owners = {}
    for stage, content in stages.items():
        for out in content["outs"] + content.get("metrics", []):
            path = next(iter(out))
            assert path not in owners
            owners[path] = stage
    uncached = ("results/logs/",)
    for path in (p for p in (built / "results").rglob("*") if p.is_file()):
        name = path.relative_to(built).as_posix()
        found = [out for out in owners if name == out or name.startswith(f"{out}/")]
        assert len(found) == 1 or name.startswith(uncached), name
    tracked = run(built, "git", "ls-files").split()
    assert not [name for name in tracked if name.startswith("results/")]
    assert "dvc.lock" in tracked
