"""What lets Snakemake trust results that come from elsewhere.

Snakemake knows whether an output is up to date from the records that it keeps of each job, in
.snakemake/metadata. Outputs that come from elsewhere (a colleague's, by `dvc pull`; an older
version's, by `dvc checkout`) have none, and edits would go unnoticed. So the records travel with
the results, as results/provenance.json.gz: written after each successful run, and unpacked when it
is not the one that was written or unpacked last.

All paths are relative to the working directory, the project's. tools/ use this without Snakemake.
"""

import gzip
import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path

from st.core.errors import StError
from st.core.files import whole, write_text
from st.core.snakemake_internals import RECORDS, output, record_path, records

ARCHIVE = Path("results/provenance.json.gz")
DAMAGED = (OSError, EOFError, ValueError, zlib.error)  # what reading it may raise
SEEN = Path(".snakemake/provenance.sha256")


def _digest() -> str:
    return hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()


def unpack() -> None:
    """Take over the records that came with the results, if they are others than the known ones.

    Raises StError if they are damaged.
    """
    if not ARCHIVE.exists() or (SEEN.exists() and SEEN.read_text() == _digest()):
        return
    try:
        found = _records(ARCHIVE.read_bytes())
    except DAMAGED as error:
        raise StError(
            f"{ARCHIVE}: is damaged ({error}); restore it with `dvc checkout --force`, or "
            "delete it, and all is made again"
        ) from None
    fresh = RECORDS.with_name("metadata.new")
    shutil.rmtree(fresh, ignore_errors=True)
    _write(found, fresh)
    shutil.rmtree(RECORDS, ignore_errors=True)
    fresh.rename(RECORDS)
    SEEN.write_text(_digest())


def merge(archive: bytes, arriving: set[str]) -> None:
    """Add another clone's records to those here. `arriving`: the files that come with them.

    An output that is here and does not arrive keeps its own record, and gets a new date: Snakemake
    then compares its content with what the results that arrive were made from.
    """
    unpack()
    folders = {str(parent) for name in arriving for parent in Path(name).parents}
    taken = {}
    try:
        known = _records(archive)
    except DAMAGED as error:
        raise StError(f"{ARCHIVE}, which was packed: is damaged ({error}); pack it again") from None
    for name, record in known.items():
        about = output(name)
        if about in arriving or about in folders or not Path(about).exists():
            taken[name] = record
        else:
            os.utime(about)
    _write(taken, RECORDS)
    pack()


def outputs() -> set[str]:
    """The files that there are records of."""
    return {output(name) for name in records()}


def _records(archive: bytes) -> dict[str, str]:
    """Raises one of DAMAGED if it is none. What is no record, as the files that systems leave in
    folders, is left out."""
    found = json.loads(gzip.decompress(archive))
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError("no records of jobs")
    return {name: text for name, text in found.items() if _is_record(name)}


def _is_record(name: str) -> bool:
    try:
        return bool(output(name))
    except ValueError:
        return False


def _write(found: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in found.items():
        path = record_path(name, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record)


def own_files(cache: str) -> None:
    """Replace links into Snakemake's between-workflow cache by copies, with the links' dates:
    results must outlive the cache, and DVC must find files."""
    for link in Path("results").rglob("*"):
        if link.is_symlink() and str(link.readlink().parent) == cache:
            date = link.lstat().st_mtime_ns
            temporary = link.with_name(f".{link.name}.tmp")
            shutil.copyfile(link, temporary)
            os.utime(temporary, ns=(date, date))
            temporary.replace(link)


def pack() -> None:
    """Archive the records of results that exist. The same records give the same bytes."""
    found = {name: path.read_text() for name, path in sorted(records().items())}
    data = gzip.compress(json.dumps(found, indent=0).encode(), compresslevel=6, mtime=0)
    if not ARCHIVE.exists() or ARCHIVE.read_bytes() != data:
        with whole(ARCHIVE) as temporary:
            temporary.write_bytes(data)
    write_text(SEEN, _digest())
