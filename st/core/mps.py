"""NVIDIA's multi-process service (MPS): with it the kernels of several jobs run on a GPU at once;
without it the jobs take turns."""

import os
import subprocess
import sys
import tempfile
from shutil import rmtree, which

from st.core.errors import one_line
from st.core.slots import MPS, VISIBLE

CONTROL = "nvidia-cuda-mps-control"
PATIENCE = 60  # seconds for the service and its first client

# A service that doesn't work lets CUDA fail in every process that was told of it.
CLIENT = """
import ctypes
cuda, context, device = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(), ctypes.c_int()
for status in (
    cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), 0),
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), cuda.cuCtxSetCurrent(context),
):
    if status:
        raise SystemExit(f"CUDA error {status}")
"""

# Beside the workflow, because it has to end the service however the workflow ends. `quit` waits for
# the clients: jobs that outlive the workflow finish.
WATCH = 'while kill -0 "$0" 2>/dev/null; do sleep 1; done; echo quit | "$1"; rm -rf "$2"'


def start() -> str:
    """Start a service of our own for the processes that this one starts from now on; it ends after
    this one and they have. Returns what is to be told. Where it can't be had, nothing changes."""
    if MPS in os.environ:
        return f"jobs share GPUs through the multi-process service that {MPS} names"
    if os.environ.get(VISIBLE, "").startswith("MIG-"):
        return "jobs take turns on a GPU: a service is started for whole GPUs, not for parts (MIG)"
    if not which(CONTROL):
        return f"jobs take turns on a GPU: this machine has no {CONTROL}"
    folder = tempfile.mkdtemp(prefix="st-mps-")
    own = {MPS: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
    # Of all GPUs, by their own numbers: the service would count those that it sees from 0 on, and
    # its clients' numbers with it.
    environment = {k: v for k, v in os.environ.items() if k != VISIBLE} | own
    problem = _failure([CONTROL, "-d"], environment)
    if not problem:
        watch = ["/bin/sh", "-c", WATCH, str(os.getpid()), CONTROL, folder]
        subprocess.Popen(
            watch, env=environment, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        problem = _failure([sys.executable, "-c", CLIENT], os.environ | own)
        if problem:
            _failure([CONTROL], environment, "quit\n")
    else:
        rmtree(folder)
    if problem:
        return f"jobs take turns on a GPU: the multi-process service does not work here ({problem})"
    os.environ |= own
    return "jobs share GPUs through a multi-process service (MPS) of this workflow's own"


def _failure(command: list[str], environment: dict[str, str], says: str = "") -> str:
    """Why a command failed; '' if it did not."""
    try:
        # To files: the service keeps what it inherits open.
        with tempfile.TemporaryFile("w+") as output:
            status = subprocess.run(
                command, env=environment, input=says, text=True, timeout=PATIENCE,
                stdout=output, stderr=output,
            ).returncode  # fmt: skip
            output.seek(0)
            told = output.read()
    except (OSError, subprocess.TimeoutExpired) as error:
        return one_line(str(error), 200)
    return "" if not status else one_line(told, 200) or f"status {status}"
