"""Files of tensors: safetensors whose header is JSON, with a checksum over all. No pickle."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from st.core.errors import StError, one_line
from st.core.files import whole

VERSION = 2  # of all formats; 2: with a checksum


def checksum(tensors: dict[str, np.ndarray], text: str) -> str:
    """Of the tensors, with names, types and shapes, and a text."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = np.asarray(tensors[name], order="C")
        sha.update(f"\n{name} {value.dtype} {value.shape}\n".encode())
        sha.update(value.data if value.size else b"")
    return sha.hexdigest()


def _mapped(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, whose header has been checked."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
    entries.pop("__metadata__", None)
    content = np.memmap(path, np.uint8, mode="c", offset=8 + size)
    found = {}
    for name, entry in entries.items():
        kind, size = entry["dtype"][0].lower(), entry["dtype"][1:]
        if kind not in "uif" or not size.isdecimal():
            raise TypeError(f"type {entry['dtype']}")  # as the library says of what numpy lacks
        values = content[slice(*entry["data_offsets"])].view(f"{kind}{int(size) // 8}")
        found[name] = values.reshape(entry["shape"])
    return found


def write_tensors(path: str | Path, tensors: dict[str, np.ndarray], header: dict) -> None:
    """A safetensors file with JSON under the header's key `st`, and a checksum of all."""
    contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    # within the header: safetensors writes several keys in any order
    header = {**header, "checksum": checksum(contiguous, json.dumps(header))}
    with whole(path) as temporary:
        save_tensors(temporary, contiguous, {"st": json.dumps(header)})


def save_tensors(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file with the permissions of any new file; raises OSError where the library
    can't write it."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # a full disk, say
        raise OSError(str(error)) from error
    path.chmod(0o666 & ~_umask())  # the library lets nobody else read it


def _umask() -> int:
    """The permissions that new files are not given; to read it, it must be set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[Any]:
    """The file, open; raises StError that names it if it is missing, no such file or damaged."""
    try:
        with open(path, "rb") as start:
            begins = start.read(9)
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError as error:
        raise StError(f"{path}: is missing; the phase before this one makes it") from error
    except OSError as error:
        raise StError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from error
    # TypeError: bfloat16; the others: what only foreign files hold
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        # they begin with a header's length, for which three of eight bytes suffice, and its brace;
        # what does not was never one, and its owner need not delete it
        if any(begins[3:8]) or begins[8:] not in (b"", b"{"):
            raise _foreign(path, kind) from error
        raise StError(
            f"{path}: is damaged ({one_line(error)}); delete it and build it again"
        ) from error


def _foreign(path: str | Path, kind: str) -> StError:
    return StError(f"{path}: is not a {kind}; name a file that a run made")


def read_header(path: str | Path, kind: str) -> dict:
    """The header alone, unchecked but for the format; raises StError that names the file."""
    with _opened(path, kind) as file:
        return _header(path, file, kind)


def read_kind(path: str | Path) -> str:
    """The format that a file of tensors says it has, '' if it says none; raises StError that names
    the file if it is no such file."""
    with _opened(path, "file of a run") as file:
        header = _said(file)
    found = header.get("format") if isinstance(header, dict) else None
    return found if isinstance(found, str) else ""


def _said(file: Any) -> Any:
    """The JSON that the file says of itself; None if it says nothing."""
    return json.loads((file.metadata() or {}).get("st", "null"))


def _header(path: str | Path, file: Any, kind: str) -> dict:
    header = _said(file)
    if not isinstance(header, dict) or header.get("format") != kind:
        raise _foreign(path, kind)
    if header.get("version") != VERSION:
        found = one_line(header.get("version"), 30)
        raise StError(
            f"{path}: has format version {found}, not {VERSION}; delete it and build it again"
        )
    return header


def read_tensors(
    path: str | Path, kind: str, mapped: bool = False
) -> tuple[dict[str, np.ndarray], dict]:
    """Tensors and header of a file of the format `kind`; raises StError that names the file.

    `mapped`: the tensors are the file itself, whose pages all processes of a machine share; what is
    written into one stays with its process. Files are replaced, never changed, so they stay as they
    are.
    """
    with _opened(path, kind) as file:
        header = _header(path, file, kind)
        names = file.keys()
        tensors = _mapped(path) if mapped else {name: file.get_tensor(name) for name in names}
        for value in tensors.values():
            if value.dtype.kind not in "uifb":  # bfloat16, where a library of it is installed
                raise TypeError(f"type {value.dtype}")
    if header.pop("checksum", None) != checksum(tensors, json.dumps(header)):
        raise StError(
            f"{path}: is damaged (its contents are not those that its checksum says); delete it "
            "and build it again"
        )
    return tensors, header
