"""What lets Snakemake and DVC trust each other's results.

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
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

from st.core.errors import StError, one_line
from st.core.files import whole, write_text
from st.core.snakemake_internals import NOTHING_TO_DO, RECORDS, output, record_path, records

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


def record() -> None:
    """Archive the records and tell DVC that all phases are up to date: `st record`.

    After a run that made something the workflow does it by itself. Raises StError if there are no
    results, or the default table is not up to date.
    """
    if not RECORDS.is_dir():
        raise StError("nothing to record: run `snakemake --cores all` first")
    unpack()
    pack()
    if _dvc_is_to_be_told():
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            told = (done.stdout + done.stderr).strip().splitlines()
            if any(line.startswith("Traceback") for line in told):  # what it ends with says why
                told = told[-1:]
            reason = " ".join(line for line in told if not line.startswith(("Using ", "  File ")))
            raise StError(
                f"DVC is not told of the results, because Snakemake fails: {one_line(reason, 400)}"
            )
        if NOTHING_TO_DO not in done.stdout + done.stderr:
            raise StError(
                "the results are not those of params.yaml, or not complete, so DVC is not told of "
                "them: `snakemake --dry-run` says what is left to do"
            )
        record_with_dvc()


def _dvc_is_to_be_told() -> bool:
    """Within `dvc repro` DVC records the stages itself."""
    return "DVC_STAGE" not in os.environ and Path(".dvc").is_dir()


def record_with_dvc() -> None:
    """Tell DVC that all phases are up to date. Only after a complete run, or it would believe so of
    a partial one. Raises StError that says why DVC can't, and what to do. Where there is no git, as
    in an unpacked archive, there are no versions: one line says so."""
    if not _dvc_is_to_be_told():
        return
    lacking = _lacks_git()
    if lacking:
        print(f"versions are not recorded, because {lacking}", file=sys.stderr)
        return
    obstacle = _obstacle()
    if not obstacle:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "commit", "--force", "--no-relink"],
            capture_output=True,
            text=True,
            check=False,
        )
        if not done.returncode:
            return
        told = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in told if line.startswith("ERROR")] or [
            line for line in told if "Error" in line
        ]
        reason = one_line(" ".join(errors or told[:1]), 400) or "without a reason"
        obstacle = f"dvc commit failed ({reason})"
    raise StError(
        f"versions are not recorded: {obstacle}; the results are complete, and `python -m st "
        "record` records them afterwards"
    )


def _obstacle() -> str:
    """What would keep DVC from recording, with what to do; '' if nothing is known."""
    for path in (Path("dvc.lock"), Path("dvc.yaml"), *_settings()):
        if path.exists() and re.search(rb"^(<{7}|>{7})", path.read_bytes(), re.M):
            return (
                f"{path} has conflict markers; take one side, in an editor or by `git checkout "
                f"--ours {path}`"
            )
    if not Path("dvc.yaml").exists():
        return "dvc.yaml is missing; `git checkout dvc.yaml` brings it back"
    # without a word DVC would record that folders which are links are empty
    folders = (Path(folder, name) for folder, names, _ in os.walk("results") for name in names)
    for folder in (Path(".dvc"), Path("results"), *folders):
        if folder.is_symlink():
            return (
                f"{folder} is a link, which DVC does not follow; link the whole clone instead, or "
                "put DVC's cache elsewhere (`dvc cache dir`)"
            )
    if not _without_git() and not _git("check-ignore", "--quiet", "dvc.yaml").returncode:
        return (
            "git ignores this folder, and DVC what git does; run `git init` here, or take it out "
            "of what `git check-ignore --verbose dvc.yaml` names"
        )
    return ""


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)


def _settings() -> list[Path]:
    """DVC's, those that are there."""
    return [path for path in (Path(".dvc/config"), Path(".dvc/config.local")) if path.exists()]


def _without_git() -> bool:
    """Whether DVC is told to do without."""
    told = (path.read_bytes() for path in _settings())
    return any(re.search(rb"no_scm\s*=\s*true", text, re.I) for text in told)


def _lacks_git() -> str:
    """Why there is no git repository that DVC could use; '' if there is one, or DVC is told to do
    without."""
    advice = "or `dvc config core.no_scm true`, and then `python -m st record`"
    try:
        done = _git("rev-parse", "--is-inside-work-tree")
        if not done.returncode:
            return ""
        reason = f"git refuses ({one_line(done.stderr, 200)}); do what it says, {advice}"
        if "not a git repository" in done.stderr:
            reason = f"this is not a git repository; run `git init`, {advice}"
    except OSError:
        reason = f"git is not installed; install it, {advice}"
    return "" if _without_git() else reason
