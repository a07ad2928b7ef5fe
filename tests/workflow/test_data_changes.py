"""Images that change after a run: Snakemake and DVC notice, and nothing else reruns."""

import re
import shutil

import numpy as np
import pytest
import yaml
from helpers.project import copy_project, jobs, run, snakemake
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("photos"))
    rng = np.random.default_rng(0)
    for number in range(24):
        path = folder / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    options = {"root": "pets", "size": 8, "test_fraction": 0.3}
    params = {
        "seeds": [0],
        "datasets": {"pets": {"source": "imagefolder", "options": options}},
        "architectures": {"vgg": {"family": "vgg", "options": {"layers": [8, "M", 8]}}},
        "training": {"epochs": 1, "batch_size": 8},
        "supernets": {"plain": {}},
        "searches": {"half": {"criterion": "bn_scale", "budget": {"params": 0.5}}},
        "methods": {"st": {"search": "half", "objective": {"ce": 0.5, "kd": 0.5}}},
        "evaluation": {"latency_rounds": 1},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "repro", "--quiet", "evaluate")
    return folder


def test_unchanged_images_rerun_nothing(project):
    assert jobs(snakemake(project, "--dry-run", "phase_evaluate")) == set()
    shutil.copytree(project / "pets", project / "copy")  # other dates, the same contents
    shutil.rmtree(project / "pets")
    assert jobs(snakemake(project, "--dry-run", "phase_evaluate")) == set()  # nothing to compare
    (project / "copy").rename(project / "pets")
    assert jobs(snakemake(project, "--dry-run", "phase_evaluate")) == set()


def test_moved_images_rerun_nothing(project):
    text = (project / "params.yaml").read_text()
    (project / "pets").rename(project / "photographs")
    (project / "params.yaml").write_text(text.replace("root: pets", "root: photographs/"))
    assert jobs(snakemake(project, "--dry-run", "phase_evaluate")) == set()
    (project / "photographs").rename(project / "pets")
    (project / "params.yaml").write_text(text)


def test_dvc_notices_another_image_and_both_agree(project):
    said = run(project, "dvc", "repro", "evaluate")
    assert "Stage 'pretrain' didn't change" in said
    shutil.copy(project / "pets/cat/0.png", project / "pets/dog/100.png")
    listed = jobs(snakemake(project, "--dry-run", "phase_evaluate"))
    assert "prepare pets" in listed and any(job.startswith("train") for job in listed)
    said = run(project, "dvc", "repro", "evaluate")
    assert "Running stage 'pretrain'" in said and "Running stage 'evaluate'" in said
    log = (project / "results/logs/prepare/pets.log").read_text()
    counts = re.search(r"(\d+) training images, (\d+) test images", log).groups()
    assert sum(map(int, counts)) == 25
    assert jobs(snakemake(project, "--dry-run", "phase_evaluate")) == set()


def test_a_removed_class_and_a_new_one(project):
    (project / "pets/dog").rename(project / "pets/cow")
    assert "prepare pets" in jobs(snakemake(project, "--dry-run", "phase_evaluate"))
