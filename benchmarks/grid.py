"""What large grids cost apart from the jobs themselves.

    python benchmarks/grid.py [--repeats 3] [EXPERIMENTS ...]        default: 100 1000 5000

Drawing the graph of jobs, a dry run that prints it all, and a run that has nothing to do; the last
with made-up results, recorded as finished. And what every job pays before it begins. Everything
takes turns, so that a change in the machine's load meets all. Processor time counts, which other
programs disturb less than the clock; both are medians, in seconds. Writes
benchmarks/results/grid.csv and benchmarks/results/start.csv, and prints them.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import yaml
from common import RESULTS, ROOT, Table, machine
from tabulate import tabulate

from st.estimate.calibrate import idle_job

PARTS = ("Snakefile", "workflow", "st", "profiles")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
STARTS = {
    "Python": [sys.executable, "-c", "pass"],
    "st --help": [sys.executable, "-m", "st", "--help"],
    **{f"idle {phase}": idle_job(phase) for phase in ("search", "initialize", "train", "evaluate")},
    "Python that imports torch": [sys.executable, "-c", "import torch"],
}


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def snakemake(folder: Path, *options: str) -> str:
    return run(["snakemake", "--cores", "1", *options], folder)


def new_grid(folder: Path, experiments: int) -> None:
    """A project with the tiny grid and so many seeds that there are `experiments`, about."""
    folder.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text())
    for method in params["methods"].values():
        method.pop("architectures", None)
    a_seed = len(params["methods"]) * len(params["architectures"])
    params["seeds"] = list(range(max(1, experiments // a_seed)))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def make_up_results(folder: Path) -> int:
    """Write something to every output and have it recorded as made; how many outputs there are.

    `snakemake --touch` records the jobs of the first seed, of which those of the others are copies:
    touching 5,000 experiments takes over 20 minutes. It then touches the report only.
    """
    text = (folder / "params.yaml").read_text()
    params = yaml.safe_load(text)
    first, *others = params["seeds"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"seeds": [first]}))
    _write_outputs(folder)
    snakemake(folder, "--touch")
    (folder / "params.yaml").write_text(text)
    count = _write_outputs(folder)
    for path in list((folder / ".snakemake/metadata").iterdir()):
        output, record = urlsafe_b64decode(path.name).decode(), path.read_text()
        for seed in others if f"seed{first}/" in output else []:
            name = urlsafe_b64encode(output.replace(f"seed{first}", f"seed{seed}").encode())
            copy = record.replace(f"seed{first}", f"seed{seed}")
            copy = copy.replace(f'\\"seed\\": {first}', f'\\"seed\\": {seed}')
            path.with_name(name.decode()).write_text(copy)
    snakemake(folder, "--touch")
    if "Nothing to be done" not in snakemake(folder, "--dry-run"):
        sys.exit(f"{folder}: snakemake would run jobs, although all results are recorded")
    return count


def _write_outputs(folder: Path) -> int:
    """All of the same date: no input is newer than what was made of it."""
    _, *rows = snakemake(folder, "--summary").splitlines()
    now = time.time()
    for path in (folder / row.split("\t")[0] for row in rows):
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        else:
            path.mkdir(parents=True, exist_ok=True)
        os.utime(path, (now, now))
    return len(rows)


class Clock:
    """Processor time and wall time of commands, by what they measure."""

    def __init__(self):
        self.times: dict = defaultdict(list)

    def measure(self, key, command: Callable) -> None:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command()
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.times[key].append((cpu, wall))

    def medians(self, key) -> tuple[float, float]:
        return tuple(round(median(values), 2) for values in zip(*self.times[key], strict=True))


def measure_grids(sizes: list[int], repeats: int, folder: Path) -> list[dict]:
    clock, outputs = Clock(), {}
    for size in sizes:
        new_grid(folder / f"{size}", size)
        new_grid(folder / f"{size}-made", size)
        outputs[size] = make_up_results(folder / f"{size}-made")
    commands = {
        "graph": ("", "--rulegraph", "dot"),
        "dry run": ("", "--dry-run", "--quiet", "all"),
        "nothing to do": ("-made", "--quiet", "all"),
    }
    for _ in range(repeats):
        for size in sizes:
            for name, (kind, *options) in commands.items():
                project = folder / f"{size}{kind}"
                clock.measure((size, name), lambda p=project, o=options: snakemake(p, *o))
    rows = []
    for size in sizes:
        row = {"experiments": size, "outputs": outputs[size]}
        for name in commands:
            row[f"{name}: processor"], row[f"{name}: clock"] = clock.medians((size, name))
        rows.append(row)
    return rows


def measure_starts(repeats: int) -> list[dict]:
    clock = Clock()
    for _ in range(repeats):
        for name, command in STARTS.items():
            clock.measure(name, lambda c=command: run(c, ROOT))
    return [
        {"start": name, **dict(zip(("processor", "clock"), clock.medians(name), strict=True))}
        for name in STARTS
    ]


def save(name: str, rows: list[dict], where: dict[str, str]) -> None:
    csv = Table(RESULTS, name)
    for row in rows:
        csv.add({**row, **where})
    print(f"\n{csv.path.name}: {where}\n{tabulate(rows, headers='keys', tablefmt='github')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiments", nargs="*", type=int, default=[100, 1000, 5000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    where = machine("cpu") | {"snakemake": version("snakemake")}
    save("start", measure_starts(options.repeats), where)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_grids(options.experiments, options.repeats, Path(folder))
    save("grid", rows, where)


if __name__ == "__main__":
    main()
