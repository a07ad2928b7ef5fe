"""The rooms of the package: what lies where, who may import whom, what needs no torch, what an edit
reruns.

Read off the sources, without importing them. Imports within functions count, and modules that are
imported by name.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from helpers.project import ROOT

from st.core.sources import ROOMS, sources

# room -> the rooms it may import besides itself
MAY_IMPORT = {
    "core": set(),
    "networks": {"core"},
    "data": {"core"},
    "training": {"core", "networks", "data"},
    "pruning": {"core", "networks", "data", "training"},
    "config": {"core", "networks", "data", "training", "pruning"},
    "report": {"core", "networks", "data", "config"},
    "deploy": {"core", "networks", "data", "training", "pruning", "config", "report"},
    "api": {"core", "networks", "data", "training", "pruning", "config", "deploy"},
    "phases": {"core", "networks", "data", "training", "pruning", "config", "report", "deploy"},
}
TOP = {"__init__", "__main__", "cli", "estimate"}  # may import all
WITH_HELPERS = {
    "architectures",
    "criteria",
    "datasets",
    "inits",
    "losses",
    "targets",
}  # in their __init__
HEAVY = {"torch", "torchvision", "snakemake"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "st").rglob("*.py"))}
REGISTERED = [name for name, path in MODULES.items() if path.parent.name in WITH_HELPERS]


def room(module: str) -> str:
    """The room of a module; of one at the top, its own name."""
    return (*module.split("."), "__init__")[1]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_bytes())


def imported(nodes, module: str) -> set[str]:
    """The modules that these nodes import: those of st by their full names, others by their top."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            if isinstance(node.args[0], ast.JoinedStr):  # f"st.phases.{name}": the package
                found.add(ast.unparse(node.args[0])[2:-1].partition(".{")[0])
            elif isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return {name if name.startswith("st.") else name.split(".")[0] for name in found}


@cache
def imports(module: str) -> set[str]:
    """All modules of st that a module imports, wherever."""
    found = {name for name in imported(ast.walk(tree(module)), module) if name.startswith("st.")}
    assert found <= MODULES.keys(), f"{module} imports what is not there: {found - MODULES.keys()}"
    return found


