"""Code of others in this process: plugins, and modules that are imported to be pruned."""

import argparse
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NoReturn

from st.core.errors import StError, one_line

# what to do
MAIN = 'guard what runs with `if __name__ == "__main__":`'
INSTEAD = "raise an exception instead"


@contextmanager
def guest(what: str, when: str, advice: str) -> Iterator[None]:
    """Others' code runs here. It does not see the command line, which is not its own, and where it
    would end the program, StError says so, with `what` it is, `when` it does so, and what to do.
    """
    argv, refuse = sys.argv, argparse.ArgumentParser.error
    sys.argv = argv[:1]
    argparse.ArgumentParser.error = _refuse  # type: ignore[assignment,method-assign]
    try:
        yield
    except SystemExit as error:
        told = f"{what}: ends the program {when} ({status(error)}); {advice}"
        raise StError(told) from error
    finally:
        sys.argv = argv
        argparse.ArgumentParser.error = refuse  # type: ignore[method-assign]


def status(error: SystemExit) -> str:
    """The status, or the message, with which a program would have ended."""
    code = error.code or 0
    return f"status {code}" if isinstance(code, int) else one_line(code)


def explained(error: Exception, what: str) -> str:
    """One line about others' function that failed where this is called from.

    Its own words, if it refuses what it was given by a ValueError; or else `what` cannot be done,
    the kind of the error, and the line of the function's module.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first called the function
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    text = one_line(error)
    if not isinstance(error, ValueError):
        text = f"{what}: {type(error).__name__}: {text}"
    elif not frames or frames[-1] is own[-1]:
        return text
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else text


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """In place of argparse's own, which prints how this program is used."""
    raise SystemExit(message)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what libraries and others' code print, warn and log: errors say what matters."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
