"""`st latency`: how long networks and exported files take, measured side by side on the CPU."""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from st.core.device import choose
from st.core.errors import StError
from st.deploy.memory import peaks
from st.deploy.opened import opened
from st.networks.timing import times
from st.report.columns import aligned, short

BATCHES = (1, 64)
ROUNDS = 50
Row = dict[str, Any]


def measure(
    paths: Sequence[Path],
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    plugins: Sequence[str] = (),
) -> list[Row]:
    """For each batch size, with one thread and with all: the median, 5th and 95th percentile of a
    call in ms; the bytes of the file and of the memory that it needs at most (`peaks`). The
    networks take turns, call by call.

    `paths`: model files and exported files, see `opened`. `plugins`: modules that define their
    architectures. Raises StError that names the file which can't be run, or networks that take
    images of different shapes.
    """
    threads = sorted({1, len(os.sched_getaffinity(0))})
    before = torch.get_num_threads()
    found: list[Row] = []
    try:
        for count in threads:
            where = choose("cpu", count)
            files = [opened(path, count) for path in paths]
            shapes = {file.shape for file in files}
            if len(shapes) > 1:
                told = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes))
                raise StError(f"{paths[0]}: networks for images of {told} cannot be compared")
            for size in batches:
                calls = [partial(file.run, file.batch(size)) for file in files]
                with torch.inference_mode():
                    taken = 1000 * times(calls, rounds, where)
                low, median, high = np.percentile(taken, (5, 50, 95), axis=0)
                for number, (path, file) in enumerate(zip(paths, files, strict=True)):
                    found.append({
                        "file": str(path), "bytes": file.bytes, "runtime": file.runtime,
                        "precision": file.precision, "batch": size, "threads": count,
                        "median_ms": float(median[number]), "p5_ms": float(low[number]),
                        "p95_ms": float(high[number]),
                    })  # fmt: skip
    finally:
        torch.set_num_threads(before)
    memory = {str(path): peaks(path, batches, plugins) for path in dict.fromkeys(paths)}
    for row in found:
        row["peak_bytes"] = memory[row["file"]].get(row["batch"])
    return found


def latency(
    paths: Sequence[Path],
    batches: Sequence[int],
    rounds: int,
    as_json: bool,
    plugins: Sequence[str] = (),
) -> None:
    """Print what `measure` found."""
    found = measure(paths, batches, rounds, plugins)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    head = (
        "batch", "threads", "median ms", "p5", "p95", "size", "memory", "type", "run by", "file",
    )  # fmt: skip
    rows = [head]
    for row in found:
        spread = [f"{row[key]:.3f}" for key in ("median_ms", "p5_ms", "p95_ms")]
        memory = "" if row["peak_bytes"] is None else f"{short(row['peak_bytes'])}B"
        numbers = (str(row["batch"]), str(row["threads"]), *spread, f"{short(row['bytes'])}B")
        rows.append((*numbers, memory, row["precision"], row["runtime"], row["file"]))
    print(aligned(rows, right=7))
