"""What was made, packed to travel: home, or to another machine that goes on; docs/airgapped.md.

Like tools/airgap.py it needs nothing but Python's own library.
"""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from volumes import MB, Problem, read_volumes, write_volumes

HEAVY = ".safetensors"
TABLE = "results/table.csv"


def pack(options: argparse.Namespace) -> None:
    """Archive what was made in `folder`. Without state: what the tables and reports are made of."""
    folder = options.folder
    records, layout = _project(folder, "core.records"), _project(folder, "config.layout")
    with _inside(folder):
        if not records.RECORDS.exists():
            raise Problem(f"{folder}: nothing has been made there yet")
        records.pack()
        outputs = records.outputs()
    light, heavy = {}, {}
    needed = _needed(folder, options.state) if options.state else set()
    # the data sets `prepare` makes anew in less time than they travel
    needed = {name for name in needed if layout.owner(name) != ("prepare", "data")}
    for path in sorted((folder / "results").rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name.startswith("."):
            continue
        # the report reads predictions, which are small
        if path.suffix != HEAVY or layout.owner(name) == ("evaluate", "predictions"):
            light[name] = path
        elif (
            (options.weights and layout.owner(name) == ("train", "model"))
            # what no job has as its output, a job that was interrupted goes on from
            or (options.state and (name in needed or name not in outputs))
        ):
            heavy[name] = path
    room = float("inf") if options.total is None else options.total * MB
    room -= _size(write_volumes(options.to, "results", light, options.limit))
    left = {}
    for name, path in sorted(heavy.items(), key=lambda item: item[1].stat().st_size):
        room -= path.stat().st_size + 2048  # with its header; weights can't be compressed
        (light if room > 0 else left)[name] = path
    packed = write_volumes(options.to, "results", light, options.limit)
    say(f"{len(light)} files in {len(packed)} of {_size(packed) / MB:.1f} MB: {options.to}")
    if left:
        amount = sum(path.stat().st_size for path in left.values())
        say(f"no room for {amount / MB:.1f} MB, to be made again if needed: {', '.join(left)}")


def _size(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _needed(folder: Path, params: str) -> set[str]:
    """The heavy files that jobs which Snakemake would still run name in their commands."""
    options = ("--dry-run", "--printshellcmds", "--cores", "1")
    command = [*snakemake(folder, params), *options, "--", TABLE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode:
        raise Problem(f"{params}: Snakemake can't tell what is left to do:\n{output}")
    return set(re.findall(rf"results/[^\s'\"]+{re.escape(HEAVY)}", output))


def unpack(source: Path, folder: Path) -> None:
    """Put what `pack` archived into `folder`, with the records by which Snakemake trusts it."""
    arrived = (folder / ".snakemake" / "arrived").absolute()
    shutil.rmtree(arrived, ignore_errors=True)
    names = read_volumes(source, "results", arrived)
    if strange := [name for name in names if not name.startswith("results/")]:
        raise Problem(f"{source}: has files that are not results: {', '.join(strange)}")
    records = _project(folder, "core.records")
    archive = str(records.ARCHIVE)
    if archive not in names:
        raise Problem(f"{source}: lacks {archive}; pack the results again")
    names.remove(archive)
    with _inside(folder):
        try:
            records.merge((arrived / archive).read_bytes(), set(names))
        except records.StError as error:
            raise Problem(str(error)) from None
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(arrived / name, folder / name)
    shutil.rmtree(arrived)
    say(f"{len(names)} files from {source} are in {folder}/results")


def _project(folder: Path, module: str) -> ModuleType:
    """A module of the project, one that needs nothing but Python's own library. Raises Problem if
    the folder is not the project's."""
    if not (folder / "st" / f"{module.replace('.', '/')}.py").exists():
        raise Problem(f"{folder}: is not the project's folder; say which with --folder")
    sys.path.insert(0, str(folder.absolute()))
    try:
        return importlib.import_module(f"st.{module}")
    finally:
        sys.path.pop(0)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def snakemake(folder: Path, params: str) -> list[str]:
    """The command, but for its targets; they come after '--'. Raises Problem if there is no such
    params file, of which Snakemake itself says a page."""
    if not (folder / params).is_file():
        raise Problem(f"{params}: is not a file in {folder}; name one there")
    # --nolock: killed at the end of a lease it would leave a lock; `locked` is ours
    python = str(folder.absolute() / ".venv/bin/python")
    return [python, "-m", "snakemake", "--nolock", "--configfile", params]


def say(message: str) -> None:
    print(f"airgap: {message}", file=sys.stderr, flush=True)
