"""The workflow as its users run it: a tiny grid, in a copy of the project."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from helpers.project import PARTS, ROOT, copy_project, edit, jobs, snakemake, trainings

pytestmark = pytest.mark.slow


def plan(folder: Path) -> str:
    return snakemake(folder, "-n", "--configfile", "params/tiny.yaml")


def planned(folder: Path) -> set[str]:
    """The jobs that would run now."""
    return jobs(plan(folder))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A copy of the project in which the tiny grid has been built. Not to be changed."""
    folder = copy_project(tmp_path_factory.mktemp("built"))
    # --configfile takes several files, so the target stands behind '--'
    snakemake(folder, "--configfile", "params/tiny.yaml", "--", "all")
    return folder


@pytest.fixture
def project(built, tmp_path) -> Path:
    """A copy of `built` to change, with the dates of its files."""
    return Path(shutil.copytree(built, tmp_path / "project", symlinks=True))


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results/table.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_table(built):
    rows = table(built)
    methods = ["supernet", "supernet-sparse", "st", "slimming-finetune", "scratch-b"]
    found = [(row["architecture"], row["method"]) for row in rows]
    assert found == [("vgg", m) for m in [*methods, "kd-uniform"]] + [
        ("densenet", m) for m in methods
    ]
    for row in rows:
        assert row["dataset"] == "digits" and row["seeds"] == "2"
        assert 0 <= float(row["accuracy_mean"]) <= 100
        if row["method"].startswith("supernet"):
            assert float(row["params_kept"]) == float(row["macs_kept"]) == 1
        else:
            assert 0 < float(row["params_kept"]) <= 0.5 and 0 < float(row["macs_kept"]) <= 0.5
        assert row["teacher"] == {"st": "supernet-sparse", "kd-uniform": "supernet"}.get(
            row["method"], ""
        )
    per_seed = [
        json.loads((built / f"results/evaluate/digits/vgg/seed{seed}/st/metrics.json").read_text())
        for seed in (0, 1)
    ]
    mean = sum(metrics["accuracy"] for metrics in per_seed) / 2
    row = next(r for r in rows if (r["architecture"], r["method"]) == ("vgg", "st"))
    assert float(row["accuracy_mean"]) == pytest.approx(mean, abs=0.006)


def test_everything_is_there(built):
    results = built / "results"
    for name in ("table.md", "table.tex", "runs.csv", "comparison.ipynb", "comparison.html"):
        assert (results / name).stat().st_size > 500, name
    assert len(list((results / "figures").iterdir())) >= 6
    log = (results / "logs/train/digits/vgg/seed0/st.log").read_text()
    assert "epoch 2/2" in log and "images/s" in log


def test_nothing_to_do_afterwards(built):
    assert planned(built) == set()


def test_results_do_not_depend_on_file_dates(project):
    for path in project.rglob("*.py"):
        path.touch()
    assert planned(project) == set()


def test_a_hyper_parameter_of_one_method(project):
    edit(project / "params/tiny.yaml", "cc: 10", "cc: 5")
    grid = [f"digits/{a}/seed{s}" for a in ("vgg", "densenet") for s in (0, 1)]
    evaluated = {f"evaluate {run}" for run in grid}
    expected = {f"train {run}/st" for run in grid} | evaluated | {"report", "notebook"}
    assert planned(project) == expected


def test_a_new_seed_leaves_the_others_alone(project):
    edit(project / "params/tiny.yaml", "seeds: [0, 1]", "seeds: [0, 1, 2]")
    found = planned(project)
    assert {job for job in found if "seed" in job} == {job for job in found if "seed2" in job}
    assert sum(job.startswith("train") for job in found) == 7


def test_code_of_a_loss(project):
    edit(
        project / "st/training/losses/cc.py",
        "difference.square().mean()",
        "difference.abs().mean()",
    )
    assert trainings(plan(project)) == {
        f"train digits/{a}/seed{s}/st" for a in ("vgg", "densenet") for s in (0, 1)
    }


def test_code_of_an_architecture(project):
    edit(project / "st/networks/architectures/densenet.py", "rate = scaled(", "rate = 1 * scaled(")
    assert {job.split("/")[1] for job in planned(project) if "/" in job} == {"densenet"}


