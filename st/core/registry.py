"""One idiom for everything a user may add: a dict filled by a decorator.

A registry also knows a package whose modules each register one entry of the module's own name
(`st/training/losses/kd.py` registers `kd`). So names can be listed without importing anything, and
an entry is imported when it is first asked for.

Registered modules import torch inside their functions: the workflow reads signatures from here to
check params.yaml, and must not pay for (or depend on) torch.
"""

import difflib
import importlib
import inspect
import pkgutil
import reprlib
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from st.core.errors import StError, one_line
from st.core.guest import MAIN, explained, guest


def closest(name: str, known: Iterable[str]) -> str:
    """'did you mean ...?' for a misspelt name, and the names there are; of many, the nearest."""
    known, name = sorted(known), str(name)
    # who misspells a word or shortens it rarely begins with another letter: 'rotate', 'jitter'
    begins = [word for word in known if word[:1] == name[:1]]
    near = difflib.get_close_matches(name, begins, n=1, cutoff=0.5)
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if len(known) > 40:
        nearest = difflib.get_close_matches(name, known, n=8, cutoff=0)
        known = [*nearest, f"and {len(known) - len(nearest)} more"]
    names = f"known: {', '.join(known) or 'none'}"
    return f"did you mean '{near[0]}'? ({names})" if near else names


