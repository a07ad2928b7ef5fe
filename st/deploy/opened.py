"""Files at work: models and exported files as functions of a batch, whatever runs them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from st.core.device import channels_last
from st.core.errors import StError, one_line
from st.core.guest import quiet
from st.core.registry import targets
from st.core.seeds import stream
from st.deploy.model import Model, load
from st.deploy.targets import OUTPUT, parts, require


@dataclass(frozen=True)
class Opened:
    """`run`: a function of a batch; `shape`: of an image; `raw`: whether it takes pixels;
    `runtime`: what runs it; `precision`: float32 or int8; `bytes`: of all its files."""

    run: Callable[[np.ndarray], Any]
    shape: tuple[int, ...]
    raw: bool
    runtime: str
    precision: str
    bytes: int

    def batch(self, size: int) -> np.ndarray:
        """So many random images."""
        pixels = stream(0, "latency").integers(0, 256, (size, *self.shape))
        return pixels.astype(np.uint8) if self.raw else (pixels / 128 - 1).astype(np.float32)


def opened(path: Path, threads: int) -> Opened:
    """A model file, run by torch; .pt2 and .py, by torch; .onnx, by onnxruntime. `threads`: of
    onnxruntime; those of torch are the process's. Raises StError that names what can't be run."""
    if not path.is_file():
        kinds = "a model.safetensors, an .onnx, a .pt2 or a .py file"
        raise StError(f"{path}: is not a file; name {kinds}")
    kind = {".onnx": _onnx, ".pt2": _program, ".py": _source}.get(path.suffix)
    if kind is None:
        return _model(load(path))
    try:
        return kind(path, threads)
    except StError:
        raise
    except Exception as error:  # a foreign or damaged file may fail in any way
        raise StError(f"{path}: cannot be run ({one_line(error)}); export it again") from error


def _program(path: Path, threads: int) -> Opened:
    with quiet():
        program = torch.export.load(path)
    (name,) = program.graph_signature.user_inputs
    (node,) = [node for node in program.graph.nodes if node.name == name]
    value = node.meta["val"]
    shape, raw = tuple(int(n) for n in value.shape[1:]), value.dtype == torch.uint8
    run = targets.get("torch").run(path)
    return Opened(run, shape, raw, "torch.export", "float32", path.stat().st_size)


def _onnx(path: Path, threads: int) -> Opened:
    require(targets.get("onnx").packages, f"{path}: an .onnx file")
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
    sizes = inputs[0].shape[1:] if len(inputs) == 1 else []
    if len(sizes) != 3 or not all(type(n) is int for n in sizes) or OUTPUT not in outputs:
        raise StError(
            f"{path}: is not as st export writes it: one input, images of a known size, and the "
            f"output '{OUTPUT}'"
        )
    (taken,), shape = inputs, tuple(sizes)
    precision = "int8" if b"DequantizeLinear" in path.read_bytes() else "float32"
    run = targets.get("onnx").run(path, threads)
    return Opened(run, shape, "uint8" in taken.type, "onnxruntime", precision, path.stat().st_size)


def _source(path: Path, threads: int) -> Opened:
    from st.deploy.targets.module import told

    kind = targets.get("module")
    files = parts(kind, path)
    for file in files:
        if not file.is_file():
            raise StError(f"{file}: is missing; it belongs to {path}")
    about = told(path)
    size = sum(file.stat().st_size for file in files)
    shape = tuple(about["shape"][1:])
    return Opened(kind.run(path), shape, about["name"] == "pixels", "torch", "float32", size)


def _model(model: Model) -> Opened:
    network = channels_last(model)

    def run(batch: np.ndarray) -> torch.Tensor:
        return network(torch.from_numpy(batch).contiguous(memory_format=torch.channels_last))

    size = Path(model.path).stat().st_size
    return Opened(run, model.input_shape, False, "torch", "float32", size)
