"""Images that are not on the device: read, decoded and cut by processes of their own, ahead of it.

torch's DataLoader runs the processes. What they are asked for says all: which images, in which
views. So nothing random happens in them, and it does not matter how many there are.
"""

import math
import os
import shutil
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from st.core.errors import StError
from st.core.process import end_with_parent
from st.data.dataset import Stored

# Of images (n, c, h, w) as they are stored, and numbers (n,): these images in the views of these
# numbers.
Show = Callable[[Tensor, Tensor], Tensor]
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGURG)
AHEAD = 4  # batches that each process has ready
SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Request:
    """A batch: the images `index` of a part (0: training, 1: test), shown in `views`, or as they
    are stored."""

    part: int
    index: np.ndarray
    show: Show | None = None
    views: np.ndarray | None = None


def read(stored: Stored, index: np.ndarray) -> Tensor:
    """Images as they are stored: uint8 (n, c, h, w)."""
    return torch.from_numpy(stored[index])


class _Batches(Dataset):
    def __init__(self, parts: tuple[Stored, Stored]):
        self._parts = parts

    def __getitem__(self, request: Request) -> Tensor | str:
        try:
            batch = read(self._parts[request.part], request.index)
        except StError as error:
            return str(error)  # raised here it would bring two tracebacks along
        if request.show and request.views is not None:
            batch = request.show(batch, torch.from_numpy(request.views))
        return batch


class _Requests(Sampler):
    """What the processes are to do next."""

    def __init__(self) -> None:
        self.list: Sequence[Request] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.list)


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(number: int) -> None:
    """Signals are for the process that trains: it finishes the epoch, for which it needs this one.
    It ends this one then."""
    end_with_parent(1)
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextmanager
def _starting() -> Iterator[None]:
    """Signals to stop wait until the new processes ignore them (see _begin).

    torch reports a process that was killed by an exception wherever this one is just then: in a
    training step, or while the others are being ended, which then are not. Who waits for a batch
    learns of it without that, a few seconds later."""
    before = signal.getsignal(signal.SIGCHLD)
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGCHLD, before)


def _end(batches: Any) -> None:
    """End the processes of a DataLoader's iterator. One that waits for what a killed one held is
    not ended by a signal that it ignores."""
    try:
        batches._shutdown_workers()
    finally:
        for process in batches._workers:
            process.kill()


class Loader:
    """Processes that read the batches of `parts`, so many as `workers`, until nobody needs it.

    `pinned`: batches come in memory from which a GPU takes them without waiting.
    """

    def __init__(self, parts: tuple[Stored, Stored], workers: int, pinned: bool):
        self._parts, self._workers, self._pinned = parts, workers, pinned
        self._requests = _Requests()
        self._loader: DataLoader | None = None
        self._end: Any = None

    def _start(self, requests: Sequence[Request]) -> DataLoader:
        return DataLoader(
            _Batches(self._parts),
            sampler=self._requests,
            batch_size=None,  # a request is a batch
            collate_fn=_as_it_is,
            num_workers=self._workers,
            # forked, they share what this process has read and imported
            multiprocessing_context="fork",
            prefetch_factor=self._ahead(requests),
            persistent_workers=True,
            worker_init_fn=_begin,
            pin_memory=self._pinned,
            generator=torch.Generator().manual_seed(0),  # or it would draw from the global one
        )

    def _ahead(self, requests: Sequence[Request]) -> int:
        """How many batches each process has ready: they lie in shared memory, which containers have
        little of. Raises StError if there is too little for one."""
        # colours that change are of four bytes
        each = max(
            len(r.index) * math.prod(self._parts[r.part].shape[1:]) * (4 if r.show else 1)
            for r in requests
        )
        room = shutil.disk_usage(SHARED).free if SHARED.exists() else math.inf
        count = room / 2 / (each * self._workers)
        if count < 1:
            raise StError(
                f"{SHARED}: has {room / 2**20:.0f} MiB free, and batches that are read ahead need "
                f"{2 * each * self._workers / 2**20:.0f}; give the container more (--shm-size), or "
                "the job fewer --threads"
            )
        return int(min(AHEAD, count))

    def batches(self, requests: Sequence[Request]) -> Iterator[Tensor]:
        """The batches, in order. Those of an earlier call that were not taken yet are dropped."""
        if not requests:
            return
        self._requests.list = requests
        if self._loader is None:
            self._loader = self._start(requests)
        with _starting():
            found = iter(self._loader)
        if self._end is None:
            # before python's own end of processes, which would wait for them without telling them
            self._end = weakref.finalize(self, _end, found)
        try:
            for batch in found:
                if isinstance(batch, str):
                    raise StError(batch)
                yield batch
        # the second kind: it ended while it handed a batch over
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
                raise
            raise StError(
                "a process that reads images was ended by the system, as when memory is short; run "
                "it again, finished epochs are kept"
            ) from error

    def close(self) -> None:
        """End the processes."""
        if self._end:
            self._end()


def workers(threads: int) -> int:
    """How many processes a job with so many threads has: as many, but not more than the machine's
    cores if several processes of a training share them."""
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(threads, len(os.sched_getaffinity(0)) // neighbours))
