"""Volumes: a compressed tar archive in files of a limited size, NAME.tar.gz.00, .01, ...

Like tools/airgap.py it needs nothing but Python's own library.
"""

import gzip
import io
import tarfile
from pathlib import Path

MB = 1_000_000


class Problem(Exception):
    """What is wrong, and what to do, in one line."""


def amount(text: str) -> float:
    """A number above 0, from the command line."""
    found = float(text)
    if not 0 < found < float("inf"):
        raise ValueError
    return found


class _Writer(io.RawIOBase):
    def __init__(self, folder: Path, name: str, limit: int):
        self.folder, self.name, self.limit = folder, name, limit
        self.file, self.number = None, 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        if self.file is None or self.file.tell() >= self.limit:
            self.close_volume()
            path = self.folder / f"{self.name}.tar.gz.{self.number:02}"
            self.file = open(path, "wb")  # noqa: SIM115
            self.number += 1
        return self.file.write(data[: self.limit - self.file.tell()])

    def close_volume(self) -> None:
        if self.file:
            self.file.close()


class _Reader(io.RawIOBase):
    def __init__(self, paths: list[Path]):
        self.files = [open(path, "rb") for path in paths]  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return next((size for file in self.files if (size := file.readinto(buffer))), 0)

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


def volumes(folder: Path, name: str) -> list[Path]:
    """An archive's files; raises Problem if the first or one between is missing."""
    paths = folder.glob(f"{name}.tar.gz.*")
    found = sorted(paths, key=lambda path: (len(path.name), path.name))  # .99, .100
    if not found or [path.suffix for path in found] != [f".{n:02}" for n in range(len(found))]:
        raise Problem(f"{folder}: does not have all of {name}.tar.gz.00, .01, ...; copy them again")
    return found


def write_volumes(folder: Path, name: str, files: dict[str, Path], limit: float) -> list[Path]:
    """Archive `files`, by their names in the archive, in volumes of at most `limit` MB."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}.tar.gz.*"):
        old.unlink()
    raw = _Writer(folder, name, max(1, int(limit * MB)))
    with (
        io.BufferedWriter(raw, 1 << 20) as buffer,
        gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for target, path in files.items():
            archive.add(path, target, recursive=False)
    raw.close_volume()
    return volumes(folder, name)


def read_volumes(folder: Path, name: str, target: Path) -> list[str]:
    """Unpack an archive into `target`; the names of its files."""
    names = []
    try:
        with (
            _Reader(volumes(folder, name)) as raw,
            gzip.GzipFile(fileobj=io.BufferedReader(raw, 1 << 20)) as packed,
            tarfile.open(fileobj=packed, mode="r|") as archive,
        ):
            for member in archive:
                # the filter refuses whatever would land outside of the folder
                archive.extract(member, target, filter="data")
                names.append(member.name)
            while packed.read(1 << 20):  # to its end: there the checksum is compared
                pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, OSError, ValueError) as error:
        raise Problem(f"{folder}/{name}.tar.gz.*: cannot be unpacked: {error}") from error
    return names
