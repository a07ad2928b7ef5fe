"""What the project takes from Snakemake's inside, as the Snakemake that is installed has it."""

import json
import os
import sys
from pathlib import Path

import pytest
from helpers.project import ROOT, copy_project, run, snakemake

from st.core import snakemake_internals as internals

# Asks everything while the workflow is read, and once more at the end.
SNAKEFILE = """
import json, sys
sys.path.insert(0, {root!r})
from st.core import snakemake_internals as internals

def note(name, **found):
    with open(name, "w") as file:
        json.dump(found, file)

note(
    "begin.json",
    configfiles=internals.configfiles(workflow),
    is_default_config=internals.is_default_config(workflow),
    default_resources=internals.default_resources(workflow),
    jobs_on_gpus=internals.limit_jobs_on_gpus(workflow, 3),
    uses_cache=internals.uses_cache(workflow),
    persistence_backend=internals.persistence_backend(workflow),
)

rule last:
    input: "middle"
    output: "last"
    shell: "touch {{output}}"

rule middle:
    output: "middle"
    resources: gpu=1
    shell: "echo {{resources.gpu}} > {{output}}"

rule long:
    output: "results/" + "x" * 120 + "/" + "y" * 120
    shell: "touch {{output}}"

onsuccess:
    note("end.json", **{{name: internals.is_made(workflow, name) for name in ("last", "middle")}})
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=str(ROOT)))
    return tmp_path


def noted(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
def test_without_options(folder):
    snakemake(folder, "--dry-run")
    assert noted(folder, "begin") == {
        "configfiles": [],
        "is_default_config": True,
        "default_resources": {},
        "jobs_on_gpus": 3,
        "uses_cache": False,
        "persistence_backend": "file",
    }


@pytest.mark.slow
def test_with_options(folder):
    (folder / "some.yaml").write_text("a: 1\n")
    arguments = ("--resources", "gpu=5", "--default-resources", "gres='gpu:a:1'", "mem_mb=7")
    run(
        folder, "snakemake", "--dry-run", "--cores", "1", *arguments, "--cache",
        "--configfile", "some.yaml", SNAKEMAKE_OUTPUT_CACHE=str(folder),
    )  # fmt: skip
    found = noted(folder, "begin")
    assert [Path(path).name for path in found["configfiles"]] == ["some.yaml"]
    assert not found["is_default_config"] and found["uses_cache"]
    assert found["jobs_on_gpus"] == 5
    assert found["default_resources"]["gres"].strip("'") == "gpu:a:1"
    snakemake(folder, "--dry-run", "--config", "some=1")
    assert noted(folder, "begin")["configfiles"] == []
    assert not noted(folder, "begin")["is_default_config"]


@pytest.mark.slow
def test_on_a_cluster_gpus_are_not_counted(folder):
    run(folder, "snakemake", "--dry-run", "--executor", "slurm", "--cores", "1", "--jobs", "4")
    assert noted(folder, "begin")["jobs_on_gpus"] is None


@pytest.mark.slow
def test_gpus_that_are_stated_are_given_to_jobs(folder):
    snakemake(folder, "middle")
    assert (folder / "middle").read_text() == "1\n"


@pytest.mark.slow
def test_what_is_made(folder):
    snakemake(folder, "middle")
    assert noted(folder, "end") == {"last": False, "middle": True}
    snakemake(folder, "last")
    assert noted(folder, "end") == {"last": True, "middle": True}
    (folder / "last").unlink()
    snakemake(folder, "last", "--until", "middle", "--forcerun", "middle")
    assert not noted(folder, "end")["last"]


@pytest.mark.slow
def test_what_a_dry_run_says_when_all_is_made(folder):
    assert internals.NOTHING_TO_DO not in snakemake(folder, "--dry-run")
    snakemake(folder)
    assert internals.NOTHING_TO_DO in snakemake(folder, "--dry-run")


@pytest.mark.slow
def test_records_of_all_lengths(folder, monkeypatch):
    snakemake(folder, "last", "long")
    monkeypatch.chdir(folder)
    found = internals.records()
    long = f"results/{'x' * 120}/{'y' * 120}"
    assert {internals.output(name) for name in found} == {"middle", "last", long}
    for name, path in found.items():
        assert internals.record_path(name) == path and "starttime" in path.read_text()
    assert sum(len(path.relative_to(internals.RECORDS).parts) == 2 for path in found.values()) == 1


@pytest.mark.slow
def test_records_must_be_files(tmp_path):
    project = copy_project(tmp_path / "project")
    output = snakemake(project, "--dry-run", "--persistence-backend", "db", fails=True)
    (line,) = [line for line in output.splitlines() if "persistence" in line]
    assert line.startswith("--persistence-backend: must be 'file'")
    assert "Traceback" not in output


def test_names_that_are_no_records(tmp_path):
    for name in ("..", ".", "a/b", "/etc/passwd", "", "@a", "a\0", "a\n"):
        with pytest.raises(ValueError, match="is the name of no record"):
            internals.record_path(name, tmp_path)


def test_snakemake_itself_is_not_imported():
    code = "import st.core.records, sys; print('snakemake' in sys.modules)"
    assert run(ROOT, sys.executable, "-c", code).strip() == "False"


def test_the_longest_short_name(tmp_path):
    length = os.pathconf(tmp_path, "PC_NAME_MAX") - 1
    assert internals.record_path("a" * length, tmp_path) == tmp_path / ("a" * length)
    long = internals.record_path("a" * (2 * length + 1), tmp_path)
    assert long == tmp_path / ("@" + "a" * length) / ("@" + "a" * length) / "a"
