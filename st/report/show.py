"""Any file of a run, for a person: what `st show` prints."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from st.core.errors import StError, one_line
from st.core.files import read_json
from st.core.tensors import read_header, read_kind
from st.data.dataset import FORMAT as DATA
from st.data.dataset import load_data
from st.data.shards import Shards
from st.data.split import evaluated
from st.networks.checkpoint import FORMAT as MODEL
from st.networks.checkpoint import load_model
from st.networks.drawing import layer_costs
from st.networks.structure import Structure
from st.report.columns import aligned, reduction, short
from st.report.predictions import FORMAT as PREDICTIONS
from st.report.predictions import load_predictions

Facts = dict[str, Any]
BARS = " ▁▂▃▄▅▆▇█"
PLAIN = "st show adds nothing to other text files; read it as it is"
# What runs write for other programs, by its suffix.
OPENED_BY = {
    **dict.fromkeys((".md", ".tex", ".log", ".yaml", ".py"), "a text editor"),
    **dict.fromkeys((".png", ".pdf", ".svg"), "a viewer of images or documents"),
    ".html": "a browser",
    **dict.fromkeys((".onnx", ".pt2"), "`st latency`, or the program that it is for"),
}
POINTS = 60  # of a history's curve on a terminal


def describe(path: Path) -> Facts:
    """What is in a model, structure, data set, history, metrics or predictions file, as JSON.

    Raises StError that names the file if it is none of these, or damaged.
    """
    if not path.is_file():
        raise StError(f"{path}: is not a file; name one of results/, such as a model.safetensors")
    if path.suffix == ".csv":
        return _history(path)
    if path.suffix == ".json":
        return _json(path)
    if path.suffix in OPENED_BY:
        raise StError(f"{path}: is no file of `st show`; open it with {OPENED_BY[path.suffix]}")
    kind = read_kind(path)
    found: dict[str, Callable[[Path], Facts]] = {
        MODEL: _model, DATA: _data, PREDICTIONS: _predictions,
    }  # fmt: skip
    if kind not in found:
        raise StError(f"{path}: is a {kind or 'file of tensors'}, which cannot be shown")
    return {"file": str(path), "kind": kind, **found[kind](path)}


def _model(path: Path) -> Facts:
    checkpoint = load_model(path)
    facts = {name: value for name, value in checkpoint.facts.items() if name != "job"}
    job = checkpoint.facts.get("job") or {}
    return {**_structure(checkpoint.structure), **facts, "seed": job.get("seed"), "job": job}


def _structure(structure: Structure) -> Facts:
    (params, macs), (all_params, all_macs) = structure.cost(), structure.full.cost()
    return {
        "architecture": structure.label,
        "options": structure.options,
        "input_shape": list(structure.input_shape),
        "number_of_classes": structure.classes,
        "params": params,
        "params_kept": params / all_params,
        "macs": macs,
        "macs_kept": macs / all_macs,
        "layers": layers(structure),
    }


def layers(structure: Structure) -> list[Facts]:
    """Layer by layer; sizes of the supernet stand beside those that are left."""
    shapes, full_shapes = structure.shapes(), structure.full.shapes()
    costs, full_costs = (
        layer_costs(part.graph.terms(), part.graph.sizes(part.widths))
        for part in (structure, structure.full)
    )
    kinds = {"convolution": "conv", "grouped": "conv", "transposed": "conv", "linear": "linear"}
    found = []
    for tensor in structure.graph.tensors():
        if tensor.role not in kinds:
            continue
        name, axis = tensor.name.removesuffix(".weight"), int(tensor.role == "transposed")
        params, macs = costs[name]
        layer: Facts = {"layer": name, "kind": kinds[tensor.role]}
        layer |= {"channels": shapes[tensor.name][axis], "params": params, "macs": macs}
        if tensor.name in full_shapes:
            layer |= {"of": full_shapes[tensor.name][axis], "of_params": full_costs[name][0]}
        found.append(layer)
    return found


def _data(path: Path) -> Facts:
    data, digest = load_data(path)
    job = read_header(path, DATA).get("job") or {}
    return {
        "image_shape": list(data.input_shape),
        "store": "jpeg" if isinstance(data.train_images, Shards) else "pixels",
        "stored_training_shape": list(data.train_images.shape[1:]),
        "training_images": len(data.train_labels),
        "evaluated_images": len(data.test_labels),
        "evaluated": evaluated(job),
        "classes": data.classes,
        "normalisation": data.told(),
        "sha256": digest,
    }


def _predictions(path: Path) -> Facts:
    predicted, labels = load_predictions(path)
    return {"images": len(labels), "accuracy": 100 * float((predicted == labels).mean())}


def _json(path: Path) -> Facts:
    found = read_json(path)
    if not isinstance(found, dict):
        found = {}
    if "architecture" in found and "keep" in found:
        searched = {name: found[name] for name in ("search", "not_rounded") if name in found}
        structure = Structure.from_json(found, str(path))
        return {"file": str(path), "kind": "structure", **_structure(structure), **searched}
    if "accuracy" in found and "params_kept" in found:
        return {"file": str(path), "kind": "metrics", **found}
    raise StError(f"{path}: is neither a structure nor one network's metrics; {PLAIN}")


def _history(path: Path) -> Facts:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"epoch", "loss"} <= rows[0].keys():
            raise StError(f"{path}: is not a training's history; {PLAIN}")
        columns = {
            name: [float(row[name]) if row[name] else None for row in rows] for name in rows[0]
        }
        epochs = int(columns["epoch"][-1] or 0)  # no row for each: 0 is that of no training
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise StError(f"{path}: is not a training's history ({one_line(error)})") from error
    return {"file": str(path), "kind": "history", "epochs": epochs, "columns": columns}


def text(found: Facts) -> str:
    """What `describe` found, for a terminal."""
    lines = [f"{found['file']}: {found['kind']}"]
    hidden = {"file", "kind", "layers", "columns", "job", "options", "normalisation"}
    for name, value in found.items():
        if name in hidden or value in (None, {}, []):
            continue
        lines.append(f"  {name.replace('_', ' ')}: {_value(name, value)}")
    if "layers" in found:
        lines += ["", _table(found["layers"])]
    for name, values in found.get("columns", {}).items():
        if name != "epoch":
            lines.append(f"  {name:<15} {_curve(values)}")
    return "\n".join(lines)


def _value(name: str, value: Any) -> str:
    if name in ("params", "macs"):
        return f"{value:,}"
    if name.endswith("_kept"):
        return f"{100 * value:.1f} %"
    if name == "accuracy":
        return f"{value:.2f} %"
    if isinstance(value, dict):
        given = {key: inner for key, inner in value.items() if inner not in (None, {}, [])}
        return ", ".join(f"{key} {_value('', inner)}" for key, inner in given.items())
    if isinstance(value, list):
        return ", ".join(map(str, value[:12])) + (", ..." if len(value) > 12 else "")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(layers: list[Facts]) -> str:
    """A line per layer, in columns."""
    rows = [("layer", "kind", "channels", "of", "kept", "params", "removed", "MACs")]
    for layer in layers:
        of, params = layer.get("of"), layer.get("of_params")
        rows.append((
            layer["layer"], layer["kind"], str(layer["channels"]), str(of or ""),
            f"{100 * layer['channels'] / of:.0f} %" if of else "", short(layer["params"]),
            reduction(layer["params"] / params) if params else "", short(layer["macs"]),
        ))  # fmt: skip
    return aligned(rows, right=8, left=2, indent="  ")


def _curve(values: list[float | None]) -> str:
    """A line of blocks between the lowest and the highest value, then these and the last."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    step = max(1, -(-len(values) // POINTS))
    drawn = []
    for start in range(0, len(values), step):
        here = [value for value in values[start : start + step] if value is not None]
        level = (sum(here) / len(here) - low) / ((high - low) or 1) if here else None
        drawn.append(" " if level is None else BARS[1 + round(level * (len(BARS) - 2))])
    return f"{''.join(drawn)}  {low:.4g} to {high:.4g}, last {known[-1]:.4g}"


def show(path: Path, as_json: bool) -> None:
    """Print a file of a run."""
    found = describe(path)
    print(json.dumps(found, indent=2) if as_json else text(found))
