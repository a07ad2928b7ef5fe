"""torch.export's program (.pt2): run by torch alone, in Python or C++."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from st.core.registry import targets
from st.deploy.targets import metadata

if TYPE_CHECKING:
    from st.deploy.model import Model


@targets.register
def torch(model: "Model", path: Path, raw: bool, calibration: np.ndarray | None = None) -> None:
    """The graph of the network's operations and its weights; nothing of this package is needed."""
    import io
    import json
    import warnings

    import torch
    from torch.export import Dim

    from st.deploy.model import Portable

    module = Portable(model, raw)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        program = torch.export.export(
            module, (module.example(),), dynamic_shapes=({0: Dim("batch")},)
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # where in which file it was written
        content = io.BytesIO()
        about = json.dumps(metadata(model, raw))
        torch.export.save(program, content, extra_files={"metadata.json": about})
    path.write_bytes(content.getvalue())


def run(path: Path, threads: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a batch to logits, on the CPU. `threads`: 0 for torch's default; they are the
    process's."""
    import io

    import torch

    if threads:
        torch.set_num_threads(threads)
    program = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def logits(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program(torch.from_numpy(batch)).numpy()

    return logits


torch.suffix = ".pt2"
torch.runtime, torch.tag = "torch", "pytorch"
torch.run = run
torch.call = """\
import torch
network = torch.export.load("{file}").module()
logits = network(batch)  # {dtype} (n, {shape})
classes = [names[n] for n in logits.argmax(1)]"""
