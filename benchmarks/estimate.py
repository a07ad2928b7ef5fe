"""What `st estimate` predicts, beside what the jobs of a real run took by Snakemake's records.

    python benchmarks/estimate.py [--jobs 2] [params/tiny.yaml params.yaml]

writes benchmarks/results/estimate.csv: seconds of all jobs of a phase, added. Half of the
measurement comes before the run and half after it, so that a machine whose speed changes shows in
`again`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, Table, add_out, machine
from overhead import jobs

from st.config.check import load
from st.config.grid import Grid
from st.estimate.calibrate import calibrate
from st.estimate.predict import Phase, predict
from st.estimate.trainings import datasets

sys.path.insert(0, str(ROOT / "tests"))


def predicted(params: str, jobs: int) -> dict[str, Phase]:
    grid = Grid(load(params))
    data = datasets(grid)
    return predict(grid, data, calibrate(params, data, jobs, "auto"))[0]


def measured(folder: Path) -> dict[str, tuple[int, float]]:
    """Jobs and seconds by phase; the report is not estimated."""
    table = jobs(folder)
    phase = table["rule"].str.partition("_")[0]
    took = (table["end"] - table["start"]).groupby(phase).agg(["size", "sum"])
    return {name: (int(row["size"]), float(row["sum"])) for name, row in took.iterrows()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("params", nargs="*", default=["params/tiny.yaml", "params.yaml"])
    add_out(parser)
    options = parser.parse_args()
    from helpers.project import copy_project

    where, csv = machine("cpu"), Table(options.out.absolute(), "estimate")
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
            row = {
                "params": params,
                "phase": phase,
                "jobs": real[phase][0],
                "predicted_jobs": cost.jobs,
                "seconds": round(real[phase][1], 1),
                "predicted": round(cost.seconds, 1),
                "again": round(again[phase].seconds, 1),
            }
            csv.add({**row, **where})
            print(row, flush=True)


if __name__ == "__main__":
    main()
