"""What `st estimate` predicts, beside what the jobs of a real run took by Snakemake's records.

    python benchmarks/estimate.py [--jobs 2] [params/tiny.yaml params.yaml]

writes benchmarks/results/estimate.csv: seconds of all jobs of a phase, added. Half of the
measurement comes before the run and half after it, so that a machine whose speed changes shows in
`again`.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from base64 import urlsafe_b64decode
from pathlib import Path

from st.calibrate import calibrate
from st.check import load
from st.estimate import Phase, datasets, predict
from st.grid import Grid

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def predicted(params: str, jobs: int) -> dict[str, Phase]:
    grid = Grid(load(params))
    data = datasets(grid)
    return predict(grid, data, calibrate(params, data, jobs, "auto"))[0]


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds by phase and job."""
    found: dict[str, dict[str, float]] = {}
    for path in (folder / ".snakemake/metadata").iterdir():
        record, output = json.loads(path.read_text()), urlsafe_b64decode(path.name).decode()
        # a job's outputs have the same log
        phase = record["rule"].partition("_")[0]
        took = record["endtime"] - record["starttime"]
        found.setdefault(phase, {})[record["log"][0] if record["log"] else output] = took
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("params", nargs="*", default=["params/tiny.yaml", "params.yaml"])
    options = parser.parse_args()
    from project import copy_project

    rows = []
    for params in options.params:
        with tempfile.TemporaryDirectory() as temporary:
            folder = copy_project(Path(temporary))
            os.chdir(folder)
            before = predicted(params, options.jobs)
            command = ["snakemake", "--cores", str(options.jobs), "--quiet", "all"]
            subprocess.run(
                [*command, "--configfile", params, "--", "results/table.csv"], check=True
            )
            real, again = measured(folder), predicted(params, options.jobs)
            os.chdir(ROOT)
        for phase, cost in before.items():
            rows.append(
                {
                    "params": params,
                    "phase": phase,
                    "jobs": len(real[phase]),
                    "predicted_jobs": cost.jobs,
                    "seconds": round(sum(real[phase].values()), 1),
                    "predicted": round(cost.seconds, 1),
                    "again": round(again[phase].seconds, 1),
                }
            )
            print(rows[-1], flush=True)
        with open(ROOT / "benchmarks/results/estimate.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
