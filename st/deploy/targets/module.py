"""A network as source code: a file of plain PyTorch, and its weights as safetensors beside it."""

import sys
from collections.abc import Callable
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from st.core.errors import StError
from st.core.registry import targets
from st.core.tensors import save_tensors
from st.deploy.targets import metadata

if TYPE_CHECKING:
    from st.deploy.model import Model


# beside the standard library, what importing the file loads
LOADED = {"__main__", "numpy", "safetensors", "torch", "torchgen", "tqdm", "typing_extensions"}


@targets.register
def module(model: "Model", path: Path, raw: bool, calibration: np.ndarray | None = None) -> None:
    """For who wants to own the code: classes of torch's layers with this network's channels, the
    names of the model's weights, nothing of this package. It can be trained on."""
    from st.deploy.source.write import written

    _check_name(path)
    code, tensors = written(model, path.stem, raw)
    path.write_text(code, encoding="utf-8")
    save_tensors(_weights(path), tensors, metadata(model, raw))


def _check_name(path: Path) -> None:
    """Raise StError unless the file can be imported by its name, and others still by theirs."""
    name = path.stem
    if not name.isidentifier() or iskeyword(name):
        raise StError(f"{path.name}: is no name of a module; use letters, digits and _ only")
    if name in LOADED | sys.stdlib_module_names:
        raise StError(f"{path.name}: would hide the module '{name}'; export to another name")


def _weights(path: Path) -> Path:
    """The file beside it."""
    return path.with_suffix(".safetensors")


def told(path: Path) -> dict[str, Any]:
    """What the weights beside a file say of its input."""
    import json

    from safetensors import safe_open

    with safe_open(_weights(path), framework="numpy") as file:
        found = file.metadata() or {}
    if "input" not in found:
        raise StError(
            f"{path}: is nothing that st export wrote; its weights do not say what it takes"
        )
    return json.loads(found["input"])


def run(path: Path, threads: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a batch to logits, on the CPU; runs the file. `threads`: 0 for torch's
    default; they are the process's."""
    import runpy

    import torch

    if threads:
        torch.set_num_threads(threads)
    network = runpy.run_path(str(path))["load"](_weights(path))

    def logits(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(batch)).numpy()

    return logits


module.suffix = ".py"
module.beside = (".safetensors",)
module.runtime, module.tag = "torch", "pytorch"
module.run = run
module.call = """\
from {stem} import load
network = load("{stem}.safetensors")
logits = network(batch)  # {dtype} (n, {shape})
classes = [names[n] for n in logits.argmax(1)]"""
