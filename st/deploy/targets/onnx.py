"""ONNX, through torch's exporter: run by onnxruntime and many others, on servers and phones."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from st.core.errors import StError
from st.core.registry import targets
from st.deploy.targets import INPUT, OUTPUT, metadata

if TYPE_CHECKING:
    from st.deploy.model import Model

LARGEST = 2 * 2**30 - 1  # bytes of a file in protocol buffers


@targets.register
def onnx(model: "Model", path: Path, raw: bool, calibration: np.ndarray | None = None) -> None:
    """Standard operators only, any number of images a batch, all weights in the one file."""
    written = as_onnx(model, raw)
    if len(written) > LARGEST:
        raise StError(f"{path}: ONNX files hold at most 2 GB; export to torch instead")
    path.write_bytes(written)


def as_onnx(model: "Model", raw: bool) -> bytes:
    """The file's contents."""
    import contextlib
    import io
    import logging
    import warnings

    import torch
    from torch.export import Dim

    from st.deploy.model import Portable

    module = Portable(model, raw)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with (
            torch.no_grad(), warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
        ):  # fmt: skip
            program = torch.onnx.export(
                module, (module.example(),), dynamo=True, verbose=False,
                dynamic_shapes=({0: Dim("batch")},),
                input_names=[INPUT[raw]], output_names=[OUTPUT],
            )  # fmt: skip
    finally:
        quiet.setLevel(level)
    assert program is not None
    return finished(program.model_proto, model, raw)


def finished(proto: Any, model: "Model", raw: bool) -> bytes:
    """A file's contents: without what libraries note in it, with what it says of itself.

    Raises StError if it has an operation that is not ONNX's own.
    """
    foreign = {node.op_type for node in proto.graph.node if node.domain}
    foreign |= {function.name for function in proto.functions}
    if foreign:
        told = ", ".join(sorted(foreign))
        raise StError(f"{model.path}: has operations that standard ONNX has not: {told}")
    own = [entry for entry in proto.opset_import if not entry.domain]
    del proto.opset_import[:]
    proto.opset_import.extend(own)
    graph = proto.graph
    parts = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer)
    for part in (proto, graph, *itertools.chain(*parts)):
        # the exporter notes by each operation where in which file it was written
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for key, value in metadata(model, raw).items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString(deterministic=True)


def run(path: Path, threads: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a batch to logits, in onnxruntime on the CPU. `threads`: 0 for all."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    return lambda batch: session.run([OUTPUT], {taken.name: batch})[0]


onnx.suffix = ".onnx"
onnx.runtime, onnx.tag = "onnxruntime", "onnx"
onnx.packages = ("onnx", "onnxscript", "onnxruntime")
onnx.run = run
onnx.call = """\
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("{file}")
(logits,) = session.run(None, {{"{input}": batch}})  # {dtype} (n, {shape})
classes = [names[n] for n in logits.argmax(1)]"""
