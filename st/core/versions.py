"""What DVC, which versions the results, is told of them. Paths are relative to the project."""

import os
import re
import subprocess
import sys
from pathlib import Path

from st.core import records
from st.core.errors import StError, one_line
from st.core.snakemake_internals import NOTHING_TO_DO, RECORDS


def record() -> None:
    """Archive the records and tell DVC that all phases are up to date: `st record`.

    After a run that made something the workflow does it by itself. Raises StError if there are no
    results, or the default table is not up to date.
    """
    if not RECORDS.is_dir():
        raise StError("nothing to record: run `snakemake --cores all` first")
    records.unpack()
    records.pack()
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
        tell_dvc()


def _dvc_is_to_be_told() -> bool:
    """Within `dvc repro` DVC records the stages itself."""
    return "DVC_STAGE" not in os.environ and Path(".dvc").is_dir()


def tell_dvc() -> None:
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
