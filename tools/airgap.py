#!/usr/bin/env python3
"""Run the workflow on a machine without a network, a limited time at a call; docs/airgapped.md.

`tools/bundle.py` puts this file, travel.py and volumes.py beside the bundle. They need nothing but
Linux and Python's own library. Snakemake decides what is run; here are the way in and a clock.
"""

import argparse
import fcntl
import hashlib
import os
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

from travel import TABLE, pack, say, snakemake, unpack
from volumes import Problem, amount, read_volumes, volumes

TIME_IS_UP = 3  # exit status


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
    wheels = sorted((folder / ".airgap" / "wheels").glob("*.whl"))
    python = environment / "bin/python"
    # --no-deps: torch's requirements are the machine's affair; check() sees to our packages'
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
                say("stopped; the same command resumes")
                return TIME_IS_UP
            if process.returncode:
                return 1
    return 0


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
            say("time is up: jobs are killed and will resume from their last states")
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
    one.add_argument("--time", type=amount, metavar="SECONDS", help="end cleanly within that time")
    one.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="at a time (default: %(default)s)"
    )
    one.add_argument("--state", type=Path, help="a folder from `pack --state`, to resume from")
    one.add_argument("targets", nargs="*", default=[TABLE], help=f"default: {TABLE}")
    one = command("pack", "pack results to take them home, or to resume elsewhere", there)
    one.add_argument("to", type=Path, help="a folder")
    one.add_argument("--weights", action="store_true", help="with the subnets' weights")
    one.add_argument(
        "--state", metavar="PARAMS", help="with all that going on with this params file needs"
    )
    one.add_argument("--limit", type=amount, default=16, help="MB a file (default: %(default)s)")
    one.add_argument("--total", type=amount, help="MB of all files; says what is left behind")
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
