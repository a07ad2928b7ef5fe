"""Results that are not those of Snakemake's records: what the files say counts."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.params import TINY
from helpers.project import assert_settled, copy_project, edit, jobs, run, snakemake

pytestmark = pytest.mark.slow
ST = "digits/vgg/seed0/st"
AFTER_ST = {f"train {ST}", "evaluate digits/vgg/seed0", "notebook", "report"}
COLD, HOT = "temperature: 4", "temperature: 5"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A complete run."""
    folder = copy_project(tmp_path_factory.mktemp("stated"))
    (folder / "params.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY)))
    run(folder, "git", "init", "--quiet")
    snakemake(folder)
    return folder


@pytest.fixture
def project(made, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(made, folder, symlinks=True)
    return folder


def planned(project: Path, *options: str) -> set[str]:
    return jobs(snakemake(project, "--dry-run", *options))


def by_hand(project: Path, *command: str) -> None:
    run(project, "python", "-m", "st", *command)


def test_a_training_by_hand_of_other_params_is_made_again(project):
    edit(project / "params.yaml", COLD, HOT)
    by_hand(project, "train", ST)
    assert planned(project) == AFTER_ST - {f"train {ST}"}  # it is what the workflow would make
    edit(project / "params.yaml", HOT, COLD)
    assert planned(project) == AFTER_ST
    snakemake(project)
    assert planned(project) == set()
    assert_settled(project)


def test_results_that_came_back_under_newer_records(project, tmp_path):
    """As by `dvc checkout` where a run had been interrupted: its records are not packed yet."""
    folder = project / "results/train" / ST
    shutil.copytree(folder, tmp_path / "old")
    edit(project / "params.yaml", COLD, HOT)
    snakemake(project, "phase_train")
    for file in (tmp_path / "old").iterdir():
        shutil.copy(file, folder / file.name)  # with a date of now
    assert planned(project) == AFTER_ST
    edit(project / "params.yaml", HOT, COLD)
    assert f"train {ST}" not in planned(project)


def test_new_results_under_records_that_came_back(project):
    packed = project / "results/provenance.json.gz"
    before = packed.read_bytes()
    edit(project / "params.yaml", COLD, HOT)
    snakemake(project, "phase_train")
    packed.write_bytes(before)  # as where the run was killed before it packed its own
    shutil.rmtree(project / ".snakemake")
    assert f"train {ST}" not in planned(project)
    edit(project / "params.yaml", HOT, COLD)
    assert f"train {ST}" in planned(project)


def test_images_that_were_prepared_by_hand_are_prepared_again(project):
    path = project / "params.yaml"
    edit(path, "source: digits", "source: digits\n    holdout: 0.3")
    shutil.rmtree(project / "results")
    shutil.rmtree(project / ".snakemake")
    by_hand(project, "prepare", "digits")
    assert "prepare digits" not in planned(project)
    edit(path, "holdout: 0.3", "holdout: 0.2")
    assert "prepare digits" in planned(project)


def test_all_that_is_made_with_the_table_is_made_again(project):
    for name in ("comparison.html", "verdicts.json"):
        (project / "results" / name).unlink()
        assert planned(project) & {"report", "notebook"}
    assert "not complete" in run(project, "python", "-m", "st", "record", fails=True)
    snakemake(project)
    assert planned(project) == set()


def test_jobs_of_a_run_on_a_cluster_refuse_params_that_were_edited_meanwhile(project):
    """There Snakemake reads the file again in every job: `--mode remote`."""
    command = ("snakemake", "--mode=remote", "--cores=1", "--nolock", "--force", "phase_search")
    told = run(project, *command, fails=True, ST_PARAMS_OF_THE_RUN="others")
    assert "params.yaml: has changed since the run was started" in told


def test_params_that_are_edited_during_a_run_are_not_recorded_with_its_results(project):
    """DVC would otherwise believe that the new ones gave these numbers."""
    # the report's own process edits the file, as a person might meanwhile
    first = "from pathlib import Path\n"
    changed = f"FILE.read_text().replace({COLD!r}, {HOT!r})"
    lines = f"FILE = Path('params.yaml')\nFILE.write_text({changed})\n"
    edit(project / "st/phases/report.py", first, first + lines)
    told = snakemake(project)
    assert "the results are not those of params.yaml" in told
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    assert HOT not in json.dumps(lock)
