"""What params.yaml may name, and the options of each: for a person."""

import inspect
import json
from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any

from st.core import registry
from st.core.errors import StError
from st.core.registry import Registry, closest

# how params.yaml names them, and where their options stand there
PLACES = (
    ("architectures: {...: {family: NAME, options: {...}}}", registry.architectures),
    ("datasets: {...: {source: NAME, options: {...}}}", registry.datasets),
    ("searches: {...: {criterion: NAME, options: {...}}}", registry.criteria),
    ("methods: {...: {init: NAME, init_options: {...}}}", registry.inits),
    ("methods: {...: {objective: {NAME: {weight: 1, ...}}}}", registry.losses),
    ("exports: {...: {to: [NAME]}}", registry.targets),
)


def told(wanted: Sequence[str]) -> Iterator[str]:
    """Lines about all that is registered or, with all that is known of it, what is called so;
    raises StError if nothing is."""
    names = {name for _, known in PLACES for name in known.names()}
    for name in wanted:
        if name not in names:
            raise StError(f"unknown name '{name}'; {closest(name, names)}")
    for place, known in PLACES:
        shown = [name for name in known.names() if not wanted or name in wanted]
        yield from [place] if shown else []
        for name in shown:
            yield from _entry(known, name, full=bool(wanted))


def _entry(known: Registry, name: str, full: bool) -> Iterator[str]:
    function = known.get(name)
    own = inspect.getdoc(function) or ""
    module = inspect.getdoc(inspect.getmodule(function)) or ""
    # a module of this package's has one entry, and names its source
    paragraphs = [] if known.module(name).partition(".")[0] != "st" else module.split("\n\n")[:1]
    paragraphs += own.split("\n\n") if full or not paragraphs else []
    for number, text in enumerate(paragraphs[: None if full else 1]):
        first = f"  {name}: " if number == 0 else "      "
        yield fill(" ".join(text.split()), 100, initial_indent=first, subsequent_indent="      ")
    schema = known.schema(name)
    for option, spec in schema.get("properties", {}).items():
        default = f" = {json.dumps(spec['default'])}" if "default" in spec else ""
        yield f"      {option}{default}: {_kind(spec, schema.get('$defs', {}))}"


def _kind(spec: dict[str, Any], named: dict[str, Any]) -> str:
    """A JSON schema's types and bounds in words."""
    if "$ref" in spec:
        spec = named[spec["$ref"].rpartition("/")[2]]
    if "anyOf" in spec:
        kinds = [_kind(one, named) for one in spec["anyOf"] if one.get("type") != "null"]
        return "; or ".join(kinds)  # that it may be null says its default
    values = spec.get("enum", [spec["const"]] if "const" in spec else [])
    if values:
        return " | ".join(str(value) for value in values)
    kind = spec.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(spec.get('items', {}), named)}"
    bounds = {
        "at least": "minimum", "above": "exclusiveMinimum",
        "at most": "maximum", "below": "exclusiveMaximum",
    }  # fmt: skip
    found = [f"{word} {spec[key]:g}" for word, key in bounds.items() if key in spec]
    return ", ".join([{"object": "mapping"}.get(kind, kind), *found])
