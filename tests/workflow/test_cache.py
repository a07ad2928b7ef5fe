"""Clones that share Snakemake's between-workflow cache: what they train, and what they need not."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.project import ROOT, assert_settled, copy_project, edit, run
from PIL import Image

PARAMS = """
seeds: [0]
datasets:
  photos: {{source: imagefolder, options: {{root: {root}, size: 8}}}}
architectures:
  vgg: {{family: vgg, options: {{layers: [8, M, 8]}}}}
training: {{epochs: 1, batch_size: 16, lr: 0.05}}
supernets:
  plain: {{}}
  sparse: {{sparse: true}}
searches:
  slimming: {{supernet: sparse, criterion: bn_scale, budget: {{params: 0.5}}}}
  l1: {{supernet: plain, criterion: l1_norm, ranking: local, budget: {{params: 0.5}}}}
methods:
  st: {{search: slimming, objective: {{ce: 0.1, kd: 0.9}}}}
  finetune: {{search: slimming, init: inherit}}
  l1-scratch: {{search: l1}}
evaluation: {{latency_rounds: 1}}
"""
SUPERNETS = {f"pretrain/photos/vgg/seed0/{name}" for name in ("plain", "sparse")}
SEARCHES = {f"search/photos/vgg/seed0/{name}" for name in ("slimming", "l1")}
SUBNETS = {f"train/photos/vgg/seed0/{name}" for name in ("st", "finetune", "l1-scratch")}
ALL = SUPERNETS | SEARCHES | SUBNETS


def build(folder: Path, target: str, cache: Path | str, *options: str, **environment: str) -> str:
    command = ("snakemake", "--cores", "2", "--cache", *options, "--", target)
    return run(folder, *command, SNAKEMAKE_OUTPUT_CACHE=str(cache), **environment)


def computed(folder: Path) -> set[str]:
    """The jobs of cached rules that ran here: a job from the cache leaves an empty log."""
    logs = folder / "results/logs"
    files = (
        file for phase in ("pretrain", "search", "train") for file in (logs / phase).rglob("*.log")
    )
    return {str(f.relative_to(logs).with_suffix("")) for f in files if f.stat().st_size}


def plan(folder: Path, **environment: str) -> dict[str, set[str]]:
    """What all jobs would do now: take their results from the cache, or compute them."""
    cache = folder.parent / "cache"
    output = build(folder, "phase_train", cache, "--dry-run", "--forceall", **environment)
    plans = {"obtained from": set(), "written to": set()}
    for job, what in re.findall(r"Output file results/(.*)/[^/]* will be (\w+ \w+) global", output):
        plans[what].add(job)
    return plans


def draw_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for number in range(16):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder with images/, cache/, and first/, a project that trained all. Not to be changed."""
    folder = tmp_path_factory.mktemp("shared")
    draw_images(folder / "images")
    (folder / "cache").mkdir()
    project = copy_project(folder / "first")
    (project / "params.yaml").write_text(PARAMS.format(root=folder / "images"))
    build(project, "phase_train", folder / "cache")
    return folder


@pytest.fixture
def copy(shared, tmp_path) -> Path:
    """A project like first/, with its results, and a cache to write to beside it."""
    shutil.copytree(shared / "cache", tmp_path / "cache")
    return Path(shutil.copytree(shared / "first", tmp_path / "copy", symlinks=True))


def clone(shared: Path, folder: Path) -> Path:
    """A project with the same params and no results."""
    copy_project(folder)
    shutil.copy(shared / "first/params.yaml", folder)
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """What the cached rules made."""
    files = (
        f
        for phase in ("pretrain", "search", "train")
        for f in (folder / "results" / phase).rglob("*")
    )
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.is_file()}


@pytest.mark.slow
def test_the_cache_holds_each_job_once(shared):
    entries = [path.name for path in (shared / "cache").iterdir()]
    assert len(entries) == 3 * len(SUPERNETS) + len(SEARCHES) + 2 * len(SUBNETS)
    assert len({re.split(r"[._]", name)[0] for name in entries}) == len(ALL)
    assert computed(shared / "first") == ALL


