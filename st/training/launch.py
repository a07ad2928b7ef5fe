"""Starting the processes of one training that computes with several, and ending them together.

`st train --processes N` becomes the parent of N times the same command, its members. The parent
computes nothing: it has the GPUs' slots, passes signals on, and sees to it that no member outlives
another's failure. The members, each on a GPU of its own, meet through a file (parallel.py).
Member 0 leads: it writes all files and says what there is to say; from the others only an error is
heard, and from the parent if a member cannot tell its own.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from st.core import slots
from st.core.errors import StError

ABANDONED = 3  # the exit status of a member that ended because another had
GRACE = 5.0  # seconds that members have to end by themselves after a failure
INTERVAL = 0.1  # seconds between two looks at the members


class Abandoned(StError):
    """Another process of the training has ended."""


@dataclass(frozen=True)
class Member:
    """One of a training's processes. `folder`: where all of them meet."""

    rank: int
    processes: int
    folder: Path

    @classmethod
    def begin(cls, text: str, processes: int) -> "Member":
        """This process, as `launch` told it: `<rank>:<folder>`. It ends with its parent."""
        rank, _, folder = text.partition(":")
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent answers
        threading.Thread(target=_end_with_parent, daemon=True).start()
        return cls(int(rank), processes, Path(folder))


def _end_with_parent() -> None:
    os.read(0, 1)  # a pipe into which nobody writes: it is read to its end when the parent is gone
    os._exit(ABANDONED)


def launch(arguments: list[str], processes: int, device: str, tell: Callable[[str], None]) -> int:
    """Run `st` with these arguments in so many processes; the exit status: 0, or 2 after an error.

    `tell` gets the error's line if no member has told it.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise StError(
            f"--device {device}: with --processes {processes} each takes a GPU of its own; use "
            "auto, cpu or cuda"
        )
    names = slots.gpus() if device != "cpu" else []
    if names and len(names) < processes:
        raise StError(
            f"--processes {processes}: each takes a GPU of its own, and there are {len(names)}"
        )
    if device == "auto":
        slots.take(processes)
    environment = {name: value for name, value in os.environ.items() if name != slots.SLOTS}
    members: list[subprocess.Popen] = []

    def pass_on(number: int, _) -> None:
        for member in members:
            member.send_signal(number)

    with tempfile.TemporaryDirectory(prefix="st-") as name:
        folder = Path(name)
        for number in (signal.SIGTERM, signal.SIGURG):
            signal.signal(number, pass_on)
        try:
            for rank in range(processes):
                with open(folder / f"{rank}.err", "wb") as errors:
                    members.append(
                        subprocess.Popen(
                            [sys.executable, "-m", "st", *arguments, f"--member={rank}:{folder}"],
                            env=environment,
                            stdin=subprocess.PIPE,
                            stderr=errors if rank else None,
                        )
                    )
            return _wait(members, folder, tell)
        finally:
            for member in members:
                member.kill()
                member.wait()
                if member.stdin:
                    member.stdin.close()


def _wait(members: list[subprocess.Popen], folder: Path, tell: Callable[[str], None]) -> int:
    """Wait for all members, or for `GRACE` after the first that failed."""
    deadline = None
    while any(member.poll() is None for member in members):
        if deadline is None and any(member.returncode for member in members):
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(INTERVAL)
    # a member that still runs here waits for one that is gone
    failed = [(rank, m.returncode) for rank, m in enumerate(members) if m.returncode]
    if not failed:
        return 0
    # one that failed by itself, the leader before the others
    rank, status = next((pair for pair in failed if pair[1] != ABANDONED), (None, ABANDONED))
    if rank is None:
        tell("the processes lost touch with each other; run it again to go on")
    elif status < 0:
        name = signal.Signals(-status).name
        tell(f"process {rank + 1} of {len(members)} was ended by {name}; run it again to go on")
    elif rank:
        lines = (folder / f"{rank}.err").read_text(errors="replace").splitlines()
        last = next(filter(None, reversed(lines)), f"ended with status {status}")
        tell(f"process {rank + 1} of {len(members)}: {last.removeprefix('st: error: ')}")
    return 2
