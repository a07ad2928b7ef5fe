"""Images that stay compressed: JPEG and PNG files one after the other in a few large ones.

For data sets beyond the memory. `Writer` makes them once, as `prepare` reads a folder; `Shards` are
the images of a part, in a data set's place of an array. Where each image lies is in the prepared
data set's own file, which names the folder of the shards beside it.
"""

import atexit
import io
import os
import resource
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, Self

import numpy as np

from st.core.errors import StError
from st.core.files import read_json, whole, write_json
from st.core.locks import alone
from st.core.process import in_order
from st.core.progress import say
from st.data.decode import Made

IMAGES = 4096  # of a shard, at most: so many are lost when a preparation is killed
OPEN = 256  # shards at a time


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, or what its control group or a
    limit leaves of it."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    found += [n for n in resource.getrlimit(resource.RLIMIT_AS) if n != resource.RLIM_INFINITY]
    root = Path("/sys/fs/cgroup")
    with suppress(OSError):  # no Linux
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, name = line.split(":", 2)
            base, file = (
                (root, "memory.max") if not kinds else (root / kinds, "memory.limit_in_bytes")
            )
            place = base / name.lstrip("/")
            for folder in (place, *place.parents):  # the limits of all groups around it hold
                with suppress(OSError, ValueError):  # "max", and folders that are none
                    found.append(int((folder / file).read_text()))
    return min(found)


class Shards:
    """Images of one shape, in place of an array of uint8 (n, channels, height, width): an index
    gives arrays, decoded as they are asked for.

    `places`: int64 (n, 4), of each image the number of its file in `files`, where it begins there,
    its bytes, and their CRC-32. `digests` (n, 16) and `sums` (n, 2, channels) are known while they
    are prepared: see `st.data.decode.Made`.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, folder: Path, files: list[str], places: np.ndarray, shape: tuple[int, ...],
        digests: np.ndarray | None = None, sums: np.ndarray | None = None,
    ):  # fmt: skip
        self.folder, self.files, self.places = folder, files, places
        self.digests, self.sums = digests, sums
        self.shape = (len(places), *shape)
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.places)

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    @property
    def size(self) -> int:
        """The number of values."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """On the disk."""
        return int(self.places[:, 2].sum())

    def __getitem__(self, index: Any) -> np.ndarray:
        """As an array's: of one image, or of those of a slice, a mask or a list of numbers."""
        if isinstance(index, int | np.integer):
            return self.read([range(len(self))[index]])[0]
        return self.read(np.arange(len(self))[index])

    def chosen(self, index: Any) -> "Shards":
        """The same images as `[index]` would, still compressed."""
        parts = (None if part is None else part[index] for part in (self.digests, self.sums))
        return Shards(self.folder, self.files, self.places[index], self.shape[1:], *parts)

    def read(self, index: Iterable[int]) -> np.ndarray:
        """The images of these numbers, in memory as decoders write them: channels last.

        Raises StError that names the shard if it is missing or damaged.
        """
        from PIL import Image

        numbers = [int(number) for number in index]
        channels, height, width = self.shape[1:]
        found = np.empty((len(numbers), height, width, channels), dtype=np.uint8)
        for place, number in enumerate(numbers):
            # the library that prepared them: what that forgives a file, this does too
            with Image.open(io.BytesIO(self.payload(number))) as image:
                found[place] = np.asarray(image).reshape(height, width, channels)
        if channels == 1:  # the same in memory; arrays of it look as they do elsewhere
            return found.reshape(len(numbers), 1, height, width)
        return found.transpose(0, 3, 1, 2)

    def payload(self, number: int) -> bytes:
        """The file of an image."""
        shard, start, length, crc = (int(value) for value in self.places[number])
        path = self.folder / self.files[shard]
        try:
            if shard not in self._open:
                if len(self._open) == OPEN:
                    os.close(self._open.pop(next(iter(self._open))))
                self._open[shard] = os.open(path, os.O_RDONLY)
            content = os.pread(self._open[shard], length, start)
        except OSError as error:
            raise StError(_unusable(path, error.strerror or str(error))) from error
        if zlib.crc32(content) != crc:
            raise StError(_unusable(path, f"image {number} is not what was written"))
        return content

    def is_sound(self) -> bool:
        """Whether every image has a place in one of the files."""
        places = self.places
        if places.dtype != np.int64 or places.shape != (len(self), 4) or (places < 0).any():
            return False
        return bool((places[:, 0] < len(self.files)).all())

    def check(self) -> None:
        """Raise StError unless all shards are there, and as long as the places say."""
        ends = np.zeros(len(self.files), dtype=np.int64)
        np.maximum.at(ends, self.places[:, 0], self.places[:, 1] + self.places[:, 2])
        for name, end in zip(self.files, ends, strict=True):
            path = self.folder / name
            try:
                length = path.stat().st_size
            except OSError as error:
                raise StError(_unusable(path, error.strerror or str(error))) from error
            if end > length:
                raise StError(_unusable(path, f"has {length} bytes instead of {end}"))


