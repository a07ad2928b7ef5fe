"""What lets Snakemake and DVC trust each other's results.

Snakemake knows whether an output is up to date from the records that it keeps of each job, in
.snakemake/metadata. Outputs that come from elsewhere (a colleague's, by `dvc pull`; an older
version's, by `dvc checkout`) have none, and edits would go unnoticed. So the records travel with
the results, as results/provenance.json.gz: written after each successful run, and unpacked when it
is not the one that was written or unpacked last.
"""

import base64
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ARCHIVE = Path("results/provenance.json.gz")
RECORDS = Path(".snakemake/metadata")
SEEN = Path(".snakemake/provenance.sha256")


def _digest() -> str:
    return hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()


def unpack() -> None:
    """Take over the records that came with the results, if they are others than the known ones."""
    if not ARCHIVE.exists() or (SEEN.exists() and SEEN.read_text() == _digest()):
        return
    try:
        records = _records(ARCHIVE.read_bytes())
    except (OSError, EOFError, ValueError) as error:
        from snakemake.exceptions import WorkflowError  # tools/airgap.py runs without Snakemake

        raise WorkflowError(
            f"{ARCHIVE}: is damaged ({error}); restore it with `dvc checkout --force`, or "
            "delete it, and all is made again"
        ) from None
    fresh = RECORDS.with_name("metadata.new")
    shutil.rmtree(fresh, ignore_errors=True)
    _write(records, fresh)
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
    records = {}
    for name, record in _records(archive).items():
        output = _output(name)
        if output in arriving or output in folders or not Path(output).exists():
            records[name] = record
        else:
            os.utime(output)
    _write(records, RECORDS)
    pack()


def outputs() -> set[str]:
    """The files that there are records of."""
    return {_output(path.name) for path in RECORDS.iterdir() if path.is_file()}


def _output(record: str) -> str:
    """The file that a record is about; Snakemake names records so."""
    return base64.urlsafe_b64decode(record).decode()


def _records(archive: bytes) -> dict[str, str]:
    return json.loads(gzip.decompress(archive))


def _write(records: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in records.items():
        # The archive may come from anyone: a record is a file name in one folder, nothing else.
        if Path(name).name == name and name not in (".", ".."):
            (folder / name).write_text(record)


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
    records = {path.name: path.read_text() for path in sorted(RECORDS.iterdir()) if path.is_file()}
    data = gzip.compress(json.dumps(records, indent=0).encode(), compresslevel=6, mtime=0)
    if not ARCHIVE.exists() or ARCHIVE.read_bytes() != data:
        ARCHIVE.parent.mkdir(exist_ok=True)
        temporary = ARCHIVE.with_name(".provenance.tmp")
        temporary.write_bytes(data)
        temporary.replace(ARCHIVE)
    SEEN.write_text(_digest())


def record_with_dvc() -> None:
    """Tell DVC that all phases are up to date. Only after a complete run, or it would believe so of
    a partial one. Within `dvc repro` DVC does it itself."""
    if "DVC_STAGE" in os.environ or not Path(".dvc").is_dir():
        return
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "commit", "--force", "--no-relink", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"dvc commit failed, versions are not recorded:\n{done.stderr}", file=sys.stderr)
