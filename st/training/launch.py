"""The processes of one training that computes with several: starting them, ending them together.

torchrun starts them: `torchrun --nproc-per-node N -m st train ...`, on several nodes through the
cluster's launcher. Each finds its rank and their number in the environment. The leader, rank 0,
writes all files and says what there is to say.

`st train --processes N` is the same for this machine alone, with torchrun's agent in this process.
The command itself would end with a traceback after every error and signal, kill a training that
takes longer than 30 seconds to stop, and open a port to the network.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from st.core import process, slots
from st.core.errors import StError

ABANDONED = 3  # the exit status of a process that ended because another had
FOLDER = "ST_MEETING"  # environment variable: where the processes of `launch` meet
STOP = (signal.SIGTERM, signal.SIGURG)  # finish the epoch, write the state, go


class Abandoned(StError):
    """Another process of the training has ended."""


@dataclass(frozen=True)
class Member:
    """One of a training's processes. `local`: its number on this machine, of `neighbours`;
    `folder`: where all of them meet, if `launch` started them; else torch finds the others."""

    rank: int
    processes: int
    local: int
    neighbours: int
    folder: Path | None = None

    @classmethod
    def here(cls) -> "Member | None":
        """This process as torchrun or `launch` started it; None if it is the only one."""
        if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
            return None
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, processes, local, neighbours = (int(os.environ[name]) for name in names)
        folder = os.environ.get(FOLDER)
        return cls(rank, processes, local, neighbours, Path(folder) if folder else None)

    def begin(self) -> None:
        """Signals to stop wait until the training can answer them; the process ends with its
        parent."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
        process.end_with_parent(ABANDONED)
        if self.folder and self.rank == 0:
            (self.folder / "leader").write_text(str(os.getpid()))


def launch(arguments: list[str], processes: int, device: str, tell: Callable[[str], None]) -> int:
    """Run `st` with these arguments in so many processes of this machine; the exit status: 0, or 2
    after an error.

    `tell` gets the error's line if the leader has not told it.
    """
    names = slots.gpus() if device != "cpu" else []
    if names and len(names) < processes:
        raise StError(
            f"--processes {processes}: each takes a GPU of its own, and there are {len(names)}"
        )
    if device == "auto":
        slots.take(processes)
    if slots.SLOTS in os.environ:
        os.environ[slots.SHARED] = os.environ.pop(slots.SLOTS)
    with tempfile.TemporaryDirectory(prefix="st-") as name:
        return _run(arguments, processes, Path(name), tell)


def _run(arguments: list[str], processes: int, folder: Path, tell: Callable[[str], None]) -> int:
    os.environ |= {
        FOLDER: str(folder),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # all meet in files: no port is open
    }
    from torch.distributed.elastic.multiprocessing import (
        DefaultLogsSpecs,
        SignalException,
        Std,
    )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def pass_on(number: int, _) -> None:
        leader = folder / "leader"  # who tells the others
        if not leader.exists():
            raise StError("stopped before the training began; run it again")
        os.kill(int(leader.read_text()), number)

    for number in STOP:
        signal.signal(number, pass_on)
    quiet = logging.getLogger("torch.distributed.elastic")  # it would tell of every failure
    quiet.propagate = False
    quiet.addHandler(logging.NullHandler())
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="st",
        rdzv_backend="c10d",
        rdzv_endpoint=str(folder / "agent"),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle="SIGINT",  # the others are answered here
        logs_specs=DefaultLogsSpecs(
            str(folder / "logs"), dict.fromkeys(range(1, processes), Std.ERR)
        ),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "st", *arguments)
    except ChildFailedError as error:
        return _tell(error.failures, processes, folder, tell)
    except SignalException:
        return 130  # the leader has said so
    return 0


def _tell(failures: dict, processes: int, folder: Path, tell: Callable[[str], None]) -> int:
    """Say why the training ended, unless the leader has; the exit status."""
    # in the order in which they ended
    own = {rank: f for rank, f in failures.items() if f.exitcode != ABANDONED}
    if not own:
        tell("the processes lost touch with each other; run it again to resume")
    elif 0 not in own or own[0].exitcode < 0:
        rank, failure = next(iter(own.items()))
        if failure.exitcode < 0:
            reason = f" was ended by {failure.signal_name()}; run it again to resume"
        else:
            (log,) = folder.glob(f"logs/*/*/{rank}/stderr.log")
            lines = filter(None, log.read_text(errors="replace").splitlines())
            reason = [f"ended with status {failure.exitcode}", *lines][-1]
            reason = f": {reason.removeprefix('st: error: ')}"
        tell(f"process {rank + 1} of {processes}{reason}")
    return 2
