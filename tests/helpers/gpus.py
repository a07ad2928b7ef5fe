"""Machines with GPUs, pretended."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def fake_driver(folder: Path, count: int, status: int = 0) -> str:
    """A PATH with an nvidia-smi that lists `count` GPUs."""
    folder.mkdir(exist_ok=True)
    tool = folder / "nvidia-smi"
    listing = "".join(f"echo 'GPU {n}: NVIDIA H200 (UUID: GPU-{n})'\n" for n in range(count))
    tool.write_text(f"#!/bin/sh\n{listing}exit {status}\n")
    tool.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def wait_for(condition: Callable[[], object]) -> None:
    """Until other processes have made it true."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
