#!/usr/bin/env python3
"""Run the workflow on a machine without a network, a limited time at a call; docs/airgapped.md.

`tools/bundle.py` puts this file beside the bundle; it needs nothing but Python's own library, and
Linux. Snakemake decides all that is run: here are only the ways in and out, and a clock.
"""

import argparse
import fcntl
import gzip
import hashlib
import importlib.util
import io
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

MB = 1_000_000
TIME_IS_UP = 3  # exit status
HEAVY = ".safetensors"
TABLE = "results/table.csv"
PROVENANCE = "results/provenance.json.gz"


class Problem(Exception):
    """What is wrong, and what to do, in one line."""


# Volumes: one compressed tar archive in files of a limited size, NAME.tar.gz.00, .01, ...


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
    found = sorted(folder.glob(f"{name}.tar.gz.*"))
    if not found or [path.suffix for path in found] != [f".{n:02}" for n in range(len(found))]:
        raise Problem(f"{folder}: does not have all of {name}.tar.gz.00, .01, ...; copy them again")
    return found


def write_volumes(folder: Path, name: str, files: dict[str, Path], limit: float) -> list[Path]:
    """Archive `files`, by their names in the archive, in volumes of at most `limit` MB."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}.tar.gz.*"):
        old.unlink()
    raw = _Writer(folder, name, int(limit * MB))
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


# Install


def install(bundle: Path, folder: Path) -> None:
    """Unpack the bundle into `folder` and make an environment there, unless that has been done."""
    digest = hashlib.sha256()
    for path in volumes(bundle, "project"):
        digest.update(path.read_bytes())
    done = folder / ".airgap" / "installed"
    if done.exists() and done.read_text() == digest.hexdigest():
        return
    say(f"unpacks into {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    read_volumes(bundle, "project", folder)
    for path in (folder / ".airgap" / "data").glob("*"):
        target = folder / "data" / path.name.partition(".tar")[0]
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path) as archive:
            archive.extractall(target, filter="data")
        path.unlink()
    say("installs")
    environment = folder / ".venv"
    _call(sys.executable, "-m", "venv", "--without-pip", "--clear", environment)
    # This python may itself be an environment's, and the base's packages are not the ones meant.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in _site_packages()]
    (own,) = environment.glob("lib/python*/site-packages")
    (own / "machine.pth").write_text("".join(lines))
    wheels = folder / ".airgap" / "wheels"
    wheels = sorted((folder / ".airgap" / "wheels").glob("*.whl"))
    python = environment / "bin/python"
    # --no-deps: what torch asks for is no concern of ours; what our packages ask for, check() sees
    _call(
        *(sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--quiet"),
        *("--python", python, "install", "--no-index", "--no-deps", "--no-cache-dir", *wheels),
    )
    _call(python, Path(__file__).resolve(), "check", "--folder", folder)
    shutil.rmtree(folder / ".airgap" / "wheels")
    done.write_text(digest.hexdigest())


def check(folder: Path) -> None:
    """Whether all that the project and the brought packages need is there. Raises Problem that
    names what is not. Called by the new environment's python.
    """
    from importlib import metadata

    from packaging.requirements import Requirement

    wheels = (folder / ".airgap" / "wheels").glob("*.whl")
    needs = [("the project", r) for r in (folder / ".airgap/needs.txt").read_text().splitlines()]
    for name in (path.name.partition("-")[0] for path in wheels):
        needs += [(name, line) for line in metadata.requires(name) or []]
    lacking = []
    for name, line in needs:
        need = Requirement(line)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            found = None
        if found is None or not need.specifier.contains(found, prereleases=True):
            lacking.append(f"{name} needs {line}, there is {found or 'none'}")
    if lacking:
        raise Problem(
            "; ".join(lacking)
            + ". Make the bundle with a list of the packages here, without these: "
            "python3 -m pip list --format=freeze"
        )


def _site_packages() -> list[str]:
    """Where this python finds installed packages."""
    own = {*site.getsitepackages(), site.getusersitepackages()}
    return [path for path in sys.path if path in own]


def _call(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], check=False)
    if done.returncode:
        raise Problem(f"failed, see above: {' '.join(str(part) for part in command[:3])} ...")


# Run


class _Stop(Exception):
    """SIGTERM or SIGINT came."""


def run(options: argparse.Namespace, deadline: float | None) -> int:
    """Run Snakemake until all is made or the time is up; the exit status.

    `deadline` on the clock time.monotonic. Before it, what runs is told to stop and has until then
    to write its state.
    """
    folder = options.folder
    with locked(folder):
        if options.state and not (folder / "results").exists():
            unpack(options.state, folder)
        # What another machine had prepared does not travel. Made again on its own it has the same
        # content; among other jobs Snakemake would run all that depends on it.
        for target in ("phase_prepare", *options.targets):
            process = subprocess.Popen(
                [*snakemake(folder, options.params), "--cores", str(options.jobs),
                 "--resources", f"gpu={options.jobs}", "--", target],
                cwd=folder, start_new_session=True,
            )  # fmt: skip
            stopped = _wait(process, deadline)
            if stopped and (process.returncode or target != options.targets[-1]):
                say("stopped; the same command goes on")
                return TIME_IS_UP
            if process.returncode:
                return 1
    return 0


def snakemake(folder: Path, params: str) -> list[str]:
    """The command, but for its targets; they stand behind '--'."""
    # --nolock: killed at the end of a lease it would leave a lock; `locked` is ours
    python = str(folder.absolute() / ".venv/bin/python")
    return [python, "-m", "snakemake", "--nolock", "--configfile", params]


def _wait(process: subprocess.Popen, deadline: float | None) -> bool:
    """Wait for Snakemake; whether it had to be stopped."""
    left = None if deadline is None else deadline - time.monotonic()
    try:
        process.wait(None if left is None else left - min(60, left / 4))
        return False
    except (subprocess.TimeoutExpired, _Stop):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    say("stops: running trainings finish their epoch and write their state")
    process.terminate()  # Snakemake then starts no other job
    deadline = deadline or time.monotonic() + 120
    told: set[int] = set()
    while process.poll() is None:
        if time.monotonic() > deadline - 2:
            say("the time is over: jobs are killed and go on from the states before")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            break
        for job in set(_jobs(process.pid)) - told:
            told.add(job)
            os.kill(job, signal.SIGTERM)
        time.sleep(0.2)
    return True


def _jobs(session: int) -> Iterator[int]:
    """Processes `python -m st ...` of Snakemake's session. Not the shells around them: one that
    dies would let Snakemake believe that its job has ended."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.getsid(int(entry.name)) == session:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[1:3] == [b"-m", b"st"]:
                    yield int(entry.name)
        except OSError:  # it has just ended
            continue


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    with open(folder / ".airgap" / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem(f"{folder}: another run is going on there; wait for it") from None
        yield


# Pack and unpack


def pack(options: argparse.Namespace) -> None:
    """Archive what was made in `folder`. Without state: what the tables and reports are made of."""
    folder = options.folder
    versions = _versions(folder)
    with _inside(folder):
        if not versions.RECORDS.exists():
            raise Problem(f"{folder}: nothing has been made there yet")
        versions.pack()
        outputs = versions.outputs()
    light, heavy = {}, {}
    needed = _needed(folder, options.state) if options.state else set()
    for path in sorted((folder / "results").rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix != HEAVY:
            light[name] = path
        elif (
            (options.weights and re.fullmatch(r"results/train/.*/model\.safetensors", name))
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
    """The files that jobs which Snakemake would still run read."""
    command = [*snakemake(folder, params), "--dry-run", "--cores", "1", "--", TABLE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode:
        raise Problem(f"{params}: Snakemake can't tell what is left to do:\n{output}")
    lists = re.findall(r"^    input: (.*)$", output, re.MULTILINE)
    return {name for names in lists for name in names.split(", ")}


def unpack(source: Path, folder: Path) -> None:
    """Put what `pack` archived into `folder`, with the records by which Snakemake trusts it."""
    arrived = (folder / ".snakemake" / "arrived").absolute()
    shutil.rmtree(arrived, ignore_errors=True)
    names = read_volumes(source, "results", arrived)
    if strange := [name for name in names if not name.startswith("results/")]:
        raise Problem(f"{source}: has files that are no results: {', '.join(strange)}")
    names.remove(PROVENANCE)
    versions = _versions(folder)
    with _inside(folder):
        versions.merge((arrived / PROVENANCE).read_bytes(), set(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(arrived / name, folder / name)
    shutil.rmtree(arrived)
    say(f"{len(names)} files from {source} are in {folder}/results")


def _versions(folder: Path) -> ModuleType:
    """The project's keeper of Snakemake's records."""
    spec = importlib.util.spec_from_file_location("versions", folder / "workflow/versions.py")
    if not Path(spec.origin).exists():
        raise Problem(f"{folder}: is not the project's folder; say which with --folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def say(message: str) -> None:
    print(f"airgap: {message}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    here = Path(__file__).resolve().parent
    root = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = root.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, default: Path) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument(
            "--folder", type=Path, default=default, help="the project's (default: %(default)s)"
        )
        return added

    there = Path("search-and-train")
    for name in ("install", "run"):
        text = "unpack the bundle and install it" + (", then run" if name == "run" else "")
        one = command(name, text, there)
        one.add_argument("--bundle", type=Path, default=here, help="default: %(default)s")
    one.add_argument("--params", required=True, help="params/X.yaml in the project")
    one.add_argument("--time", type=float, metavar="SECONDS", help="end cleanly within that time")
    one.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="at a time (default: %(default)s)"
    )
    one.add_argument("--state", type=Path, help="a folder from `pack --state`, to go on from")
    one.add_argument("targets", nargs="*", default=[TABLE], help=f"default: {TABLE}")
    one = command("pack", "pack results to take them home, or to go on elsewhere", there)
    one.add_argument("to", type=Path, help="a folder")
    one.add_argument("--weights", action="store_true", help="with the subnets' weights")
    one.add_argument(
        "--state", metavar="PARAMS", help="with all that going on with this params file needs"
    )
    one.add_argument("--limit", type=float, default=16, help="MB a file (default: %(default)s)")
    one.add_argument("--total", type=float, help="MB of all files; says what is left behind")
    command("check", "what the installed packages lack; part of install", there)
    one = command("unpack", "take packed results into the project", Path())
    one.add_argument("source", type=Path, metavar="FROM", help="a folder that `pack` wrote")
    return root


def main(arguments: list[str] | None = None) -> int:
    started = time.monotonic()
    options = parser().parse_args(arguments)
    try:
        if options.command in ("install", "run"):
            install(options.bundle, options.folder)
        if options.command == "run":
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _stop)
            return run(options, started + options.time if options.time else None)
        if options.command == "check":
            check(options.folder)
        if options.command == "pack":
            pack(options)
        if options.command == "unpack":
            unpack(options.source, options.folder)
    except _Stop:
        return TIME_IS_UP
    except (Problem, OSError) as error:
        print(f"airgap: error: {error}", file=sys.stderr)
        return 2
    return 0


def _stop(*_) -> None:
    raise _Stop


if __name__ == "__main__":
    sys.exit(main())
