"""Two models or structures side by side: what `st diff` prints."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from st.core.errors import StError
from st.core.files import read_json
from st.networks.checkpoint import Checkpoint, load_model
from st.networks.structure import Structure
from st.report.columns import aligned, short
from st.report.show import layers

Facts = dict[str, Any]
NONE = "-"  # what one of the two has not
MOST = 40  # characters of a value on a terminal


def compare(one: Path, other: Path) -> Facts:
    """How two model.safetensors or structure.json, or one of each, differ, as JSON.

    `layers`: every layer of either with its channels, parameters and MACs in both (None where it
    has no such layer); `common`, the channels that both keep, where their numbers mean the same.
    `settings`: what is said differently of how they were made. `weights`: for two models of one
    structure, the largest difference of each tensor that differs.
    Raises StError that names the file if it is neither.
    """
    first, second = _read(one), _read(other)
    structures = [_structure(found) for found in (first, second)]
    same_channels = structures[0].to_json() == structures[1].to_json()
    comparable = structures[0].full.to_json() == structures[1].full.to_json()
    found: Facts = {
        "files": [str(one), str(other)],
        "same_structure": same_channels,
        "totals": {
            name: [structure.cost()[number] for structure in structures]
            for number, name in enumerate(("params", "macs"))
        },
        "layers": _layers(structures, comparable),
        "settings": _settings(_said(first), _said(second)),
    }
    if isinstance(first, Checkpoint) and isinstance(second, Checkpoint) and same_channels:
        found["weights"] = {
            name: float(np.abs(value - second.tensors[name]).max())
            for name, value in first.tensors.items()
            if not np.array_equal(value, second.tensors[name])
        }
    return found


def _read(path: Path) -> Checkpoint | tuple[Structure, Facts]:
    if not path.is_file():
        raise StError(f"{path}: is not a file; name a model.safetensors or structure.json")
    if path.suffix != ".json":
        return load_model(path)
    found = read_json(path)
    return Structure.from_json(found, str(path)), found


def _structure(found: Checkpoint | tuple[Structure, Facts]) -> Structure:
    return found.structure if isinstance(found, Checkpoint) else found[0]


def _said(found: Checkpoint | tuple[Structure, Facts]) -> Facts:
    """What a file says of its network beside channels and sizes, one level deep: a.b.c -> value."""
    facts = found.facts if isinstance(found, Checkpoint) else {"search": found[1].get("search")}
    structure = _structure(found)
    about = {
        "architecture": structure.label,
        "options": structure.options,
        "input_shape": list(structure.input_shape),
        "number_of_classes": structure.classes,
    }
    return dict(_flat({**about, **facts}))


def _flat(value: Any, place: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        return [(place, value)]
    return [
        pair
        for key, inner in value.items()
        for pair in _flat(inner, f"{place}.{key}" if place else str(key))
    ]


def _settings(one: Facts, other: Facts) -> Facts:
    """The keys whose values differ, with both; None where one says nothing."""
    keys = dict.fromkeys([*one, *other])
    return {k: [one.get(k), other.get(k)] for k in keys if one.get(k) != other.get(k)}


def _layers(structures: list[Structure], comparable: bool) -> list[Facts]:
    """A line for each layer, and for each group of channels that no layer is called after."""
    sizes = [_sizes(structure) for structure in structures]
    groups = structures[0].graph.groups.keys() & structures[1].graph.groups.keys()
    found = []
    for name in dict.fromkeys([*sizes[0], *sizes[1]]):
        both = [part.get(name) for part in sizes]
        layer: Facts = {"layer": name}
        for key in ("channels", "params", "macs"):
            layer[key] = [size and size[key] for size in both]
        if comparable and name in groups:
            first, second = (structure.kept(name) for structure in structures)
            layer["common"] = len(np.intersect1d(first, second))
        found.append(layer)
    return found


def _sizes(structure: Structure) -> dict[str, Facts]:
    """Channels, parameters and MACs of each layer; a group by itself, such as what a consumer
    selects from a stream, has channels only."""
    found = {layer["layer"]: layer for layer in layers(structure)}
    for name, width in structure.widths.items():
        found.setdefault(name, {"channels": width, "params": 0, "macs": 0})
    return found


def text(found: Facts) -> str:
    """What `compare` found, for a terminal: what differs, and totals."""
    one, other = found["files"]
    lines = [f"A: {one}", f"B: {other}", ""]
    if found["same_structure"]:
        lines.append("the same structure")
    else:
        different = [
            layer
            for layer in found["layers"]
            if layer["channels"][0] != layer["channels"][1]
            or layer["params"][0] != layer["params"][1]
            or layer.get("common", layer["channels"][0]) != layer["channels"][0]
        ]
        lines.append(_table(different))
        lines.append(f"  {len(different)} of {len(found['layers'])} layers differ")
    for name, title in (("params", "parameters"), ("macs", "MACs")):
        first, second = found["totals"][name]
        lines.append(f"  {title}: {first:,} and {second:,} ({_change(first, second)})")
    if "weights" in found:
        weights = found["weights"]
        if not weights:
            lines.append("  the same weights")
        else:
            name = max(weights, key=weights.__getitem__)
            lines.append(
                f"  {len(weights)} tensors differ, by at most {weights[name]:.3g} ({name})"
            )
    if found["settings"]:
        lines += ["", "said differently:"]
        width = max(map(len, found["settings"]))
        lines += [
            f"  {key.ljust(width)}  {_short(first)} | {_short(second)}"
            for key, (first, second) in found["settings"].items()
        ]
    return "\n".join(lines)


def _table(layers: list[Facts]) -> str:
    rows = [("layer", "channels A", "B", "common", "params A", "B", "MACs A", "B")]
    for layer in layers:
        numbers = [
            NONE if size is None else (str(size) if key == "channels" else short(size))
            for key in ("channels", "params", "macs")
            for size in layer[key]
        ]
        rows.append((layer["layer"], *numbers[:2], str(layer.get("common", "")), *numbers[2:]))
    return aligned(rows, right=8, left=1, indent="  ")


def _change(one: int, other: int) -> str:
    return "equal" if one == other else f"{100 * (other / one - 1):+.1f} %"


def _short(value: Any) -> str:
    told = NONE if value is None else json.dumps(value, ensure_ascii=False)
    return told if len(told) <= MOST else f"{told[: MOST - 3]}..."


def diff(one: Path, other: Path, as_json: bool) -> None:
    """Print how two files differ."""
    found = compare(one, other)
    print(json.dumps(found, indent=2) if as_json else text(found))
