"""Folders that one process holds at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from st.core.errors import StError
from st.core.files import unwritable

_locks: set[int] = set()  # descriptors


def _let_go() -> None:
    """In a process that this one forks: a lock ends when no process has it open any more."""
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def alone(folder: Path, purpose: str) -> Iterator[None]:
    """Hold `folder` for one process; raises StError if another one holds it.

    The lock is the operating system's, on the folder itself: it ends with the process, however that
    ends, and leaves no file. Where the file system has no locks there is none.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StError(unwritable(folder, error.strerror or str(error))) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StError(
            f"{folder}: another process is {purpose} here; wait for it, or stop it"
        ) from None
    except OSError:
        pass
    _locks.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _locks:
            _locks.remove(descriptor)
            os.close(descriptor)