@pytest.mark.slow
def test_a_second_clone_trains_nothing(shared, tmp_path):
    project = clone(shared, tmp_path / "second")
    run(project, "git", "init", "--quiet")
    (tmp_path / "cache").symlink_to(shared / "cache")
    build(project, "results/table.csv", "../cache")
    assert computed(project) == set()
    assert results(project) == results(shared / "first")
    # Nothing hangs on the cache, and Snakemake and DVC agree that all is there.
    assert not [path for path in (project / "results").rglob("*") if path.is_symlink()]
    for options in ((), ("--cache",)):
        output = run(project, "snakemake", "--dry-run", *options)
        assert "Nothing to be done" in output
    assert_settled(project)


@pytest.mark.slow
def test_another_params_file_shares_what_it_has_in_common(shared, tmp_path):
    project = clone(shared, tmp_path / "other")
    shutil.copytree(shared / "cache", tmp_path / "cache")
    params = yaml.safe_load((project / "params.yaml").read_text())
    # The supernets' jobs are the same under another name.
    params["architectures"] = {"small": params["architectures"]["vgg"]}
    params["searches"]["slimming"]["budget"] = {"params": 0.3}
    del params["searches"]["l1"], params["methods"]["l1-scratch"]
    params["methods"] = {"st": params["methods"]["st"]}
    (project / "other.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    build(project, "phase_train", tmp_path / "cache", "--configfile", "other.yaml")
    assert computed(project) == {
        "search/photos/small/seed0/slimming",
        "train/photos/small/seed0/st",
    }


SLIMMED = {"search/photos/vgg/seed0/slimming"} | {job for job in SUBNETS if "l1" not in job}
EDITS = {
    "nothing": ("params.yaml", "", "", set()),
    "the recipe": ("params.yaml", "lr: 0.05", "lr: 0.06", ALL),
    "a seed": ("params.yaml", "[0]", "[1]", {job.replace("seed0", "seed1") for job in ALL}),
    "a method": ("params.yaml", "kd: 0.9", "kd: 0.8", {"train/photos/vgg/seed0/st"}),
    "code of a loss": (
        "st/training/losses/kd.py", '"""', '"""New: ', {"train/photos/vgg/seed0/st"},
    ),
    "code of a criterion": ("st/pruning/criteria/bn_scale.py", '"""', '"""New: ', SLIMMED),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_a_change_misses_what_depends_on_it(name, copy):
    file, old, new, expected = EDITS[name]
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1))
    found = plan(copy)
    assert found["written to"] == expected
    if "seed" not in name:
        assert found["obtained from"] == ALL - expected


@pytest.mark.slow
def test_other_images_at_the_same_place(copy, shared):
    image = shared / "images/train/a/0.png"
    before = image.read_bytes()
    try:
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(image)
        build(copy, "phase_prepare", copy.parent / "cache", "--forcerun", "prepare")
    finally:
        image.write_bytes(before)
    assert plan(copy)["written to"] == ALL


@pytest.mark.slow
def test_another_version_of_torch(copy, tmp_path):
    info = tmp_path / "torch-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.1\n")
    assert plan(copy, PYTHONPATH=str(tmp_path))["written to"] == ALL


@pytest.mark.slow
def test_measured_structures_belong_to_the_machine(copy, tmp_path):
    """A latency budget: found again here, but not on a machine of another name. Batches are large
    enough for the narrowest network to be faster, whatever else the machine does."""
    params = copy / "params.yaml"
    edit(params, "bn_scale, budget: {params: 0.5}", "bn_scale, budget: {latency: 0.95}")
    edit(params, "{latency_rounds: 1}", "{latency_rounds: 15, latency_batch: 1024}")
    build(copy, "phase_train", tmp_path / "cache")
    assert plan(copy)["obtained from"] == ALL
    (tmp_path / "sitecustomize.py").write_text("import platform\nplatform.node = lambda: 'other'\n")
    found = plan(copy, PYTHONPATH=str(tmp_path))
    assert found["written to"] == SLIMMED


def test_commands_of_cached_rules_name_no_wildcards():
    """The cache's key knows the command as it is in the rule, before anything is filled in. Threads
    and resources decide by how many processes a result is computed, not the result."""
    rules = ROOT / "workflow/rules"
    cached = [path for path in rules.glob("*.smk") if "cache: CACHE" in path.read_text()]
    assert {path.stem for path in cached} == {"deploy", "pretrain", "search", "train"}
    for path in cached:
        command = path.read_text().partition("shell:")[2]
        fields = set(re.findall(r"{(\w+)", command))
        assert fields <= {"input", "output", "params", "threads", "resources", "log"}
