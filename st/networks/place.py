"""Names of torch modules of others, and whether they are there, without importing anything."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from st.core.errors import StError
from st.core.registry import closest
from st.core.sources import beside, file_of, in_project, module_file, sources, tree


def parted(name: str) -> tuple[str, str]:
    """(FILE.py, a package's module or timm; what to call of it) of an option `module`; raises
    StError if it is no such name."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise StError(
            f"module '{name}': must be FILE.py:NAME, PACKAGE.MODULE:NAME or timm:NAME, such as "
            "torchvision.models:resnet18"
        )
    return place, attribute


def installed(name: str) -> None:
    """Raise StError if the package of an option `module` is not there. Nothing is imported."""
    place, _ = parted(name)
    package = place.partition(".")[0]
    try:
        found = place.endswith(".py") or find_spec(package) is not None
    except ValueError:  # made by a program, such as a notebook's
        found = True
    if not found:
        raise StError(f"module '{name}': {package} is missing; pip install {package}")


def code(module: str) -> tuple[Path, ...]:
    """The files of an option `module`, where they are not a library's; raises StError if one is not
    Python."""
    place = parted(module)[0]
    if place.endswith(".py"):
        return beside(Path(place))
    file = module_file(place)
    return sources(place) if file and in_project(file) else ()


def has(module: str) -> None:
    """Raise StError if what an option `module` names is surely not there, as far as can be told
    without importing it."""
    place, attribute = parted(module)
    wanted = attribute.split(".")[0]
    file = Path(place) if place.endswith(".py") else module_file(place)
    if file is None:  # a module that is missing, or none of Python's
        package, _, wanted = place.rpartition(".")
        file = module_file(package) if package else None
    known = names_without(wanted, file) if file and place != "timm" else None
    if known is not None:
        raise StError(f"module '{module}': there is no '{wanted}'; {closest(wanted, known)}")


# Whose mention in a file means that it may bind names that are not written in it.
MAKES_NAMES = {"__path__", "globals", "locals", "vars", "exec"}


def names_without(name: str, file: Path) -> list[str] | None:
    """The functions and classes of a module's file, if it surely does not bind `name`; else None.
    What can't be known without running the file is not sure."""
    known, queue = set[str](), [file]
    for path in queue:
        names, made, stars = _bound(path)
        parts = path.parent.iterdir() if path.name == "__init__.py" else ()
        if names is None or name in names or any(p.name.split(".")[0] == name for p in parts):
            return None
        for star in stars:
            brought = _star(path, *star)
            if brought is None:
                return None
            queue += [brought] if brought not in queue else []
        known |= made
    return sorted(name for name in known if name[0] != "_")


def _star(path: Path, level: int, name: str) -> Path | None:
    """The file of what `from ... import *` names in a file."""
    if level > len(path.parents) or (level and not name):  # of which nothing is known
        return None
    if not level:
        own = path.with_name(f"{name}.py")
        return own if own.is_file() else module_file(name)
    return file_of(path.parents[level - 1].joinpath(*filter(None, name.split("."))))


@cache
def _bound(path: Path) -> tuple[set[str] | None, set[str], list[tuple[int, str]]]:
    """All names in a file, None if it may bind others; its functions and classes; the modules, as
    level and name, of which it imports all names."""
    names, made, stars = set[str](), set[str](), []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules":
            names.add("globals")
        elif isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            stars.append((node.level, node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            imported = {alias.asname or alias.name for alias in node.names}
            names |= imported
            made |= imported if path.name == "__init__.py" else set()  # what a package offers
    more = MAKES_NAMES & names or "__getattr__" in made
    return None if more else names | made, made, stars