def at_once(node: ast.AST):
    """The nodes that are run when a module is imported: those outside of functions, but
    for what only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not (for_types or isinstance(child, ast.FunctionDef)):
            yield from at_once(child)


def needed(modules) -> dict[str, str]:
    """All modules that are imported when these are, the packages that they lie in included, each
    with one that imports it."""
    found, queue = {}, [(name, "the test") for name in modules]
    while queue:
        name, by = queue.pop()
        if name in found:
            continue
        found[name] = by
        if name in MODULES:
            queue += [(other, name) for other in imported(at_once(tree(name)), name)]
            queue += [(name.rpartition(".")[0], name)] if "." in name else []
    return found


def workflow_files() -> list[Path]:
    folder = ROOT / "workflow"
    return [ROOT / "Snakefile", *folder.rglob("*.smk"), *folder.glob("*.py")]


def workflow_imports() -> set[str]:
    found = set()
    for path in workflow_files():
        for line in re.findall(r"^\s*((?:from|import) st\b.*)$", path.read_text(), re.MULTILINE):
            found |= imported(ast.parse(line).body, path.name)
    return found


def test_nothing_else_lies_at_the_top():
    found = {path.stem for path in (ROOT / "st").iterdir() if path.name != "__pycache__"}
    assert found - {"py"} == TOP | MAY_IMPORT.keys()  # py.typed
    assert set(ROOMS) == MAY_IMPORT.keys()
    assert {name for name in MODULES if len(name.split(".")) == 2} == {
        f"st.{name}" for name in found - {"__init__", "py"}
    }


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_rooms_import_only_what_lies_below(name):
    allowed = MAY_IMPORT[name] | {name, "__init__"}  # st itself: the version
    for module in MODULES:
        if room(module) == name:
            wrong = {other for other in imports(module) if room(other) not in allowed}
            assert not wrong, f"{module} imports {wrong}"


def test_no_module_imports_itself_in_the_end():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        if module not in done:
            for other in imports(module) - {module}:
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", [m for m, p in MODULES.items() if p.name == "__init__.py"])
def test_faces_only_say_what_lives_there(module):
    # each import of a module imports the packages around it, and each job has them as inputs
    assert ast.get_docstring(tree(module))
    if module.rpartition(".")[2] in WITH_HELPERS:
        assert not HEAVY & needed([module]).keys()
    elif module != "st":
        assert len(tree(module).body) == 1


def test_the_workflow_and_the_report_need_no_torch():
    start = {name for name in MODULES if room(name) in ("config", "report")}
    assert {"st.config.grid", "st.core.slots"} <= workflow_imports()
    found = needed(start | workflow_imports() | set(REGISTERED))
    for name in HEAVY & found.keys():
        pytest.fail(f"{found[name]} imports {name}")


def test_names_of_modules_in_strings_are_right():
    texts = {path: path.read_text() for path in (*MODULES.values(), *workflow_files())}
    named = {
        (path.name, name)
        for path, text in texts.items()
        for name in re.findall(r'"(st(?:\.[a-z_0-9]+)+)"', text)
    }
    assert ("wiring.py", "st.training.losses.ce") in named
    assert ("registry.py", "st.training.losses") in named
    wrong = {(file, name) for file, name in named if name not in MODULES}
    assert not wrong


# A phase and the registered modules that one of its jobs names, as Grid.modules does.
VGG = "st.networks.architectures.vgg"
JOBS = {
    "prepare": ("prepare", "st.data.datasets.imagefolder"),
    "pretrain": ("pretrain", VGG, "st.networks.inits.random", "st.training.losses.ce"),
    "search": ("search", VGG, "st.pruning.criteria.bn_scale"),
    "search by taylor": ("search", VGG, "st.pruning.criteria.taylor"),
    "search by tas": ("search", VGG, "st.pruning.criteria.tas"),
    "search with rounds": (
        *("search", VGG, "st.pruning.criteria.bn_scale", "st.pruning.lottery"),
        "st.training.losses.ce",
    ),
    "initialize": ("initialize", VGG, "st.networks.inits.rewind"),
    "train": ("train", VGG, "st.training.losses.ce", "st.training.losses.kd"),
    "deploy": ("deploy", VGG, "st.deploy.targets.int8"),
    "deploy source code": ("deploy", VGG, "st.deploy.targets.module"),
    "evaluate": ("evaluate", VGG),
    "evaluate with files": ("evaluate", VGG, "st.deploy.targets.onnx", "st.deploy.running"),
    "report": ("report",),
}
TRAINS = {"pretrain", "train", "search by tas", "search with rounds"}
DEPLOYS = {"deploy", "deploy source code"}
EVALUATES = {"evaluate", "evaluate with files"}
# what runs again after an edit of a file of each room
RERUN = {
    "core/files.py": JOBS.keys(),
    "core/errors.py": set(),
    "core/process.py": set(),
    "core/locks.py": {*TRAINS, "prepare", "search by taylor", *DEPLOYS, *EVALUATES},
    "core/capture.py": {*TRAINS, "search by taylor", *DEPLOYS, *EVALUATES},
    "core/device.py": {*TRAINS, "search by taylor", *DEPLOYS, *EVALUATES},
    "core/types.py": JOBS.keys() - {"report"},
    "networks/graph.py": JOBS.keys() - {"prepare", "report"},
    "networks/architectures/vgg.py": JOBS.keys() - {"prepare", "report"},
    "networks/architectures/densenet.py": set(),
    "networks/inits/rewind.py": {"initialize"},
    "data/dataset.py": {*TRAINS, "prepare", "search by taylor", *DEPLOYS, *EVALUATES},
    "data/augment.py": TRAINS,
    "data/views.py": TRAINS,
    "data/datasets/imagefolder.py": {"prepare"},
    "data/datasets/digits.py": set(),
    "training/loop.py": TRAINS,
    "training/recipe.py": TRAINS,
    "training/epochs.py": {"train"},
    "training/trainer.py": TRAINS - {"search by tas"},
    "training/losses/kd.py": {"train"},
    "pruning/selection.py": {name for name in JOBS if name.startswith("search")},
    "pruning/scoring.py": {"search by taylor"},
    "pruning/tas/space.py": {"search by tas"},
    "pruning/lottery.py": {"search with rounds"},
    "pruning/latency.py": set(),
    "networks/timing.py": EVALUATES,
    "deploy/card.py": DEPLOYS,
    "deploy/source/text.py": {"deploy source code"},
    "deploy/running.py": {"evaluate with files"},
    "deploy/targets/int8.py": {"deploy"},
    "deploy/targets/onnx.py": {"deploy", "evaluate with files"},
    "deploy/predict.py": set(),
    "api/train.py": set(),
    "config/grid.py": set(),
    "config/jobs.py": set(),
    "config/layout.py": {"report", *DEPLOYS},
    "core/snakemake_internals.py": set(),
    "config/check.py": set(),
    "config/supernets.py": set(),
    "report/tables.py": {"report"},
    "report/inert.py": {"report"},
    "phases/train.py": {"train"},
    "training/__init__.py": set(),
    "estimate/predict.py": set(),
    "cli.py": set(),
}


@pytest.mark.parametrize("file", RERUN)
def test_an_edit_reruns_what_the_file_is_a_part_of(file):
    edited = ROOT / "st" / file
    assert edited.exists()
    found = {
        name
        for name, (phase, *modules) in JOBS.items()
        if edited in sources(f"st.phases.{phase}", *modules)
    }
    assert found == set(RERUN[file])
