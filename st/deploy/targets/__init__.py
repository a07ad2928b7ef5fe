"""Files that other programs run: each module registers one kind, a function that writes it.

It takes (model, path, raw, calibration). `model`: a `st.deploy.model.Model`; `path`: the file to
write, with those that belong to it beside; `raw`: whether the file takes pixels of 0 to 255 and
normalises them itself; `calibration`: uint8 images (n, channels, height, width) on which ranges are
measured, for kinds that need them. Attributes say the rest: `suffix` of its file; `beside`, those
of the files that lie beside it; `runtime`, what runs it; `packages`, those that write and run
them beside torch; `calibrated`, whether it needs images; `exact`, whether the file computes what
the network does, up to rounding; `run`, a function of (path, threads) that gives a function from a
batch to logits, numpy arrays both; `call`, how a person runs it; `tag`, what hubs call the format
(by default as params.yaml does).
"""

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st import __version__
from st.core.errors import StError

if TYPE_CHECKING:
    from st.deploy.model import Model

INPUT = {True: "pixels", False: "images"}  # the input's name, by whether it is raw
OUTPUT = "logits"


def parts(kind: Any, path: Path) -> list[Path]:
    """The files that an export of this kind consists of, the main one first."""
    return [path, *(path.with_suffix(suffix) for suffix in kind.beside)]


def require(packages: tuple[str, ...], purpose: str) -> None:
    """Raise StError that says how to install the packages which are missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise StError(
            f"{purpose} needs {', '.join(missing)}; install the extra: pip install "
            "'search-and-train[export]'"
        )


def metadata(model: "Model", raw: bool) -> dict[str, str]:
    """What a file says of itself, by key; all values but the format are JSON."""
    normalise = model.normalise
    facts: dict[str, Any] = {
        "classes": model.classes,
        "input": {
            "name": INPUT[raw],
            "shape": ["batch", *model.input_shape],
            "values": "uint8, 0 to 255" if raw else "float32, (value / 255 - mean) / std",
            "mean": normalise.given["mean"],
            "std": normalise.given["std"],
            "resize": model.resize,
        },
        "structure": model.structure.to_json(),
        "provenance": model.provenance,
    }
    made = {name: json.dumps(value) for name, value in facts.items()}
    return {"format": f"search-and-train export, st {__version__}", **made}