def test_unrelated_code(project):
    edit(project / "st/cli.py", '"""The command line:', '"""The command line interface:')
    edit(project / "st/data/datasets/mnist.py", "MNIST, through", "The MNIST data, through")
    assert planned(project) == set()


def test_grids_live_side_by_side(project):
    """Another params file is a grid of its own, not merged, and disturbs no other's results."""
    before = sorted((project / "results/evaluate/digits").rglob("*.json"))
    params = (project / "params/tiny.yaml").read_text()
    params = params.replace("  digits:\n", "  more-digits:\n").replace(
        "seeds: [0, 1]", "seeds: [5]"
    )
    (project / "params/other.yaml").write_text(params)
    snakemake(project, "--configfile", "params/other.yaml", "--", "results/table.csv")
    assert {row["dataset"] for row in table(project)} == {"more-digits"}
    assert sorted((project / "results/evaluate/digits").rglob("*.json")) == before


def test_bad_params_stop_before_any_job(tmp_path, built):
    for part in PARTS:
        if "/" not in part:
            (tmp_path / part).symlink_to(built / part)
    bad = tmp_path / "bad.yaml"
    bad.write_text((built / "params/tiny.yaml").read_text().replace("bn_scale, b", "bn_scal, b"))
    output = snakemake(tmp_path, "--configfile", "bad.yaml", "--", "results/table.csv", fails=True)
    assert "bad.yaml: searches.slimming.criterion: unknown criterion 'bn_scal'" in output
    assert "did you mean 'bn_scale'" in output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


def test_parts_of_sections_on_the_command_line(project):
    """As Snakemake takes them: what is not said stays as the file says it."""
    target = "results/pretrain/digits/vgg/seed0/sparse/model.safetensors"
    given = ("--configfile", "params/tiny.yaml", "--config", "training={epochs: 3}")
    output = snakemake(project, "-n", "-p", "--forcerun", "pretrain", *given, "--", target)
    assert '"epochs": 3' in output and '"schedule": "onecycle"' in output


def test_a_failed_job_says_why(project):
    data = project / "results/prepare/digits/data.safetensors"
    data.write_bytes(data.read_bytes()[:1000])
    target = "results/pretrain/digits/vgg/seed0/plain/model.safetensors"
    output = snakemake(project, "--configfile", "params/tiny.yaml", "--", target, fails=True)
    assert "pretrain digits/vgg/seed0/plain: error: results/prepare/digits/data" in output
    assert "is damaged" in output and "Traceback" not in output
    assert not (project / target).exists()


def test_lint(built):
    assert "good condition" in snakemake(built, "--lint")


def test_report(project):
    snakemake(project, "--configfile", "params/tiny.yaml", "--report", "report.html")
    assert (project / "report.html").stat().st_size > 100_000


def test_conda_environment_is_that_of_the_project():
    import tomllib

    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "workflow/envs/st.yaml").read_text())
    assert environment["dependencies"][-1]["pip"] == project["dependencies"]


def test_files_for_other_programs_of_every_kind(project):
    """Those that need nothing but torch are made; each is a rule, with all of its files."""
    params = project / "params/tiny.yaml"
    params.write_text(f"{params.read_text()}\nexports:\n  st: {{to: [torch, module]}}\n")
    target = "results/evaluate/digits/vgg/seed0/st-module/metrics.json"
    snakemake(project, "--configfile", "params/tiny.yaml", "--", target)
    folder = project / "results/evaluate/digits/vgg/seed0"
    measured = {"metrics.json", "predictions.safetensors", "MODEL_CARD.md"}
    for kind, names in (
        ("torch", {"network.pt2", "network.pt2.json"}),
        ("module", {"network.py", "network.py.json", "network.safetensors"}),
    ):
        assert {file.name for file in (folder / f"st-{kind}").iterdir()} == measured | names
        metrics = json.loads((folder / f"st-{kind}/metrics.json").read_text())
        assert (
            metrics["accuracy"] == json.loads((folder / "st/metrics.json").read_text())["accuracy"]
        )
        assert metrics["device"] == "CPU (torch)"
