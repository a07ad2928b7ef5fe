"""Which source files a job's result depends on.

Snakemake sees a rule's shell command but not the package behind it. So every rule takes the files
found here as inputs: editing a loss retrains what uses that loss and nothing else.
"""

import ast
import hashlib
import importlib.util
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path

from st.core.errors import StError, one_line

ROOMS = (
    "core", "networks", "data", "training", "pruning", "config", "report", "deploy", "api",
    "phases",
)  # fmt: skip
LIBRARY = sysconfig.get_path("stdlib")
# What these do can't change a result: messages, the command line, processes, which GPU is used; and
# the rooms' own files, which only say what lives there.
WITHOUT_EFFECT = {
    *("st", "st.cli", "st.core.errors", "st.core.process", "st.core.progress", "st.core.slots"),
    *("st.core.sources", "st.training.progress"),
    "st.training.launch",
    *(f"st.{room}" for room in ROOMS),
}


@cache
def sources(*modules: str) -> tuple[Path, ...]:
    """Files of these modules and of all that they import, directly or not: from their own packages,
    st, and the project, but for installed libraries. Imports within functions count. Registered
    entries, which are imported by name, must be named by the caller.
    """
    return _reached({name: module_file(name) for name in modules}, None)


def beside(path: Path) -> tuple[Path, ...]:
    """A file of Python's, and the same of it: what lies in its folder is what it finds first."""
    place = path.resolve() if path.is_symlink() else path  # where it is run
    return _reached({"": path}, place.parent)


def _reached(modules: dict[str, Path | None], folder: Path | None) -> tuple[Path, ...]:
    found: dict[str, Path] = {}
    queue = list(modules.items())
    while queue:
        name, path = queue.pop()
        if path is None or name in found or name in WITHOUT_EFFECT:
            continue
        found[name] = path
        wanted = [*_imports(path, name, os.getcwd()), name.rpartition(".")[0]]
        queue += [(other, _own(other, name, folder)) for other in wanted if other]
    return tuple(sorted(set(found.values())))


def _own(name: str, importer: str, folder: Path | None) -> Path | None:
    """The file of a module that is a part of what imports it, and no library."""
    path = folder and file_of(folder.joinpath(*name.split(".")))
    if path:
        return path
    path, top = module_file(name), name.partition(".")[0]
    own = top in ("st", importer.partition(".")[0]) or (path is not None and in_project(path))
    return path if own else None


def in_project(path: Path) -> bool:
    """Whether a file is the project's own: environments may lie in its folder too."""
    return _within(path, Path.cwd())


@cache
def _within(path: Path, project: Path) -> bool:
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    if installed or path.is_relative_to(LIBRARY):
        return False
    return path.is_relative_to(project) or path.resolve().is_relative_to(project.resolve())


def digest(*modules: str) -> str:
    """Of the contents of `sources`."""
    contents = (hashlib.sha256(path.read_bytes()).digest() for path in sources(*modules))
    return hashlib.sha256(b"".join(sorted(contents))).hexdigest()  # wherever they lie


def module_file(name: str) -> Path | None:
    """The file of a module, or None for what is not a module (a name imported from one).

    Found without importing the module or its parents, which may import torch.
    """
    return _found(name, (os.getcwd(), *sys.path))


@cache
def _found(name: str, _: tuple[str, ...]) -> Path | None:
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a script that is run
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:  # several where no __init__.py is
        places = (Path(place).joinpath(*rest) for place in spec.submodule_search_locations)
        return next(filter(None, map(file_of, places)), None)
    path = Path(spec.origin or "")
    return path if path.suffix == ".py" and not rest else None


def file_of(path: Path) -> Path | None:
    """Of a package or module, by its place without a suffix."""
    places = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((place for place in places if place.is_file()), None)


@cache
def _imports(path: Path, module: str, _: str) -> list[str]:
    """All names that a module's file imports, in full; `from a import b` gives both a and a.b.
    Raises StError if it is not Python."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level > len(package):  # which Python refuses
                continue
            above = package[: len(package) + 1 - node.level] if node.level else []
            name = ".".join(filter(None, [*above, node.module or ""]))
            names += [name] + [f"{name}.{alias.name}" for alias in node.names]
    return names


def tree(path: Path) -> ast.Module:
    """What a file says; raises StError if it is not Python."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:  # a user's file
        raise StError(f"{path}: is not Python ({one_line(error)}); correct it") from error
