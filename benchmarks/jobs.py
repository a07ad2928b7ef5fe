"""How many trainings should share a device: images/s of 1, 2, 4, 8 and 16 processes together.

    python benchmarks/jobs.py [--device cuda] [--jobs 1 2 4 8 16]

Prints a table, and writes benchmarks/results/jobs-cuda.csv (or -cpu.csv). The number with the most
images/s in all is the number of slots that the device should have.
"""

import argparse
import multiprocessing
import os

import pandas as pd
import torch
from common import CASES, machine, write
from train import TASKS, worker


def together(jobs: int, rounds: int, *arguments) -> list[float]:
    """Images per second of so many processes that train at the same time, their sum by round."""
    context = multiprocessing.get_context("spawn")
    runners, speeds = [], []
    try:
        for _ in range(jobs):
            mine, other = context.Pipe()
            process = context.Process(target=worker, args=(other, "engine", *arguments))
            process.start()
            other.close()
            runners.append((process, mine))
        for _, pipe in runners:
            pipe.recv()  # warm
        for _ in range(rounds):
            for _, pipe in runners:
                pipe.send("go")
            speeds.append(sum(pipe.recv() for _, pipe in runners))
    finally:
        for process, _ in runners:
            process.terminate()
            process.join()
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
    for network, case in CASES[kind].items():
        if options.only not in network:
            continue
        for task, distill in TASKS.items():
            for jobs in options.jobs:
                threads = max(1, len(os.sched_getaffinity(0)) // jobs)
                speeds = together(
                    jobs, options.rounds, options.device, threads, case, distill, None
                )
                for number, speed in enumerate(speeds):
                    row = {"network": network, "task": task, "jobs": jobs, "threads": threads}
                    rows.append({**row, "round": number, "images_per_s": round(speed, 1), **facts})
                print(f"{network}, {task}, {jobs} jobs: {max(speeds):,.0f} images/s", flush=True)
    table = pd.DataFrame(rows).groupby(["network", "task", "jobs"], sort=False)["images_per_s"]
    print(table.median().unstack("jobs").to_markdown(floatfmt=".0f"))
    print(write(f"jobs-{kind}", rows))


if __name__ == "__main__":
    main()
