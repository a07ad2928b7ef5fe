"""A GPU for each job, when several jobs run on one machine.

Snakemake counts GPUs but does not say which of them a job has. Here each GPU has a number of slots,
which the workflow states in ST_GPU_SLOTS; a slot is a file, and a job has the slot while it holds
the file's lock. The kernel frees the lock when the process ends, however it ends. All workflows of
a user on a machine share the files, hence the slots. A job that says in ST_GPU_PERCENT that it
needs more of a GPU than one slot takes as many as make that up.
"""

import fcntl
import os
import random
import subprocess
import tempfile
import time
from itertools import takewhile
from pathlib import Path
from shutil import which
from typing import IO

from st.core.errors import StError
from st.core.progress import say

SLOTS = "ST_GPU_SLOTS"
SHARED = "ST_GPU_SHARED"  # the same number for processes whose GPUs have been taken for them
PERCENT = "ST_GPU_PERCENT"  # what the job needs of a GPU; 0: one slot
DEVICES = Path("/dev")
VISIBLE = "CUDA_VISIBLE_DEVICES"
MPS = "CUDA_MPS_PIPE_DIRECTORY"  # where clients of a multi-process service find it: st/core/mps.py
MOST = 48  # processes that NVIDIA's multi-process service lets share a GPU
INTERVAL = 0.5  # seconds between two looks for a free slot

_held: list[IO] = []


def gpus() -> list[str]:
    """The GPUs that this process may use, by number or as CUDA_VISIBLE_DEVICES names them."""
    if VISIBLE in os.environ:
        names = [name.strip() for name in os.environ[VISIBLE].split(",")]
        # as CUDA reads it: the list ends before the first that is none, such as -1
        return list(takewhile(lambda n: n.isdecimal() or n.startswith(("GPU-", "MIG-")), names))
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
        count = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    except OSError:  # containers may have the driver without its programs
        count = present()
    return [str(number) for number in range(count)]


def here() -> list[str]:
    """The GPUs that jobs of this machine may use; none where no driver is, whatever is named."""
    return gpus() if which("nvidia-smi") or present() else []


def present() -> int:
    """How many GPUs NVIDIA's driver shows this machine or container."""
    return sum(path.name.removeprefix("nvidia").isdecimal() for path in DEVICES.glob("nvidia*"))


def part() -> float:
    """The part of a GPU (0 to 1) that is this job's: its slots'; 1 without a workflow."""
    return min(1.0, _needed() / _on_each())


def _on_each() -> int:
    """How many slots a GPU has, as the workflow says."""
    return max(1, int(os.environ.get(SLOTS) or os.environ.get(SHARED) or "1"))


def _needed() -> int:
    """How many slots of a GPU this job takes."""
    percent = int(os.environ.get(PERCENT) or "0")
    return max(1, -(-percent * _on_each() // 100))  # rounded up


def held() -> bool:
    """Whether this process has a slot."""
    return bool(_held)


def take(count: int = 1) -> None:
    """Wait for free slots of `count` GPUs, and keep them and see only these GPUs until this process
    ends: of each GPU as many slots as the job needs.

    To be called before CUDA is used. Does nothing without GPUs, or if no workflow says how many
    jobs may share one.
    """
    names = gpus() if SLOTS in os.environ and not _held else []
    if not names:
        return
    needed, folder, told = _needed(), _folder(), False
    while not (found := _found(folder, names, needed, count)):
        if not told:
            some = "one" if count == 1 else str(count)
            slots = f"{needed} of {_on_each()} slots"
            say(f"waits for {slots} of {some} of these GPUs: {', '.join(names)}")
            told = True
        time.sleep(INTERVAL * random.uniform(0.5, 1.5))  # not again at the same time as another
    os.environ[VISIBLE] = ",".join(found)
    for name, files in found.items():
        _held.extend(files)
        numbers = ", ".join(str(file.name).rpartition(".")[2] for file in files)
        way = ", shared through MPS" if MPS in os.environ else ""
        say(f"has slot{'s' if needed > 1 else ''} {numbers} of GPU {name}{way}")


def _found(folder: Path, names: list[str], needed: int, count: int) -> dict[str, list[IO]]:
    """So many slots of `count` GPUs each, if they are free now; else none: keeping some while
    waiting for others could wait forever, as the others' job may do the same."""
    with open(folder / "turn", "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # or two that look at once would see slots taken
        free = {
            name: [file for number in range(_on_each()) if (file := _lock(folder, name, number))]
            for name in names
        }
        # the emptiest first, so that jobs spread over the GPUs
        best = sorted(names, key=lambda name: -len(free[name]))[:count]
        enough = len(best) == count and len(free[best[-1]]) >= needed
        for name, files in free.items():
            for file in files[needed if enough and name in best else 0 :]:
                file.close()
        return {name: free[name][:needed] for name in names if enough and name in best}


def _lock(folder: Path, name: str, number: int) -> IO | None:
    """A slot's file, locked until it is closed; None if another process has the slot."""
    file = open(folder / f"{name}.{number}", "w")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _folder() -> Path:
    """Where a user's slots on this machine are. Within a SLURM job GPUs may be numbered anew, so it
    has slots of its own."""
    name = "-".join(["st-gpus", str(os.getuid()), *filter(None, [os.environ.get("SLURM_JOB_ID")])])
    folder = Path(tempfile.gettempdir(), name)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError(1, "it belongs to another user")
    except OSError as error:
        raise StError(
            f"{folder}: cannot hold the locks of GPUs ({error.strerror}); set TMPDIR to a folder "
            "of your own"
        ) from error
    return folder
