"""The one exception that a user is meant to read, and what to say about libraries' ones."""

import errno
import re
from collections.abc import Iterable


class StError(Exception):
    """A one-line message: the file or key, what is wrong with it, and what to do. Of several
    mistakes each argument is a line. Names of files may hold any character: see `printable`.

    The CLI prints it without a traceback and exits with status 2; the workflow raises it as a
    WorkflowError. Anything else that escapes is a bug and keeps its traceback.
    """

    def __str__(self) -> str:
        return "\n".join(printable(line) for line in self.args)


def printable(text: object) -> str:
    """Text for one line of a terminal or log: what breaks lines, controls terminals, turns the
    direction or is no text, as a file's name may, becomes a backslash and a code."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def one_line(text: object, length: int = 300) -> str:
    """Text from elsewhere, such as a library's message, for use in a message of one line."""
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(text)).split())  # without colours
    return words if len(words) <= length else f"{words[: length - 3]}..."


def sizes(shape: Iterable[int]) -> str:
    """A shape in a message: 3 x 32 x 32."""
    return " x ".join(map(str, shape))


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # what torch says of it
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


KEPT = "; finished epochs and files are kept, run it again to resume"


def explained(error: BaseException, batch: str, kept: str = KEPT) -> str | None:
    """One line about what is wrong with the surroundings; None: the error is a bug.

    `batch`: the key that says how many images are computed at once, with its value. Torch's errors
    are told by name, so that torch need not be imported. `kept`: what else is to be said.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    text = one_line(error, 200)
    torchs = isinstance(error, RuntimeError)
    if "OutOfMemoryError" in names or (torchs and any(part in text for part in MEMORY)):
        return f"the device's memory is full; lower {batch}, or take another --device{kept}"
    if "AcceleratorError" in names or (torchs and "CUDA error" in text):
        return f"the GPU failed ({text}); look at nvidia-smi, or take another --device{kept}"
    if "ValidationError" in names:  # the workflow checks params before any job
        return f"--job: {text}"
    if isinstance(error, MemoryError):
        return f"the memory is full; lower {batch}, or run fewer jobs at once{kept}"
    if isinstance(error, OSError) and error.errno in FULL | REFUSED:
        what = "make room" if error.errno in FULL else "fix the permissions"
        return f"{printable(error.filename or 'a file')}: {error.strerror}; {what}{kept}"
    return None
