"""Training speed, side by side: this project's loop, the usual loop, torchdistill, and the floor.

    python benchmarks/train.py                  # on a GPU, if there is one
    python benchmarks/train.py --folder DIR     # DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg

Same networks, batch sizes, losses and numbers of threads. The contestants are processes that take
turns of an epoch each, so that a busy moment of the machine hits all of them; medians are compared.
Writes benchmarks/results/train-cpu.csv (or -cuda.csv), all measurements, and a plot beside it. What
fails is told of, and the next network's turn comes.
"""

import argparse
import importlib.util
import os
import time
from pathlib import Path

import pandas as pd
import torch
from common import OBJECTIVE, Table, add_out, cases, machine
from turns import Failed, perform, race

TASKS = {"supernet": False, "ST": True}


def worker(pipe, name: str, device: str, threads: int, case, distill: bool, folder) -> None:
    """A contestant's process: an epoch whenever the pipe says so."""
    from contestants import CONTESTANTS

    perform(pipe, CONTESTANTS[name], device, threads, case, distill, folder)


def has_bfloat16(device: str) -> bool:
    """Whether a CPU has units for bfloat16. GPUs' loops use theirs anyway."""
    return device == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def products(device: str) -> float:
    """TFLOP/s of bf16 matrix products, the rate that bounds all networks on a GPU."""
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        x @ x
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        x @ x
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - started) / 1e12


def plot(table: pd.DataFrame, path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    axes = table.plot.bar(figsize=(9, 4), rot=0, width=0.8)
    axes.set(xlabel="", ylabel="images/s", title=title)
    labels = [f"{network}\n{task}".replace(", ", ",\n") for network, task in table.index]
    axes.set_xticklabels(labels, fontsize=8)
    axes.figure.tight_layout()
    axes.figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", metavar="NAME", help="networks whose name contains this")
    parser.add_argument("--batch", type=int, help="images a step instead of the networks' own")
    add_out(parser)
    parser.add_argument("--folder", type=Path, help="JPEG images instead of noise")
    options = parser.parse_args()
    kind = "cpu" if options.device == "cpu" else "cuda"
    facts = machine(options.device) | {"threads": str(options.threads)}
    facts["data"] = str(options.folder or "noise")
    if kind == "cuda":
        facts["bf16_tflops"] = f"{products(options.device):.0f}"
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    csv = Table(options.out, f"train-{kind}")
    for network, case in cases(kind, options.only, options.batch).items():
        for task, distill in TASKS.items():
            names = ["engine", "usual", "floor"]
            if distill and importlib.util.find_spec("torchdistill"):
                names.insert(2, "torchdistill")
            if distill:
                names.insert(1, "engine, outputs kept")
            if has_bfloat16(options.device):
                names.insert(1, "engine, bfloat16")
            found = []
            try:
                for name, number, speed in race(
                    worker, names, options.rounds, options.device, options.threads, case, distill,
                    options.folder,
                ):  # fmt: skip
                    found.append((name, number, speed))
                    where = {"network": network, "task": task, "contestant": name}
                    row = {**where, "round": number, "images_per_s": round(speed, 1)}
                    csv.add(row | {"batch": case.batch, **facts})
            except Failed as error:
                print(f"{network}, {task}: {error}", flush=True)
                continue
            medians = pd.DataFrame(found).groupby(0)[2].median()
            print(
                f"{network}, {task}:",
                ", ".join(
                    f"{n} {medians[n]:,.0f} images/s" + (f" ({medians['engine'] / medians[n]:.2f}x)"
                    if n != "engine" else "") for n in names
                ),
                flush=True,
            )  # fmt: skip
    table = csv.frame().groupby(["network", "task", "contestant"], sort=False)
    table = table["images_per_s"].median().unstack("contestant")
    plot(table, csv.path.with_suffix(".png"), f"{facts['device']}, {options.threads} threads")
    ratios = table[["engine"]].values / table.drop(columns="engine")
    print("\nmedian images/s\n", table.round(0).to_markdown(floatfmt=".0f"), sep="")
    print("\nengine / others\n", ratios.to_markdown(floatfmt=".2f"), sep="")
    print(f"\n{csv.path}; ST: {OBJECTIVE}")


if __name__ == "__main__":
    main()
