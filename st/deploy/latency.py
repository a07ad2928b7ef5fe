"""`st latency`: how long networks and exported files take, measured side by side on the CPU."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from st.core.device import channels_last, choose
from st.core.errors import StError, one_line
from st.core.progress import quiet
from st.core.registry import targets
from st.core.seeds import stream
from st.deploy.model import Model, load
from st.deploy.targets import require
from st.pruning.latency import times
from st.report.columns import short

BATCHES = (1, 64)
ROUNDS = 50
Row = dict[str, Any]


def measure(
    paths: Sequence[Path], batches: Sequence[int] = BATCHES, rounds: int = ROUNDS
) -> list[Row]:
    """For each batch size, with one thread and with all: the median, 5th and 95th percentile of a
    call in ms, and the file's bytes. The networks take turns, call by call.

    `paths`: model files, run by torch; .pt2, by torch; .onnx, by onnxruntime. Raises StError that
    names the file which can't be run, or networks that take images of different shapes.
    """
    threads = sorted({1, len(os.sched_getaffinity(0))})
    before = torch.get_num_threads()
    found = []
    try:
        for count in threads:
            where = choose("cpu", count)
            opened = [_opened(path, count) for path in paths]
            shapes = {shape for _, shape, _, _ in opened}
            if len(shapes) > 1:
                told = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes))
                raise StError(f"{paths[0]}: networks for images of {told} cannot be compared")
            for size in batches:
                calls = [partial(run, _batch(size, shape, raw)) for run, shape, raw, _ in opened]
                with torch.inference_mode():
                    taken = 1000 * times(calls, rounds, where)
                low, median, high = np.percentile(taken, (5, 50, 95), axis=0)
                for number, (path, (_, _, _, runtime)) in enumerate(
                    zip(paths, opened, strict=True)
                ):
                    found.append({
                        "file": str(path), "bytes": path.stat().st_size, "runtime": runtime,
                        "batch": size, "threads": count, "median_ms": float(median[number]),
                        "p5_ms": float(low[number]), "p95_ms": float(high[number]),
                    })  # fmt: skip
    finally:
        torch.set_num_threads(before)
    return found


def _batch(size: int, shape: tuple[int, ...], raw: bool) -> np.ndarray:
    pixels = stream(0, "latency").integers(0, 256, (size, *shape))
    return pixels.astype(np.uint8) if raw else (pixels / 128 - 1).astype(np.float32)


def _opened(
    path: Path, threads: int
) -> tuple[Callable[[np.ndarray], Any], tuple[int, ...], bool, str]:
    """A function of a batch, the shape of an image, whether it takes pixels, and what runs it."""
    if not path.is_file():
        raise StError(f"{path}: is missing; name a model.safetensors, an .onnx or a .pt2 file")
    if path.suffix not in (".onnx", ".pt2"):
        return _model(load(path))
    try:
        if path.suffix == ".pt2":
            with quiet():
                program = torch.export.load(path)
            (name,) = program.graph_signature.user_inputs
            (node,) = [node for node in program.graph.nodes if node.name == name]
            value = node.meta["val"]
            shape, raw = tuple(int(n) for n in value.shape[1:]), value.dtype == torch.uint8
            return targets.get("torch").run(path), shape, raw, "torch.export"
        require(targets.get("onnx").needs, f"{path}: an .onnx file")
        import onnxruntime

        (taken,) = onnxruntime.InferenceSession(
            path, providers=["CPUExecutionProvider"]
        ).get_inputs()
        shape = tuple(int(n) for n in taken.shape[1:])
        return targets.get("onnx").run(path, threads), shape, "uint8" in taken.type, "onnxruntime"
    except StError:
        raise
    except Exception as error:  # a foreign or damaged file may fail in any way
        raise StError(f"{path}: cannot be run ({one_line(error)}); export it again") from error


def _model(model: Model) -> tuple[Callable[[np.ndarray], Any], tuple[int, ...], bool, str]:
    network = channels_last(model)

    def run(batch: np.ndarray) -> torch.Tensor:
        return network(torch.from_numpy(batch).contiguous(memory_format=torch.channels_last))

    return run, model.input_shape, False, "torch"


def latency(paths: Sequence[Path], batches: Sequence[int], rounds: int, as_json: bool) -> None:
    """Print what `measure` found."""
    found = measure(paths, batches, rounds)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    head = ("batch", "threads", "median ms", "p5", "p95", "size", "run by", "file")
    rows = [head]
    for row in found:
        spread = [f"{row[key]:.3f}" for key in ("median_ms", "p5_ms", "p95_ms")]
        numbers = (str(row["batch"]), str(row["threads"]), *spread, f"{short(row['bytes'])}B")
        rows.append((*numbers, row["runtime"], row["file"]))
    widths = [max(len(line[n]) for line in rows) for n in range(len(head))]
    for line in rows:
        cells = [
            cell.rjust(width) if n < 6 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