def _unusable(path: Path, reason: str) -> str:
    return (
        f"{path}: cannot be used ({reason}); delete the data.safetensors beside its folder and "
        "build it again"
    )


class Writer:
    """Makes the shards of a data set in `folder`/`key`, as a context; goes on after a kill.

    `key`: of all that the images depend on. Shards that are complete are kept, with a record of
    what became of each file; so whoever asks for the same files in the same order gets the first
    answers from there. `threads`: the processes that decode and encode.
    """

    def __init__(self, folder: Path, key: str, threads: int = 1):
        self.folder, self.threads = folder / key, threads
        self._after, self._open = ExitStack(), ExitStack()  # the lock; the shard being written
        self._file: Any = None
        self._files: list[str] = []
        self._finished = 0  # shards that were there
        self._known: deque[list[Any]] = deque()  # of theirs, records that nobody asked for yet
        self._records: list[list[Any]] = []  # of the shard that is being written
        self._part: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # by shard

    @classmethod
    def temporary(cls) -> "Writer":
        """One in a folder that goes with the process."""
        folder = tempfile.mkdtemp(prefix="st-")
        atexit.register(rmtree, folder, ignore_errors=True)
        return cls(Path(folder), "shards")

    def __enter__(self) -> Self:
        self._after.enter_context(alone(self.folder, "preparing images"))
        while all((self.folder / _name(self._finished, kind)).exists() for kind in ("bin", "json")):
            self._finished += 1
        if self._finished:
            say(f"goes on after {self._finished} shards of images that were made before")
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
        self._after.close()

    def made(self, files: list[str], maker: Callable[[str], Made]) -> Iterator[Made]:
        """What the maker made of each file, in order; what it made is in the shards then."""
        count = 0
        while count < len(files) and (record := self._remembered()):
            if record[0] != files[count]:
                raise StError(f"{self.folder}: is of other files; delete it and prepare again")
            count += 1
            file, done, error, shape, *_ = record
            yield Made(file, done, error, tuple(shape))
        for found in in_order(maker, files[count:], self.threads):
            self._write(found)
            yield found._replace(payload=b"")

    def _remembered(self) -> list[Any] | None:
        """The next record of a shard that was there; None after the last."""
        if not self._known and len(self._files) < self._finished:
            records = read_json(self.folder / _name(len(self._files), "json"))
            self._known.extend(records)
            self._add(records)
        return self._known.popleft() if self._known else None

    def _write(self, found: Made) -> None:
        if not self._records:
            temporary = self._open.enter_context(
                whole(self.folder / _name(len(self._files), "bin"))
            )
            self._file = self._open.enter_context(temporary.open("wb"))
        place = [self._file.tell(), len(found.payload), zlib.crc32(found.payload)]
        self._file.write(found.payload)
        self._records.append(
            [
                found.file,
                found.done,
                found.error,
                found.shape,
                place,
                found.digest.hex(),
                found.sums,
            ]
        )
        if len(self._records) == IMAGES:
            self._end_shard()

    def _end_shard(self) -> None:
        self._open.close()
        write_json(self.folder / _name(len(self._files), "json"), self._records, indent=None)
        self._add(self._records)
        self._records = []

    def _add(self, records: list[list[Any]]) -> None:
        """A shard that is complete, by its records."""
        number = len(self._files)
        self._files.append(_name(number, "bin"))
        kept = [record for record in records if not record[2]]
        if kept:
            *_, places, digests, sums = zip(*kept, strict=True)
            raw = b"".join(bytes.fromhex(digest) for digest in digests)
            self._part.append(
                (
                    np.array([[number, *place] for place in places], dtype=np.int64),
                    np.frombuffer(raw, dtype=np.uint8).reshape(len(kept), -1),
                    np.array(sums, dtype=np.int64),
                )
            )

    def part(self, shape: tuple[int, ...]) -> Shards:
        """All images, of this shape, that were made since the last part."""
        if self._records:
            self._end_shard()
        columns = [np.concatenate(arrays) for arrays in zip(*self._part, strict=True)]
        self._part = []
        return Shards(self.folder, self._files, columns[0], shape, *columns[1:])

    def finish(self) -> None:
        """Remove what no later preparation may use: the records, and the shards of others."""
        for path in self.folder.parent.iterdir():
            if path != self.folder:
                rmtree(path, ignore_errors=True)
        for path in self.folder.glob("*.json"):
            path.unlink()
        if not self._files:
            rmtree(self.folder.parent, ignore_errors=True)


def _name(number: int, kind: str) -> str:
    return f"{number:05}.{kind}"
