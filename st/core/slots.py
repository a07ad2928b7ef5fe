"""A GPU for each job, when several jobs run on one machine.

Snakemake counts GPUs but does not say which of them a job has. Here each GPU has a number of slots,
which the workflow states in ST_GPU_SLOTS; a slot is a file, and a job has the slot while it holds
the file's lock. The kernel frees the lock when the process ends, however it ends. All workflows of
a user on a machine share the files, hence the slots.
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
DEVICES = Path("/dev")
VISIBLE = "CUDA_VISIBLE_DEVICES"
MPS = "CUDA_MPS_PIPE_DIRECTORY"  # where clients of a multi-process service find it: st/core/mps.py
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


def on_each() -> int:
    """How many jobs may share a GPU, as the workflow says; 1 without one."""
    return max(1, int(os.environ.get(SLOTS) or os.environ.get(SHARED) or "1"))


def held() -> bool:
    """Whether this process has a slot."""
    return bool(_held)


def take(count: int = 1) -> None:
    """Wait for free slots of `count` GPUs, and keep them and see only these GPUs until this process
    ends.

    To be called before CUDA is used. Does nothing without GPUs, or if no workflow says how many
    jobs may share one.
    """
    names = gpus() if SLOTS in os.environ and not _held else []
    if not names:
        return
    # Slot by slot, so that jobs spread over the GPUs.
    slots = [(number, name) for number in range(on_each()) for name in names]
    folder, told = _folder(), False
    while True:
        found: dict[str, tuple[int, IO]] = {}  # by GPU
        for number, name in slots:
            file = None if name in found or len(found) == count else _lock(folder, name, number)
            if file:
                found[name] = number, file
        if len(found) == count:
            _held.extend(file for _, file in found.values())
            os.environ[VISIBLE] = ",".join(found)
            for name, (number, _) in found.items():
                way = ", shared through MPS" if MPS in os.environ else ""
                say(f"has slot {number} of GPU {name}{way}")
            return
        # Keeping some while waiting for others could wait forever: the others' job may do the same.
        for _, file in found.values():
            file.close()
        if not told:
            wanted = "one" if count == 1 else f"{count} GPUs"
            say(f"waits for {wanted} of {len(slots)} slots of GPUs {', '.join(names)}")
            told = True
        time.sleep(INTERVAL * random.uniform(0.5, 1.5))  # not again at the same time as another


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
