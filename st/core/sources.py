"""Which source files a job's result depends on.

Snakemake sees a rule's shell command but not the package behind it. So every rule takes the files
found here as inputs: editing a loss retrains what uses that loss and nothing else.
"""

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from st.core.errors import StError, one_line

ROOMS = (
    "core", "networks", "data", "training", "pruning", "config", "report", "deploy", "api",
    "phases",
)  # fmt: skip
# What these do can't change a result: messages, the command line, processes, which GPU is used; and
# the rooms' own files, which only say what lives there.
WITHOUT_EFFECT = {
    *("st", "st.cli", "st.core.errors", "st.core.process", "st.core.progress", "st.core.slots"),
    "st.core.sources",
    "st.training.launch",
    *(f"st.{room}" for room in ROOMS),
}


@cache
def sources(*modules: str) -> tuple[Path, ...]:
    """Files of these modules and of all that they import, directly or not, from their own
    packages; imports within functions count. Registered entries, which are imported by name, must
    be named by the caller.
    """
    found: dict[str, Path] = {}
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name in found or name in WITHOUT_EFFECT:
            continue
        path = module_file(name)
        if path is None:
            continue
        found[name] = path
        queue += [n for n in _imports(path) if n.split(".")[0] == name.split(".")[0] or _is_st(n)]
        queue += [name.rpartition(".")[0]] if "." in name else []
    return tuple(sorted(set(found.values())))


def digest(*modules: str) -> str:
    """Of the contents of `sources`."""
    found = hashlib.sha256()
    for path in sources(*modules):
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def _is_st(name: str) -> bool:
    return name == "st" or name.startswith("st.")


@cache
def module_file(name: str) -> Path | None:
    """The file of a module, or None for what is not a module (a name imported from one).

    Found without importing the module or its parents, which may import torch.
    """
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a script that is run
        return None
    if spec is None or not spec.origin:
        return None
    if not spec.submodule_search_locations:
        return None if rest else Path(spec.origin)
    path = Path(spec.origin).parent.joinpath(*rest)
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


def beside(path: Path) -> list[Path]:
    """A file of Python's, and the files in its folder that it imports, directly or not."""
    found: list[Path] = []
    queue = [path]
    while queue:
        file = queue.pop()
        if file not in found and file.is_file():
            found.append(file)
            queue += [file.with_name(f"{name.split('.')[0]}.py") for name in _imports(file)]
    return sorted(found)


@cache
def _imports(path: Path) -> list[str]:
    """All names that a file imports; `from a import b` gives both a and a.b. Raises StError if it
    is not Python."""
    names = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names


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
    if not level:
        own = path.with_name(f"{name}.py")
        return own if own.is_file() else module_file(name)
    base = path.parents[level - 1].joinpath(*filter(None, name.split(".")))
    return next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), None)


@cache
def _bound(path: Path) -> tuple[set[str] | None, set[str], list[tuple[int, str]]]:
    """All names in a file, None if it may bind others; its functions and classes; the modules, as
    level and name, of which it imports all names."""
    names, made, stars = set[str](), set[str](), []
    for node in ast.walk(_tree(path)):
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


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:  # a user's file
        raise StError(f"{path}: is not Python ({one_line(error)}); correct it") from error
