"""How long searching, initializing and evaluating the paper's networks takes, commands as a whole.

    python benchmarks/search.py [--device cpu]

Supernets have random weights and BatchNorm scales; 10,000 training and as many test images are
noise. Prints a table, and writes benchmarks/results/search-cpu.csv (or -cuda.csv).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import ROOT, Table, add_out, cases, machine, random_data, structure

from st.core.registry import criteria, inits
from st.data.dataset import save_data
from st.networks.checkpoint import save_model
from st.networks.structure import load_structure

CRITERIA = ("bn_scale", "l1_norm", "geometric_median", "uniform", "taylor")


def timed(*command: str | Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "st", *command], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    if done.returncode:
        sys.exit(done.stderr)
    return round(time.perf_counter() - started, 2)


def supernet(case, path: Path) -> None:
    full = structure(case)
    tensors = inits.get("random")(full, None, 0)
    rng = np.random.default_rng(0)
    scales = {name for name in tensors if tensors[name].ndim == 1 and name.endswith("weight")}
    for name in scales:
        tensors[name] = rng.random(len(tensors[name]), dtype=np.float32)
    save_model(path, full, tensors, epochs=0)


def search(criterion: str) -> dict:
    return {
        "seed": 0, "criterion": criterion, "options": criteria.check(criterion, {}),
        "ranking": "normalized", "budget": {"params": 0.1, "macs": 0.5}, "min_channels": 1,
        "round_to": 1, "latency": None, "lottery": None,
    }  # fmt: skip


def measure(case, folder: Path, device: str) -> dict[str, float]:
    """Seconds by what was done."""
    data, model, found, init = (folder / name for name in ("data", "model", "structure", "init"))
    noise = random_data(10_000)
    noise = replace(noise, test_images=noise.train_images, test_labels=noise.train_labels)
    save_data(data, noise, {})
    supernet(case, model)
    seconds = {}
    for criterion in CRITERIA:
        reads = criteria.get(criterion).data
        seconds[criterion] = timed(
            "search", "--job", json.dumps(search(criterion)), "--supernet", model,
            "--structure", found, *(["--data", data, "--device", device] if reads else []),
        )  # fmt: skip
    job = {"seed": 0, "init": "inherit", "options": {}}
    seconds["initialize"] = timed(
        "initialize", "--job", json.dumps(job), "--structure", found, "--source", model,
        "--init", init,
    )  # fmt: skip
    part = load_structure(found)
    save_model(init, part, inits.get("random")(part, None, 0), epochs=0)
    rows = [{"method": name, "teacher": None} for name in ("supernet", "st")]
    job = {
        "dataset": "noise", "architecture": case.family, "seed": 0, "rows": rows,
        "latency_batch": 1, "latency_rounds": 30,
    }  # fmt: skip
    seconds["evaluate"] = timed(
        "evaluate", "--job", json.dumps(job), "--data", data, "--models", model, init,
        "--metrics", folder / "supernet.json", folder / "st.json",
        "--predictions", folder / "supernet.predictions", folder / "st.predictions",
        "--device", device,
    )  # fmt: skip
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", metavar="NAME", help="networks whose name contains this")
    add_out(parser)
    options = parser.parse_args()
    kind = "cpu" if options.device == "cpu" else "cuda"
    facts, csv = machine(options.device), Table(options.out, f"search-{kind}")
    for network, case in cases("cuda", options.only, None).items():  # the paper's
        with tempfile.TemporaryDirectory() as folder:
            for what, seconds in measure(case, Path(folder), options.device).items():
                csv.add({"network": network, "command": what, "seconds": seconds, **facts})
                print(f"{network}, {what}: {seconds} s", flush=True)
    table = csv.frame().pivot(index="network", columns="command", values="seconds")
    print(table[[*CRITERIA, "initialize", "evaluate"]].to_markdown())
    print(csv.path)


if __name__ == "__main__":
    main()
