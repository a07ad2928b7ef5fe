"""Where the project lies and who runs it: odd paths, the user's own settings, other folders."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from helpers.project import ROOT, copy_project, run, snakemake

pytestmark = pytest.mark.slow
BROKEN = {"argv": ["/bin/false"], "display_name": "broken", "language": "python"}


@pytest.fixture(scope="module")
def tiny_params() -> str:
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text())
    params["architectures"] = {"vgg": params["architectures"]["vgg"]}
    params["methods"] = {"st": {**params["methods"]["st"], "architectures": ["vgg"]}}
    params["seeds"], params["evaluation"] = [0], {"latency_rounds": 2}
    return yaml.safe_dump(params, sort_keys=False)


@pytest.fixture(scope="module")
def odd(tmp_path_factory, tiny_params):
    """A project whose path every shell would take apart, built by make, by a user whose settings
    would break it."""
    folder = copy_project(tmp_path_factory.mktemp("odd") / """it's "odd" $HOME; $(x) `y` & a""")
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "params.yaml").write_text(tiny_params)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    home = folder.parent / "home"
    kernel = home / ".local/share/jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps(BROKEN))
    startup = home / ".ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("raise SystemExit('the user\\'s own start-up file')")
    settings = home / ".config/matplotlib"
    settings.mkdir(parents=True)
    (settings / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\n")
    variables = {
        "HOME": str(home), "JUPYTER_PATH": str(home / ".local/share/jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "0", "MPLBACKEND": "nonsense", "LC_ALL": "C",
    }  # fmt: skip
    run(folder, "make", "-o", ".venv/ready", "table", "CORES=2", **variables)
    return folder


def test_an_odd_path_and_odd_settings(odd):
    assert "vgg" in (odd / "results/table.md").read_text()
    assert "Search-and-Train: comparison" in (odd / "results/comparison.html").read_text()


def test_nothing_of_an_odd_path_reaches_a_shell(odd):
    """Also in the recipes that were not run: no path is written out in them."""
    for target in ("environment", "bundle", "unpack", "lock", "audit", "bench", "hooks", "lint"):
        recipe = run(
            odd,
            "make",
            "--no-print-directory",
            "--always-make",
            "--dry-run",
            target,
            "FROM=/a $HOME b",
        )
        assert "odd" not in recipe.replace("$HOME b", ""), recipe


@pytest.fixture
def project(tmp_path, tiny_params):
    folder = copy_project(tmp_path / "project")
    (folder / "params.yaml").write_text(tiny_params)
    return folder


def test_braces_are_refused(project):
    other = project.rename(project.with_name("a {b} c"))
    told = snakemake(other, "-n", fails=True)
    assert "braces" in told and "Traceback" not in told


def test_other_folders_are_refused(project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder, options in (
        (project, ["--directory", str(elsewhere)]),
        (elsewhere, ["--snakefile", str(project / "Snakefile")]),
    ):
        told = snakemake(folder, "-n", *options, fails=True)
        assert f"`cd {project}`" in told and "Traceback" not in told


@pytest.mark.parametrize(
    "options, words",
    [
        (["--config", "seeds=[-1]"], "params.yaml + --config: seeds.0"),
        (["--configfile", "params.yaml", "more.yaml", "--"], "params.yaml + more.yaml: seeds.0"),
    ],
)
def test_a_mistake_is_its_source_s(project, options, words):
    (project / "more.yaml").write_text("seeds: [-1]\n")
    assert words in snakemake(project, "-n", *options, fails=True)


def test_config_on_the_command_line(project):
    told = snakemake(project, "-n", "--config", "seeds=[0,1]")
    assert "pretrain digits/vgg/seed1/sparse" in told


def result(project: Path) -> Path:
    """A project with a complete record, as far as DVC can tell: nothing is trained."""
    (project / ".snakemake/metadata").mkdir(parents=True)
    (project / "results").mkdir(exist_ok=True)
    return project


def link(path: Path, scratch: Path) -> None:
    """Put a folder elsewhere, and a link in its place."""
    scratch.mkdir()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(scratch)


def conflict(path: Path) -> None:
    there = path.read_text() if path.exists() else ""
    path.write_text(f"<<<<<<< HEAD\n{there}=======\n>>>>>>> other\n")


def ignored(project: Path) -> None:
    """A folder of another repository, which ignores it."""
    shutil.rmtree(project / ".git")
    run(project.parent, "git", "init", "--quiet")
    (project.parent / ".gitignore").write_text(f"{project.name}\n")


OBSTACLES = {
    "nothing made": (lambda p: None, "dvc commit failed"),
    "no git": (lambda p: shutil.rmtree(p / ".git"), "not a git repository"),
    "ignored": (ignored, "git ignores this folder"),
    "damaged": (lambda p: (p / "dvc.yaml").write_text("stages: ["), "'./dvc.yaml' is invalid"),
    "missing": (lambda p: (p / "dvc.yaml").unlink(), "dvc.yaml is missing"),
    **{
        f"conflict in {name}": (
            lambda p, name=name: conflict(p / name), f"{name} has conflict markers",
        )
        for name in ("dvc.lock", "dvc.yaml", ".dvc/config", ".dvc/config.local")
    },
    **{
        f"link {name}": (
            lambda p, name=name: link(p / name, p.parent / "scratch"), f"{name} is a link",
        )
        for name in ("results", "results/pretrain", "results/train/digits", "results/a/b/c/d")
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OBSTACLES)
def test_why_versions_are_not_recorded(project, kind):
    run(project, "git", "init", "--quiet")
    change, words = OBSTACLES[kind]
    change(project)
    result(project)
    script = "from st.core import versions; versions.tell_dvc()"
    told = run(project, sys.executable, "-c", script, fails=kind != "no git")
    line = told.strip().splitlines()[-1]
    assert "versions are not recorded" in line and words in line, told
    assert "python -m st record" in line


def test_why_the_results_are_not_those_of_the_params(project):
    """Snakemake's reason, and no guess."""
    result(project)
    conflict(project / "params.yaml")
    for command in (["snakemake", "-n"], [sys.executable, "-m", "st", "record"]):
        told = run(project, *command, fails=True)
        assert "params.yaml: is not YAML" in told and "Traceback" not in told
    assert told.count("\n") == 1


def test_records_on_a_full_disk_are_one_line(project):
    """Snakemake's end must not fail for them: the results are there."""
    result(project)
    script = """
import resource
from st.core import records
from st.core.errors import StError
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    records.pack()
except StError as error:
    print(error)
"""
    told = run(project, sys.executable, "-B", "-c", script)
    assert "provenance.json.gz: cannot be written (File too large); make room" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "script, words",
    [
        ("echo 'fatal: detected dubious ownership in repository' >&2; exit 128", "git refuses"),
        (None, "git is not installed"),
    ],
)
def test_git_s_own_reasons(project, tmp_path, script, words):
    result(project)
    tools = tmp_path / "tools"
    tools.mkdir()
    if script:
        (tools / "git").write_text(f"#!/bin/sh\n{script}\n")
        (tools / "git").chmod(0o755)
    told = run(
        project, sys.executable, "-c", "from st.core import versions; versions.tell_dvc()",
        PATH=str(tools),
    )  # fmt: skip
    assert words in told and "git init" not in told and told.count("\n") == 1


def test_results_may_be_a_link_for_git(project, tmp_path):
    run(project, "git", "init", "--quiet")
    for name in ("results", "data", "bundle"):
        (project / name).symlink_to(tmp_path)
        assert run(project, "git", "check-ignore", name).strip() == name
    assert os.path.islink(project / "results")
