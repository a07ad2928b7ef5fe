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
import subprocess
import tempfile
from contextlib import contextmanager, nullcontext

import pandas as pd
import torch
from common import CASES, machine, write
from contestants import batched
from train import TASKS
from train import worker as engine
from turns import answer, perform, started


@contextmanager
def mps():
    """The multi-process service, for processes that are started meanwhile."""
    control = "nvidia-cuda-mps-control"
    with tempfile.TemporaryDirectory() as folder:
        names = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        os.environ |= names
        subprocess.run([control, "-d"], check=True)
        try:
            yield
        finally:
            subprocess.run([control], input="quit\n", text=True, check=False)
            for name in names:
                del os.environ[name]


def one_process(pipe, models: int, *arguments) -> None:
    perform(pipe, batched, *arguments, models=models)


def measure(way: str, jobs: int, rounds: int, *arguments) -> list[float]:
    """Images per second in all, by round."""
    worker, names = (one_process, [jobs]) if way == "batched" else (engine, ["engine"] * jobs)
    speeds = []
    with mps() if way == "MPS" else nullcontext(), started(worker, names, *arguments) as pipes:
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
    options = parser.parse_args()
    kind = "cpu" if options.device == "cpu" else "cuda"
    facts, rows = machine(options.device), []
    cores = len(os.sched_getaffinity(0))
    ways = ["processes", "batched"]
    if kind == "cuda" and shutil.which("nvidia-cuda-mps-control"):
        ways.insert(1, "MPS")
    for network, case in CASES[kind].items():
        if options.only not in network:
            continue
        for task, distill in TASKS.items():
            for jobs in options.jobs:
                for way in ways:
                    threads = cores if way == "batched" else max(1, cores // jobs)
                    arguments = (options.device, threads, case, distill, None)
                    speeds = measure(way, jobs, options.rounds, *arguments)
                    where = {"network": network, "task": task, "way": way, "jobs": jobs}
                    where |= {"threads": threads}
                    for number, speed in enumerate(speeds):
                        row = {**where, "round": number}
                        rows.append({**row, "images_per_s": round(speed, 1), **facts})
                    print(
                        f"{network}, {task}, {jobs} {way}: {max(speeds):,.0f} images/s", flush=True
                    )
    index = ["network", "task", "way", "jobs"]
    table = pd.DataFrame(rows).groupby(index, sort=False)["images_per_s"]
    print(table.median().unstack("jobs").to_markdown(floatfmt=".0f"))
    print(write(f"jobs-{kind}", rows))


if __name__ == "__main__":
    main()
