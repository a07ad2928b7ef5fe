"""Starting a process, ending it, and its memory, faster than python and the C library do it."""

import atexit
import ctypes
import os
import sys
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End the process with torch in one piece: python would take it apart object by object."""
    if "torch" in sys.modules:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def keep_memory() -> None:
    """Let the C library keep freed memory. glibc gives large blocks back to the system, from which
    the next step gets them again page by page."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
