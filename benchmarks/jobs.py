"""How to fill a device with small networks: images/s of 1, 2, 4, 8 and 16 trainings together.

    python benchmarks/jobs.py [--device cuda] [--jobs 1 2 4 8 16]

Three ways: `processes`, as the workflow's slots do; on a GPU the same with NVIDIA's multi-process
service (`MPS`), which lets kernels of several processes run at once; and `batched`, the networks
computed as one by vmap in one process. The last does less than a training (no augmentation, losses
or SGD): where even so it is slower, it need not be built. Prints tables, and writes
benchmarks/results/jobs-cuda.csv (-cpu.csv). The number with the most images/s in all is the number
of slots that a GPU should have in workflow/profiles/gpu.
"""

import argparse
import os
import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from common import Table, add_out, cases, machine
from contestants import batched
from train import TASKS
from train import worker as engine
from turns import Failed, answer, perform, started

from st.core import mps


@contextmanager
def service():
    """The multi-process service, for processes that are started meanwhile."""
    before = dict(os.environ)
    told = mps.start()
    try:
        if mps.MPS not in os.environ:
            raise Failed(told)
        yield
    finally:  # the service itself ends with this process
        os.environ.clear()
        os.environ.update(before)


def one_process(pipe, models: int, *arguments) -> None:
    perform(pipe, batched, *arguments, models=models)


def measure(way: str, jobs: int, rounds: int, *arguments) -> list[float]:
    """Images per second in all, by round."""
    worker, names = (one_process, [jobs]) if way == "batched" else (engine, ["engine"] * jobs)
    speeds = []
    with service() if way == "MPS" else nullcontext(), started(worker, names, *arguments) as pipes:
        for _ in range(rounds):
            for pipe in pipes:
                pipe.send("go")
            speeds.append(sum(answer(pipe, way) for pipe in pipes))
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="NAME", help="networks with this in the name")
    parser.add_argument("--ways", nargs="+", default=["processes", "MPS", "batched"])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--batch", type=int, help="images a step instead of the networks' own")
    parser.add_argument("--images", type=int, help="images an epoch instead of the networks' own")
    add_out(parser)
    options = parser.parse_args()
    kind = "cpu" if options.device == "cpu" else "cuda"
    facts, csv = machine(options.device), Table(options.out, f"jobs-{kind}")
    cores = len(os.sched_getaffinity(0))
    ways = options.ways
    if kind == "cpu" or not shutil.which(mps.CONTROL):
        ways = [way for way in ways if way != "MPS"]
    for network, case in cases(kind, options.only, options.batch).items():
        if options.images:
            case = replace(case, steps=options.images // case.batch)
        for task in options.tasks:
            for jobs in options.jobs:
                for way in ways:
                    threads = cores if way == "batched" else max(1, cores // jobs)
                    arguments = (options.device, threads, case, TASKS[task], None)
                    try:
                        speeds = measure(way, jobs, options.rounds, *arguments)
                    except (Failed, OSError) as error:
                        print(f"{network}, {task}, {jobs} {way}: {error}", flush=True)
                        continue
                    where = {"network": network, "task": task, "way": way, "jobs": jobs}
                    where |= {"threads": threads}
                    for number, speed in enumerate(speeds):
                        row = {**where, "round": number}
                        csv.add({**row, "images_per_s": round(speed, 1), **facts})
                    print(
                        f"{network}, {task}, {jobs} {way}: {max(speeds):,.0f} images/s", flush=True
                    )
    index = ["network", "task", "way", "jobs"]
    table = csv.frame().groupby(index, sort=False)["images_per_s"]
    print(table.median().unstack("jobs").to_markdown(floatfmt=".0f"))
    print(csv.path)


if __name__ == "__main__":
    main()
