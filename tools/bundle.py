"""Pack the project, data and packages for a machine without a network; docs/airgapped.md.

Run by `make bundle`, in the project's environment and with a network.
"""

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from volumes import MB, Problem, amount, write_volumes

ROOT = Path(__file__).resolve().parent.parent
THERE = ("torch", "torchvision", "numpy")  # what a GPU machine has without being asked
NOT_NEEDED = ("dvc",)  # versions are kept at home


def brought(names: tuple[str, ...] = THERE) -> dict[str, None]:
    """Packages and those that they bring along, in no stated version."""
    found, seen = {}, set()
    queue = [Requirement(name) for name in names]
    while queue:
        need = queue.pop()
        if str(need) in seen:
            continue
        seen.add(str(need))
        found[canonicalize_name(need.name)] = None
        try:
            further = [Requirement(line) for line in metadata.requires(need.name) or []]
        except metadata.PackageNotFoundError:  # for another system than this
            continue
        extras = ["", *need.extras]
        for line in further:
            if not line.marker or any(line.marker.evaluate({"extra": e}) for e in extras):
                queue.append(line)
    return found


def installed(have: Path) -> dict[str, str | None]:
    """What `pip list --format=freeze` said there: versions by name, None where none is stated."""
    found = {}
    if not have.is_file():
        raise Problem(f"--have {have}: is not a file; write there what `pip list` says")
    for line in have.read_text().splitlines():
        if line := line.partition("#")[0].strip():
            name, _, version = line.partition("==")
            if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or "@" in version:
                raise Problem(f"{have}: '{line}' is not NAME or NAME==VERSION; fix or remove it")
            # '+cu130': such builds are in no index
            found[canonicalize_name(name)] = version.partition("+")[0] or None
    return found


def requirements() -> dict[str, Requirement]:
    """The project's own, by name, without those that only versioning needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    return {canonicalize_name(r.name): r for r in found if r.name not in NOT_NEEDED}


def resolve(
    have: dict[str, str | None], python: str, glibc: str, machine: str, folder: Path
) -> dict[str, str]:
    """The lines, with hashes, that pin what has to be brought; by name.

    Of torch and what it brings along, the versions there are taken as they are. The project's own
    requirements that are lacking there come in requirements.lock's versions, or not at all: an
    older one that happens to fit what is there may not work. Everything else there is used if it
    fits, else brought.
    """
    wanted, constraints, pins = (folder / f"{n}.txt" for n in ("wanted", "constraints", "pins"))
    needs, locked = requirements(), _blocks((ROOT / "requirements.lock").read_text())
    there = {name: f"{name}=={version}" for name, version in have.items() if version}
    # not torch: nothing else needs it, and the one there may be in no index
    wanted.write_text("".join(f"{r}\n" for n, r in needs.items() if n not in THERE[:2]))
    fixed = [there[name] for name in there.keys() & brought().keys()]
    # with its marker: some packages are locked once for each of several pythons
    fixed += [b.partition("\\")[0] for n, b in locked if n in needs and n not in have]
    constraints.write_text("\n".join(fixed) + "\n")
    # what uv finds here it prefers
    preferred = [block for name, block in locked if name not in there]
    pins.write_text("\n".join([*preferred, *there.values()]) + "\n")
    call(
        *("uv", "pip", "compile", wanted, "--constraint", constraints, "--output-file", pins),
        *("--python-version", python, "--python-platform", f"{machine}-manylinux_{glibc}"),
        *("--generate-hashes", "--no-annotate", "--no-header", "--quiet"),
    )
    # what is there in no stated version is taken on trust: airgap.py looks when it installs
    return {
        name: block
        for name, block in _blocks(pins.read_text())
        if name not in have or have[name] not in (None, _version(block))
    }


def _blocks(pins: str) -> list[tuple[str, str]]:
    """Name and lines of each package in a file of pinned versions."""
    blocks = re.split(r"\n(?=[^\s#])", pins.strip())
    return [(canonicalize_name(block.partition("==")[0]), block) for block in blocks]


def _version(block: str) -> str:
    """That of a package's lines."""
    return re.split(r"[\s;\\]", block.partition("==")[2], maxsplit=1)[0]


