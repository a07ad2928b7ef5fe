"""Which source files a job's result depends on.

Snakemake sees a rule's shell command but not the package behind it. So every rule takes the files
found here as inputs: editing a loss retrains what uses that loss and nothing else.
"""

import ast
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


def _is_st(name: str) -> bool:
    return name == "st" or name.startswith("st.")


@cache
def module_file(name: str) -> Path | None:
    """The file of a module, or None for what is not a module (a name imported from one).

    Found without importing the module or its parents, which may import torch.
    """
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
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
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:  # a user's file
        raise StError(f"{path}: is not Python ({one_line(error)}); correct it") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names
