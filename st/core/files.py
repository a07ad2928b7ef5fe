"""Files appear whole or not at all."""

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EISDIR
from glob import escape
from pathlib import Path
from typing import Any

from st.core.errors import StError, one_line


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is renamed to `path`.

    A reader never sees half a file, and a failed writer leaves nothing behind; what a killed one
    left, the next one removes. The data is flushed to the disk before the rename, and the rename
    after it, so that a power cut leaves the old file or the new one, and no empty one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise StError(unwritable(path, error.strerror or str(error))) from error
    finally:
        with suppress(OSError):  # there may be no such folder; the error above says so
            temporary.unlink(missing_ok=True)


@contextmanager
def together(paths: Sequence[str | Path]) -> Iterator[Path]:
    """Yield a temporary folder beside `paths`, in which files of their names are written; on
    success these are renamed to `paths`, the first last, so that where it is all are.

    All paths lie in one folder. As with `whole`, a failed writer leaves nothing behind.
    """
    first, *others = map(Path, paths)
    temporary = first.with_name(f".{first.name}.{os.getpid()}.tmp")
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        for path in (first, *others):
            if path.is_dir():
                raise IsADirectoryError(EISDIR, "there is a folder of this name", str(path))
        _remove_leftovers(first)
        temporary.mkdir()
        yield temporary
        for path in (*others, first):
            _flush(temporary / path.name)
        for path in (*others, first):
            (temporary / path.name).replace(path)
        _flush(first.parent)
    except OSError as error:
        raise StError(unwritable(first, error.strerror or str(error))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_apart(path: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raise StError if writing `path` would replace one of the files that are read, by whatever
    name."""
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise StError(f"{path}: is an input itself; write to another name or folder")


def unwritable(path: str | Path, reason: str) -> str:
    """The message of a file that cannot be written."""
    return (
        f"{path}: cannot be written ({reason}); make room or fix the permissions and run it "
        "again, finished files are kept"
    )


def _flush(path: Path) -> None:
    """To the disk: a file's contents, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Temporary files for `path` whose writers no longer live."""
    for left in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        number = left.name.split(".")[-2]
        try:
            os.kill(int(number), 0)
        except (ProcessLookupError, ValueError, OverflowError):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        except OSError:  # another user's process
            pass


def write_text(path: str | Path, text: str) -> None:
    """A whole file of UTF-8 text, or none."""
    with whole(path) as temporary:  # names of files that are no text are escaped as in Python
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """A whole JSON file, or none; raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


LARGEST_JSON = 64 * 2**20  # bytes: a hundred times what the largest structure needs


def read_json(path: str | Path) -> Any:
    """Raises StError that names the file if there is none, or if it isn't JSON."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_JSON + 1)
    except OSError as error:
        raise StError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > LARGEST_JSON:
        raise StError(f"{path}: has more than {LARGEST_JSON} bytes; it is none of this project's")
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise StError(
            f"{path}: is not JSON ({one_line(error)}); if a run made it, delete it and build it "
            "again"
        ) from error


def write_csv(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Rows that share their keys; floats with six significant digits."""
    with (
        whole(path) as temporary,
        # names of files need not be UTF-8; they are written as they are
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if type(v) is float else v for k, v in row.items()})
