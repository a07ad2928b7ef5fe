"""The workflow on a machine without a network, and its results at home."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from helpers.project import ROOT, copy_project, jobs, run, snakemake, wait_for
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(ROOT / "tools"))

import airgap
import bundle
import volumes

PARAMS = "params/there.yaml"
# what data centres have, and what these need; no Snakemake
THERE = ("torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib", "scikit-learn", "pip")


def make_machine(folder: Path) -> Path:
    """A python that sees only THERE and what it needs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in bundle.brought(THERE):
        for file in metadata.distribution(name).files:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (packages / top).exists():
                (packages / top).symlink_to(metadata.distribution(name).locate_file(top))
    return folder / "bin/python"


def write_params(project: Path) -> None:
    """The tiny grid with one seed and architecture, and trainings to be interrupted."""
    params = yaml.safe_load((project / "params/tiny.yaml").read_text())
    params["seeds"] = [0]
    del params["architectures"]["densenet"]
    params["training"]["epochs"] = 250
    (project / PARAMS).write_text(yaml.safe_dump(params, sort_keys=False))


def new_clone(folder: Path) -> Path:
    write_params(copy_project(folder))
    run(folder, "git", "init", "--quiet")
    return folder


def start(python: Path, *arguments: str | Path, output: Path) -> subprocess.Popen:
    """Start airgap.py as on a machine with nothing else installed."""
    with open(output, "w") as file:
        return subprocess.Popen(
            [str(part) for part in (python, *arguments)], cwd=python.parent.parent,
            env={**os.environ, "PATH": os.defpath}, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip


def call(python: Path, *arguments: str | Path, status: int = 0) -> str:
    """Call airgap.py; what it printed."""
    output = python.parent / "output"
    assert start(python, *arguments, output=output).wait() == status, output.read_text()
    return output.read_text()


def stopped_while_it_trains(folder: Path, python: Path, *arguments: str | Path) -> str:
    output = python.parent / "output"
    process = start(python, *arguments, output=output)
    logs = folder / "results/logs/train"
    wait_for(
        lambda: any(": epoch " in log.read_text() for log in logs.rglob("*.log")), process, output
    )
    process.terminate()
    assert process.wait() == airgap.TIME_IS_UP, output.read_text()
    return output.read_text()


@pytest.mark.slow
def test_there_and_back(tmp_path):
    home, parts = new_clone(tmp_path / "home"), tmp_path / "bundle"
    python, tool = make_machine(tmp_path / "machine"), parts / "airgap.py"
    have, data = tmp_path / "have.txt", shutil.make_archive(tmp_path / "some", "xztar", home / "st")
    names = sorted(bundle.brought(THERE))
    have.write_text("".join(f"{name}=={metadata.version(name)}\n" for name in names))
    run(home, sys.executable, "tools/bundle.py", "--have", str(have), "--data", data,
        "--limit", "15", str(parts))  # fmt: skip
    sizes = [path.stat().st_size for path in parts.glob("project.tar.gz.*")]
    assert len(sizes) > 1 and max(sizes) <= 15 * volumes.MB

    # On one machine a call of a limited time, which may end anywhere, and one that ends.
    there = tmp_path / "there0"
    call(python, tool, "install", "--folder", there)
    assert (there / "data/some/cli.py").exists()
    arguments = ("run", "--params", PARAMS, "--jobs", "2", "--folder")
    said = [
        call(python, tool, *arguments, there, "--time", "12", status=airgap.TIME_IS_UP),
        call(python, tool, *arguments, there, "phase_pretrain"),
    ]
    assert "airgap: stopped" in said[0]
    call(python, tool, "pack", "--folder", there, "--state", PARAMS, tmp_path / "state")

    # On another one a call that is stopped while it trains, and one that ends.
    there = tmp_path / "there1"
    arguments += (there, "--state", tmp_path / "state")
    call(python, tool, "install", "--folder", there)
    said.append(stopped_while_it_trains(there, python, tool, *arguments))
    said.append(call(python, tool, *arguments))
    assert "resumes after epoch" in said[-1]
    finished = re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", "".join(said))
    assert finished.count("train") == 4 and finished.count("pretrain") == 2

    brought = tmp_path / "brought"
    call(python, tool, "pack", "--folder", there, "--weights", "--limit", "0.05", brought)
    assert max(path.stat().st_size for path in brought.iterdir()) <= 50_000
    run(home, sys.executable, "tools/airgap.py", "unpack", str(brought))
    command = ("--configfile", PARAMS, "--", airgap.TABLE)
    assert "Nothing to be done" in snakemake(home, "-n", *command)
    assert not list(home.rglob("results/pretrain/**/*.safetensors"))
    assert len(list(home.rglob("results/train/**/model.safetensors"))) == 4
    made = (there / airgap.TABLE).read_bytes()
    assert (home / airgap.TABLE).read_bytes() == made
    (home / airgap.TABLE).unlink()
    assert jobs(snakemake(home, *command)) == {"report"}
    assert (home / airgap.TABLE).read_bytes() == made


def test_volumes(tmp_path):
    """Whatever the limit, the same comes out; a part that is missing or damaged is noticed."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(300_000))
    for limit in (0.0025, 0.1, 0.15, 0.3, 16):  # the first: more than 100 parts
        paths = volumes.write_volumes(tmp_path / "to", "x", {"a/b": source}, limit)
        assert max(path.stat().st_size for path in paths) <= limit * volumes.MB
        assert volumes.read_volumes(tmp_path / "to", "x", tmp_path / "out") == ["a/b"]
        assert (tmp_path / "out/a/b").read_bytes() == source.read_bytes()
    paths = volumes.write_volumes(tmp_path / "to", "x", {"a/b": source}, 0.1)
    content = paths[-1].read_bytes()
    paths[-1].write_bytes(content[:-10])
    with pytest.raises(volumes.Problem, match="cannot be unpacked"):
        volumes.read_volumes(tmp_path / "to", "x", tmp_path / "out")
    paths[-1].unlink()
    with pytest.raises(volumes.Problem, match="cannot be unpacked"):
        volumes.read_volumes(tmp_path / "to", "x", tmp_path / "out")
    paths[1].unlink()
    with pytest.raises(volumes.Problem, match="does not have all of"):
        volumes.read_volumes(tmp_path / "to", "x", tmp_path / "out")


@pytest.mark.parametrize("option", ["--limit", "--total"])
@pytest.mark.parametrize("amount", ["0", "-1", "nan", "much"])
def test_amounts_are_above_zero(tmp_path, capsys, option, amount):
    """Volumes of nothing would be endless."""
    with pytest.raises(SystemExit):
        airgap.main(["pack", option, amount, str(tmp_path / "to")])
    assert f"argument {option}: invalid amount value: '{amount}'" in capsys.readouterr().err


def test_volumes_stay_in_their_folder(tmp_path):
    volumes.write_volumes(tmp_path, "x", {"../outside": Path(__file__)}, 1)
    with pytest.raises(volumes.Problem, match="outside"):
        volumes.read_volumes(tmp_path, "x", tmp_path / "out")
    assert not (tmp_path / "outside").exists()


def test_what_lacks_is_named(tmp_path):
    (tmp_path / ".airgap/wheels").mkdir(parents=True)
    (tmp_path / ".airgap/needs.txt").write_text("numpy>=2\nno-such-thing>=1\ntorch>=1000\n")
    with pytest.raises(volumes.Problem, match=r"needs no-such-thing>=1, .*torch>=1000") as caught:
        airgap.check(tmp_path)
    assert "numpy" not in str(caught.value)


def made(folder: Path, **files: bytes) -> Path:
    """A project's folder with results, by their paths with '__' for '/', and a record of each."""
    folder.mkdir()
    (folder / "st").symlink_to(ROOT / "st")
    records = folder / ".snakemake/metadata"
    records.mkdir(parents=True)
    for name, content in files.items():
        path = folder / "results" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        record = urlsafe_b64encode(f"results/{name.replace('__', '/')}".encode()).decode()
        (records / record).write_text(f"made in {folder.name}")
    return folder


def records(folder: Path) -> dict[str, str]:
    found = (folder / ".snakemake/metadata").iterdir()
    return {urlsafe_b64decode(p.name).decode(): p.read_text() for p in found}


MODEL = "train__d__a__seed0__{}__model.safetensors"


def test_pack_keeps_to_the_total(tmp_path, capfd):
    small, large = MODEL.format("small"), MODEL.format("large")
    there = made(tmp_path / "there", **{small: bytes(9_000), large: bytes(90_000)})
    (there / "results/train/d/a/seed0/small/history.csv").write_text("epoch\n")
    to = tmp_path / "to"
    command = ["pack", "--folder", str(there), "--weights", "--total", "0.05", str(to)]
    assert airgap.main(command) == 0
    assert "no room for 0.1 MB, to be made again if needed: results/train/d/a/seed0/large" in (
        capfd.readouterr().err
    )
    home = made(tmp_path / "home")
    assert airgap.main(["unpack", "--folder", str(home), str(to)]) == 0
    arrived = {p.name for p in (home / "results").rglob("*") if p.is_file()}
    assert arrived == {"model.safetensors", "history.csv", "provenance.json.gz"}
    assert not (home / "results/train/d/a/seed0/large").exists()
    assert records(home) == records(there)  # of what stayed there, too


def test_unpack_leaves_what_is_there(tmp_path):
    shared, new, heavy = "table.csv", "evaluate__x.json", "prepare__d__data.safetensors"
    there = made(tmp_path / "there", **{shared: b"there", new: b"new", heavy: b"there"})
    home = made(tmp_path / "home", **{shared: b"home", "other.csv": b"home", heavy: b"home"})
    data = home / "results/prepare/d/data.safetensors"
    os.utime(data, (0, 0))
    airgap.main(["pack", "--folder", str(there), str(tmp_path / "to")])
    assert airgap.main(["unpack", "--folder", str(home), str(tmp_path / "to")]) == 0
    assert {name.removeprefix("results/"): made for name, made in records(home).items()} == {
        "table.csv": "made in there", "evaluate/x.json": "made in there",
        "other.csv": "made in home", "prepare/d/data.safetensors": "made in home",
    }  # fmt: skip
    assert (home / "results/table.csv").read_bytes() == b"there"
    # so that Snakemake compares it with what the results were made from
    assert data.read_bytes() == b"home" and data.stat().st_mtime > 0


def test_a_params_file_that_is_missing_is_named(tmp_path, capsys):
    there = made(tmp_path / "there", **{MODEL.format("m"): bytes(9)})
    (there / ".airgap").mkdir()  # as install leaves it
    options = argparse.Namespace(folder=there, params="none.yaml", state=None, targets=[], jobs=1)
    with pytest.raises(volumes.Problem, match=r"^none\.yaml: is not a file in "):
        airgap.run(options, None)
    command = ["pack", "--folder", str(there), "--state", "params/none.yaml", str(tmp_path / "to")]
    assert airgap.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"airgap: error: params/none.yaml: is not a file in {there}; name one there"
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    "name, words", [("nope.tar.xz", "is missing; name an archive"), ("a.zip", "must be an archive")]
)
def test_data_that_are_no_archive(tmp_path, monkeypatch, capsys, name, words):
    (tmp_path / "a.zip").touch()
    path = tmp_path / name
    monkeypatch.setattr(sys, "argv", ["bundle.py", "--data", str(path), str(tmp_path / "to")])
    assert bundle.main() == 2
    assert f"bundle: error: --data {path}: {words}" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_packs_of_something_else_are_refused(tmp_path, capsys):
    home = made(tmp_path / "home")
    volumes.write_volumes(tmp_path / "to", "results", {"code/cli.py": Path(__file__)}, 1)
    assert airgap.main(["unpack", "--folder", str(home), str(tmp_path / "to")]) == 2
    assert "has files that are not results: code/cli.py" in capsys.readouterr().err
    assert not (home / "code").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "OUT is missing"),
        (["out", "prov", "3"], "'prov' is not a step"),
        (["out", "prove"], "'prove' needs its seconds"),
        (["out", "prove", "soon"], "'prove' needs its seconds"),
        (["out", "prove", "3"], "bundle/ is missing here"),
    ],
)
def test_a_lease_that_cannot_be(tmp_path, arguments, words):
    done = subprocess.run(
        ["bash", ROOT / "tools/lease.sh", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and not list(tmp_path.iterdir()) and not done.stdout
    (line,) = done.stderr.splitlines()
    assert words in line


# A GPU machine with python 3.12; `packaging` is newer than snakemake admits, pandas older than its
# plugin does, and the builds of torch are in no index.
MACHINE = """
torch==2.11.0+cu130
torchvision==0.26.0+cu130
triton==3.6.0
numpy==2.5.2
packaging==26.2
pandas==2.2.3
requests==2.32.0
sympy
jinja2
"""


def locked_versions(python: str) -> dict[str, str]:
    """What requirements.lock has for that python."""
    lines = re.findall(r"^\S+==.*?(?= \\)", (ROOT / "requirements.lock").read_text(), re.M)
    found = [Requirement(line) for line in lines]
    here = {"python_full_version": f"{python}.0", "python_version": python, "extra": ""}
    return {
        canonicalize_name(r.name): str(r.specifier).removeprefix("==")
        for r in found
        if not r.marker or r.marker.evaluate(here)
    }


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_a_machine_with_no_more_than_torch(tmp_path, python):
    """For either python what is locked for it: scipy, for one, has a version for each."""
    there = bundle.brought()
    pinned = bundle.resolve(there, python, "2_28", "x86_64", tmp_path)
    locked = locked_versions(python)
    for name in bundle.requirements().keys() - there.keys():
        assert bundle._version(pinned[name]) == locked[name]


@pytest.mark.slow
def test_what_another_machine_lacks(tmp_path, capfd):
    """The project's own requirements come as they are locked; what is there is used if it fits."""
    have = tmp_path / "have.txt"
    have.write_text(MACHINE)
    there, locked = bundle.installed(have), locked_versions("3.12")
    pinned = bundle.resolve(there, "3.12", "2_28", "x86_64", tmp_path)
    versions = {name: bundle._version(block) for name, block in pinned.items()}
    for name in bundle.requirements().keys() - there.keys():
        assert versions[name] == locked[name]
    assert not {"torch", "triton", "numpy", "requests", "sympy", "jinja2"} & versions.keys()
    assert versions["packaging"] != "26.2" and "pandas" in versions
    assert all("--hash" in block for block in pinned.values())

    have.write_text(MACHINE.replace("numpy==2.5.2", "numpy==1.26.4"))
    with pytest.raises(bundle.Problem, match="failed, see above"):
        bundle.resolve(bundle.installed(have), "3.12", "2_28", "x86_64", tmp_path)
    assert "numpy==1.26.4" in capfd.readouterr().err