def download(pins: Path, python: str, glibc: str, machine: str, wheels: Path) -> None:
    """Fetch the pinned packages' wheels for that python and platform."""
    major, minor = map(int, glibc.split("_"))
    tags = [f"manylinux_{major}_{n}_{machine}" for n in range(minor, 4, -1)]
    tags += [f"{old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1")]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    call(
        *(*pip, "download", "--no-deps", "--require-hashes", "--requirement", pins),
        *("--python-version", python, "--implementation", "cp", "--dest", wheels),
        *(option for tag in tags for option in ("--platform", tag)),
    )
    for source in [path for path in wheels.iterdir() if path.suffix != ".whl"]:
        before = set(wheels.iterdir())
        call(*pip, "wheel", "--no-deps", "--wheel-dir", wheels, source)
        source.unlink()
        for built in set(wheels.iterdir()) - before:
            if not built.name.endswith("-none-any.whl"):
                raise Problem(f"{source.name}: has no wheel for python {python} on {tags[0]}")


def call(*command: str | Path) -> None:
    try:
        done = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
    except FileNotFoundError:
        raise Problem(f"{command[0]}: is missing; run this in the project's environment") from None
    if done.returncode:
        raise Problem(f"failed, see above: {' '.join(str(part) for part in command[:4])} ...")


def project() -> dict[str, Path]:
    """The files of the working tree that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise Problem(f"{ROOT}: is not a git clone: {done.stderr.decode().strip()}")
    names = sorted(name for name in done.stdout.decode().split("\0") if name)
    return {name: ROOT / name for name in names if (ROOT / name).exists()}


def main() -> int:
    default = f"manylinux_{platform.libc_ver()[1].replace('.', '_')}_{platform.machine()}"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, action="append", default=[],
                        help="an archive NAME.tar.*, to be unpacked into data/NAME")  # fmt: skip
    parser.add_argument("--python", default="{}.{}".format(*sys.version_info), help="there")
    parser.add_argument("--platform", default=default, help="there (default: %(default)s)")
    parser.add_argument("--have", type=Path, help="`pip list --format=freeze` as it says there")
    parser.add_argument("--limit", type=amount, default=60, help="MB a file (default: %(default)s)")
    parser.add_argument("to", type=Path, nargs="?", default=Path("bundle"))
    options = parser.parse_args()
    try:
        build(options)
    except (Problem, OSError) as error:
        print(f"bundle: error: {error}", file=sys.stderr)
        return 2
    return 0


def build(options: argparse.Namespace) -> None:
    if not (tag := re.fullmatch(r"manylinux_(\d+_\d+)_(\w+)", options.platform)):
        raise Problem(f"--platform {options.platform}: must be like manylinux_2_28_x86_64")
    target = (options.python, *tag.groups())
    for data in options.data:
        if not data.is_file():
            raise Problem(f"--data {data}: is missing; name an archive, NAME.tar.xz for instance")
        if ".tar" not in data.name:
            raise Problem(f"--data {data}: must be an archive, NAME.tar.xz for instance")
    have = installed(options.have) if options.have else brought()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pinned = resolve(have, *target, folder)
        pins, wheels = folder / "pinned.txt", folder / "wheels"
        pins.write_text("\n".join(pinned.values()) + "\n")
        wheels.mkdir()
        download(pins, *target, wheels)
        needs = folder / "needs.txt"
        needs.write_text("\n".join(str(r) for r in requirements().values()) + "\n")
        files = project()
        files[".airgap/needs.txt"] = needs
        files |= {f".airgap/wheels/{path.name}": path for path in sorted(wheels.iterdir())}
        files |= {f".airgap/data/{path.name}": path for path in options.data}
        written = write_volumes(options.to, "project", files, options.limit)
    for name in ("airgap.py", "travel.py", "volumes.py"):
        shutil.copy(ROOT / "tools" / name, options.to)
    for path in written:
        print(f"{path}  {path.stat().st_size / MB:.1f} MB")
    print(f"{len(pinned)} packages for python {options.python}, {options.platform}; there run")
    print(f"  python3 {options.to.name}/airgap.py run --params params/X.yaml")


if __name__ == "__main__":
    sys.exit(main())
