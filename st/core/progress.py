"""Progress that a person can follow: on the terminal now and then, in the log every epoch."""

import logging
import sys
import time
from pathlib import Path

from st.core.errors import StError, printable

logger = logging.getLogger("st")
TERMINAL_INTERVAL = 10.0  # seconds between lines on a terminal that many jobs may share


def start(label: str, log: Path | None, new: bool = True) -> None:
    """Send messages, marked with `label`, to stderr, and all of them to the file `log`.

    `new`: it begins empty; otherwise this process adds to what another one writes.
    """
    logger.setLevel(logging.DEBUG)
    # A log that can't be written, on a full disk, must not stop a training.
    logging.raiseExceptions = False
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter(f"{label}: %(message)s"))
    terminal.setLevel(logging.INFO)
    logger.addHandler(terminal)
    if log:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            if new:
                log.write_bytes(b"")
            file = logging.FileHandler(
                log,
                mode="a",
                encoding="utf-8",
                errors="backslashreplace",  # names of files
            )
        except OSError as error:
            raise StError(f"--log {log}: cannot be written ({error.strerror})") from error
        file.setFormatter(logging.Formatter(f"%(asctime)s {label}: %(message)s", "%H:%M:%S"))
        logger.addHandler(file)


def say(message: str) -> None:
    """A line for the terminal and the job's log."""
    logger.info(printable(message))


def warn(message: str) -> None:
    """A line that is seen on stderr even where progress is not shown."""
    logger.warning(printable(message))


SHOWN = 3  # of a list's lines on a terminal


def say_all(what: str, lines: list[str]) -> None:
    """A list of things to be told: all of them in the log, the first few on the terminal too."""
    if not lines:
        return
    logs = [h.baseFilename for h in logger.handlers if isinstance(h, logging.FileHandler)]
    shown = lines[:SHOWN] if logs else lines
    place = f", all of them in {logs[0]}" if len(lines) > SHOWN and logs else ""
    say(f"{what}: {len(lines)}{place}")
    for line in shown:
        say(f"  {line}")
    for line in lines[len(shown) :]:
        logger.debug(printable(f"  {line}"))


class Counter:
    """A bar of how many of `total` things are done, now and then."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done, self._begun = what, total, 0, 0
        self.started = self.shown = time.monotonic()

    def count(self, fresh: bool = True) -> None:
        """One more is done; not `fresh`: it was done before, so its time tells nothing."""
        self.done += 1
        self._begun += not fresh
        now = time.monotonic()
        if now - self.shown < TERMINAL_INTERVAL:
            return
        self.shown = now
        speed = (self.done - self._begun) / (now - self.started)
        left = duration((self.total - self.done) / speed) if speed else "?"
        filled = 20 * self.done // self.total
        say(
            f"[{'#' * filled}{'.' * (20 - filled)}] {self.done:,} of {self.total:,} {self.what}, "
            f"{speed:,.0f}/s, {left} left"
        )


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
