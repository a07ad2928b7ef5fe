"""`st profile`: where the time and the MACs of one network or two are, layer by layer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from st.core.device import Device, choose
from st.core.errors import StError
from st.deploy.model import Model, load
from st.networks.profile import Operator, by_kind, profile
from st.networks.timing import seconds
from st.report.columns import aligned, short

Profile = dict[str, Any]


def measure(model: Model, size: int, rounds: int, device: Device) -> Profile:
    """What the operators and layers of a network take in batches of `size` images, in ms, beside
    their MACs, and what the whole network takes."""
    network = device.place(model.network).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, *model.input_shape, generator=generator)
    batch = images.to(device.name, memory_format=torch.channels_last)
    with torch.inference_mode():
        found = profile(network, batch, rounds, device)
        whole = float(seconds([network], batch, rounds, device)[0])
    return {
        "file": model.path,
        "batch": size,
        "threads": device.threads,
        "network_ms": 1000 * whole,
        "operators_ms": 1000 * sum(operator.seconds for operator in found),
        "macs": model.structure.cost()[1],
        "kinds": by_kind(found),
        "layers": _layers(found),
    }


def _layers(operators: Sequence[Operator]) -> list[dict[str, Any]]:
    """Layers in their order; what lies in none by the operators' names, after them."""
    found: dict[str, dict[str, Any]] = {}
    for operator in operators:
        new = {"layer": operator.layer, "operators": [], "ms": 0.0, "macs": 0}
        entry = found.setdefault(operator.layer, new)
        entry["operators"].append(operator.name)
        entry["ms"] += 1000 * operator.seconds
        entry["macs"] += operator.macs
    return sorted(found.values(), key=lambda entry: entry["layer"].startswith("("))


def show(paths: Sequence[Path], size: int, rounds: int, threads: int, as_json: bool) -> None:
    """Print the profiles of one or two models, and how these compare by kinds of operators."""
    if len(paths) > 2:
        raise StError(f"{paths[2]}: st profile takes one model or two; st latency compares more")
    models = [load(path) for path in paths]
    device = choose("cpu", threads)
    profiles = [measure(model, size, rounds, device) for model in models]
    if as_json:
        print(json.dumps(profiles if len(profiles) > 1 else profiles[0], indent=2))
        return
    for found in profiles:
        print(_told(found))
    if len(profiles) > 1:
        print(_compared(*profiles))


def _told(found: Profile) -> str:
    total, macs = found["operators_ms"], max(found["macs"], 1)
    rows = [("layer", "operators", "ms", "time", "MACs", "of all")]
    for layer in found["layers"]:
        names = list(dict.fromkeys(layer["operators"]))
        count = len(layer["operators"])
        told = f"{names[0]} x{count}" if len(names) == 1 and count > 1 else ", ".join(names)
        share = f"{100 * layer['macs'] / macs:.1f} %" if layer["macs"] else ""
        time = f"{100 * layer['ms'] / total:.1f} %"
        many = short(layer["macs"]) if layer["macs"] else ""
        rows.append((layer["layer"], told, f"{layer['ms']:.4f}", time, many, share))
    return (
        f"{found['file']}: batches of {found['batch']}, threads: {found['threads'] or 'all'}\n"
        f"{aligned(rows, right=6, left=2)}\n"
        f"operators, each called alone: {total:.3f} ms; the network: {found['network_ms']:.3f} ms\n"
    )


def _compared(one: Profile, other: Profile) -> str:
    rows = [("kind", "operators", "ms", "other's", "ms", "of the first's time")]
    empty = {"operators": 0, "ms": 0.0}
    for kind in dict.fromkeys([*one["kinds"], *other["kinds"]]):
        first, second = (found["kinds"].get(kind, empty) for found in (one, other))
        ratio = f"{100 * second['ms'] / first['ms']:.0f} %" if first["ms"] else ""
        counts = [str(part["operators"]) for part in (first, second)]
        cells = (counts[0], f"{first['ms']:.4f}", counts[1], f"{second['ms']:.4f}")
        rows.append((kind, *cells, ratio))
    macs, time = (f"{100 * other[key] / one[key]:.0f} %" for key in ("macs", "network_ms"))
    return (
        f"{aligned(rows, right=6, left=1)}\n"
        f"the second network has {macs} of the first's MACs and takes {time} of its time"
    )
