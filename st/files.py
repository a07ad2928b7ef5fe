"""Files appear whole or not at all."""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from st.errors import StError


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is renamed to `path`.

    A reader never sees half a file, and a failed writer leaves nothing behind. The data is flushed
    to the disk before the rename, so that a power cut cannot leave an empty file either.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # there may be no such folder; the error above says so
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise StError(f"{path}: is not JSON ({error}); delete it and build it again") from error


def write_csv(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Rows that share their keys; floats with six significant digits."""
    with whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if type(v) is float else v for k, v in row.items()})