class Registry:
    """Names to functions of one kind, such as the losses.

    What the workflow must know of them are attributes of theirs: those that each must have
    (`needs`), and others with what they are unless a function says otherwise (`defaults`).
    """

    def __init__(self, kind: str, package: str, needs: Sequence[str] = (), **defaults: Any):
        self.kind = kind
        self.package = package
        self.needs = needs
        self.defaults = defaults
        self._entries: dict[str, Callable] = {}

    def register(self, function: Callable) -> Any:
        """Decorator: the function is known by its own name, without a trailing underscore."""
        name = function.__name__.rstrip("_")
        known = self._entries.get(name)
        if known is not None and known.__module__ != function.__module__:
            raise StError(
                f"plugin {function.__module__}: the {self.kind} '{name}' is already registered "
                f"by {known.__module__}; give yours another name"
            )
        for attribute, default in self.defaults.items():
            if not hasattr(function, attribute):
                setattr(function, attribute, default)
        self._entries[name] = function
        return function

    def names(self) -> list[str]:
        """All names, sorted: the package's modules and what plugins registered."""
        package = importlib.import_module(self.package)
        return sorted({m.name for m in pkgutil.iter_modules(package.__path__)} | set(self._entries))

    def get(self, name: str) -> Any:
        """The function called `name`; raises StError with the closest known names, or with the
        attribute that it lacks."""
        if name not in self._entries:
            if name not in self.names():
                raise StError(f"unknown {self.kind} '{name}'; {closest(name, self.names())}")
            importlib.import_module(f"{self.package}.{name}")
        function = self._entries[name]
        for attribute in self.needs:
            if not hasattr(function, attribute):
                raise StError(
                    f"{self.kind} '{name}': its function lacks the attribute '{attribute}'; "
                    "docs/extending.md says what it is for"
                )
        return function

    def complete(self) -> None:
        """Raise StError if one of those that were registered lacks an attribute, or has options
        that cannot be understood."""
        for name in self._entries:
            self._options(name)

    def ask(self, name: str, attribute: str, /, *arguments: Any, **options: Any) -> Any:
        """What an attribute of `name` is or, if it is a function, says; raises StError in one line
        if that, which may be a plugin's, fails in any way."""
        value = getattr(self.get(name), attribute)
        if not callable(value):
            return value
        try:
            return value(*arguments, **options)
        except (StError, MemoryError):
            raise
        except Exception as error:
            told = explained(error, "cannot be told")
            raise StError(f"`{attribute}` of the {self.kind} '{name}': {told}") from error

    def module(self, name: str) -> str:
        """The module that defines `name`, for the workflow's code inputs."""
        return self.get(name).__module__

    def takes(self, name: Any, option: str) -> bool:
        """Whether there is an entry of this name that has this option."""
        return name in self.names() and option in self._options(name).model_fields

    def schema(self, name: str) -> dict[str, Any]:
        """The JSON schema of an entry's options."""
        return self._options(name).model_json_schema()

    def _options(self, name: str) -> type[BaseModel]:
        function = self.get(name)
        try:
            return _model_of(function)
        except Exception as error:  # a plugin's annotations may be anything
            raise StError(
                f"{self.kind} '{name}': the annotations of its options cannot be understood "
                f"({type(error).__name__}: {one_line(error, 100)}); use plain types, or pydantic's"
            ) from error

    def check(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """`options` completed by the defaults of the entry's keyword-only arguments.

        Annotations are pydantic types, so bounds are part of the signature. Raises StError that
        names the option.
        """
        model = self._options(name)
        try:
            return model(**options).model_dump()
        except ValidationError as error:
            problem, *others = error.errors()
            # without the names that pydantic gives to the types of a union
            key = ".".join(str(p) for n, p in enumerate(problem["loc"]) if n == 0 or type(p) is int)
            if problem["type"] == "extra_forbidden":
                detail = f"unknown option '{key}'; {closest(key, model.model_fields)}"
            elif problem["type"] == "missing":
                detail = f"option '{key}' is missing"
            else:
                same = [e["msg"] for e in others if e["loc"][:-1] == problem["loc"][:-1] != ()]
                what = " or ".join(m.removeprefix("Input ") for m in (problem["msg"], *same))
                detail = f"option '{key}': {what}, not {reprlib.repr(problem['input'])}"
            raise StError(f"{self.kind} '{name}': {detail}") from None


@cache
def _model_of(function: Callable) -> type[BaseModel]:
    """A function's keyword-only arguments, made once: large grids check thousands of jobs."""
    options = [
        p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    # Texts (from __future__ import annotations) are read where the function stands. Of options
    # only: the types of the other arguments may not be importable.
    given = {p.name: p.annotation for p in options if p.annotation is not p.empty}
    around = getattr(sys.modules.get(function.__module__), "__dict__", {})
    types = typing.get_type_hints(
        SimpleNamespace(__annotations__=given), around, include_extras=True
    )
    fields: dict[str, Any] = {
        # what has no annotation may be anything
        p.name: (types.get(p.name, Any), ... if p.default is p.empty else p.default)
        for p in options
    }
    return create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def _untold(**options: Any) -> None:
    """The shape of images that only preparing them tells."""


# What the attributes mean is said in each package's docstring, and in docs/extending.md.
architectures = Registry("architecture", "st.networks.architectures", imported=False, reshaped=None)
datasets = Registry(
    "data set", "st.data.datasets",
    shape=_untold, paths=None, where=(), writes=False, sample=None,
)  # fmt: skip
criteria = Registry(
    "criterion", "st.pruning.criteria",
    ranks=True, comparable=True, shares=False, budget=True, inherits=True, suits=None, told=None,
    data=False, drawn=False, blind=False,
)  # fmt: skip
inits = Registry("init", "st.networks.inits", needs=("source",))
losses = Registry(
    "loss", "st.training.losses", needs=("teacher", "taps"),
    soft=False, parts=(), recipe=(), adapter=None,
)  # fmt: skip
targets = Registry(
    "target", "st.deploy.targets", needs=("suffix", "runtime", "run", "call"),
    beside=(), packages=(), calibrated=False, exact=True, tag=None,
)  # fmt: skip


def look_here() -> None:
    """Let the user's own modules be found from the working directory."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def load_plugins(modules: Iterable[str]) -> None:
    """Import the user's own modules, found from the working directory or the environment."""
    look_here()
    for module in modules:
        try:
            with guest(f"plugins: '{module}'", "when it is imported", MAIN):
                importlib.import_module(module)
        except StError:
            raise
        except Exception as error:  # a user's module may fail in any way
            raise StError(
                f"plugins: '{module}' cannot be imported ({type(error).__name__}: "
                f"{one_line(error)}); name a module that is importable from the working directory"
            ) from error
    for registered in (architectures, datasets, criteria, inits, losses, targets):
        registered.complete()
