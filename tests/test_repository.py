"""What people expect of a public repository: its small files agree with the rest."""

import importlib.resources
import re
import subprocess

import pytest
import yaml
from helpers.project import ROOT

import st

PARAMS = [ROOT / "params.yaml", *sorted((ROOT / "params").glob("*.yaml"))]


def test_make_help_lists_every_target():
    (line,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^make (\w+) +\S", shown.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(line.split())


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.name)
def test_params_files_name_their_schema(path):
    first = path.read_text().splitlines()[0]
    name = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / name).resolve() == ROOT / "workflow/schemas/params.schema.json"


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (st.__version__, "MIT")
    for reference in citation["references"]:
        assert {"type", "title", "authors", "doi"} <= reference.keys()
        assert re.fullmatch(r"10\.\d{4,9}/\S+", reference["doi"])


def test_types_are_shipped():
    assert importlib.resources.files("st").joinpath("py.typed").is_file()


def test_hooks_need_no_network():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system" and hook["entry"].startswith(".venv/bin/")


def test_lists_of_files_and_rooms_are_complete():
    readme, design = ((ROOT / n).read_text() for n in ("README.md", "docs/design.md"))
    assert not [path.name for path in PARAMS[1:] if f"`{path.name}`" not in readme]
    rooms = [path.parent.name for path in ROOT.glob("st/*/__init__.py")]
    assert not [room for room in rooms if f"\n| `{room}` |" not in design]
