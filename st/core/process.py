"""Processes: ending one, and its memory, faster than python and the C library do it by themselves;
several that work on a list.

The first two were measured on two cores of an AMD EPYC with torch 2.15, with and without in turns.
What gained nothing is not here: to import torch with the garbage collector off took 0.01 s more, at
a spread of 0.05 s (ten ST trainings of two epochs each).
"""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NoReturn, TypeVar

from st.core.errors import StError

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 16  # items that a process is given at once
# More is a slip of the hand, and ends torch without a message; clusters may give more than is seen.
MOST_THREADS = max(1024, os.cpu_count() or 1)


def leave(status: int) -> NoReturn:
    """End the process with torch in one piece: python would take it apart object by object.

    A job of 1.83 s takes 1.45 s (medians of ten; the difference was 0.32 to 0.43 s each time).
    """
    if "torch" in sys.modules:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def keep_memory() -> None:
    """Let the C library keep freed memory. glibc gives large blocks back to the system, from which
    the next step gets them again page by page.

    A training step without it takes 1.08 times the processor time for ResNet-20, 1.05 times for a
    VGG with 10 convolutions, 1.27 times for DenseNet-22 (medians of six, batches of 64 images of
    32 x 32 on one thread); digits' steps are too small to gain.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def end_with_parent(status: int) -> None:
    """End this process, with so much as its status, soon after the one that started it has ended,
    however that ends."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(status)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """The function's result for each item, in their order, by so many processes; with 1, in this
    one. Few items are ahead of those that were asked for, so memory does not grow with the list.

    Raises StError if one of the processes was killed.
    """
    if processes < 2:
        yield from map(function, items)
        return
    from concurrent.futures import ProcessPoolExecutor  # not at the start of every command
    from concurrent.futures.process import BrokenProcessPool

    rest, waiting = iter(items), deque[Any]()
    pool = ProcessPoolExecutor(processes, initializer=_begin)
    try:
        while True:
            while len(waiting) < 4 * processes and (chunk := list(islice(rest, CHUNK))):
                waiting.append(pool.submit(_all, function, chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise StError(
            "a process that reads images was ended by the system, as when memory is short; run it "
            "again to go on, with fewer --threads if it happens again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    end_with_parent(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all: the parent ends


def _all(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [function(item) for item in items]
