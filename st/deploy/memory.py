"""How much memory a network needs at most: measured in a process of its own."""

import ctypes
import gc
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from st.core.errors import StError, one_line

STATUS = Path("/proc/self/status")
CALLS = 3


def peaks(path: Path, batches: Sequence[int], plugins: Sequence[str] = ()) -> dict[int, int]:
    """For each batch size, the bytes that a process has at most while it opens the file and calls
    it with so many images on one thread, beyond what it had before with all libraries imported.

    Empty where the system does not tell (it is Linux that does). Raises StError if the file can't
    be run.
    """
    if not STATUS.is_file():
        return {}
    told = json.dumps([str(path), sorted(set(batches)), list(plugins)])
    done = subprocess.run(
        [sys.executable, "-m", "st.deploy.memory", told],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = one_line(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "killed")
        raise StError(f"{path}: its memory cannot be measured ({said})")
    return {int(size): peak for size, peak in json.loads(done.stdout.splitlines()[-1]).items()}


def _bytes(key: str) -> int:
    """A number of the process's status: VmRSS, what it has; VmHWM, the most that it has had."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:")]
    return 1024 * int(line.split()[1])


def _free() -> None:
    """Give back what is no longer used, so that it is not taken for part of what follows."""
    gc.collect()
    with suppress(OSError, AttributeError):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)


def _forget() -> None:
    """Begin anew with what it has had at most. Where that is not allowed, it is since the start."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main(told: str) -> None:
    """What the process does: print the peaks by batch size."""
    import torch

    from st.core.device import choose
    from st.core.registry import load_plugins
    from st.deploy.opened import opened

    path, batches, plugins = json.loads(told)
    load_plugins(plugins)
    choose("cpu", 1)
    if path.endswith(".onnx"):
        import onnxruntime  # noqa: F401 - is no part of what the file needs
    torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 1, 1))  # nor are the libraries that torch loads
    if path.endswith(".pt2"):
        program = io.BytesIO()
        example = torch.export.export(torch.nn.Identity(), (torch.zeros(1),))
        torch.export.save(example, program)
        torch.export.load(program)
        del example, program
    _free()
    before = _bytes("VmRSS")
    _forget()
    file, found = opened(Path(path), 1), {}
    with torch.inference_mode():
        for size in batches:
            batch = file.batch(size)
            for _ in range(CALLS):
                file.run(batch)
            found[size] = max(0, _bytes("VmHWM") - before)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
