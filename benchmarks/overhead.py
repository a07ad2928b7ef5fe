"""What part of a finished run was training: from Snakemake's records and the jobs' logs.

    snakemake --cores 2 && python benchmarks/overhead.py [FOLDER]

A job's time is what Snakemake measured, from the start of its process to the end. Training is the
images that a job's log says it trained on, divided by the speeds that it says. The rest of a job is
starting python, importing torch, reading, evaluating and writing.
"""

import argparse
import json
import re
from pathlib import Path

import pandas as pd

from st.data.dataset import load_data

EPOCH = re.compile(r": epoch \d+/\d+ .* ([\d,]+) images/s")
TRAINING = ("pretrain", "train")


def jobs(folder: Path) -> pd.DataFrame:
    """Rule, start and end of each job; the records are one a file that a job made."""
    found = {}
    for path in (folder / ".snakemake" / "metadata").rglob("*"):
        record = json.loads(path.read_text()) if path.is_file() else {}
        if record.get("endtime"):
            # every job has a log of its own
            key = (record["rule"], *record["log"])
            found[key] = (record["rule"], record["starttime"], record["endtime"])
    if not found:
        raise SystemExit(f"{folder}: has no records of a run; run snakemake there first")
    return pd.DataFrame(found.values(), columns=["rule", "start", "end"])


def training_seconds(folder: Path, phase: str, batch_size: int) -> float:
    """What the phase's logs say."""
    total, images = 0.0, {}
    logs = folder / "results" / "logs" / phase
    for log in logs.rglob("*.log"):
        dataset = log.relative_to(logs).parts[0]
        if dataset not in images:
            data, _ = load_data(folder / "results" / "prepare" / dataset / "data.safetensors")
            images[dataset] = len(data.train_labels) // batch_size * batch_size
        for line in log.read_text().splitlines():
            if match := EPOCH.search(line):
                total += images[dataset] / float(match[1].replace(",", ""))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--batch-size", type=int, default=64, help="the grid's")
    options = parser.parse_args()
    table = jobs(options.folder)
    wall = table["end"].max() - table["start"].min()
    table["seconds"] = table["end"] - table["start"]
    table = table.groupby("rule")["seconds"].agg(jobs="size", seconds="sum")
    table["training"] = [
        training_seconds(options.folder, rule, options.batch_size) if rule in TRAINING else 0.0
        for rule in table.index
    ]
    table.loc["all"] = table.sum()
    table["not training"] = 100 * (1 - table["training"] / table["seconds"])
    print(table.to_markdown(floatfmt=("", ".0f", ".1f", ".1f", ".0f")))
    print(f"\nfrom the first job's start to the last one's end: {wall:.0f} s; 'not training' in %")


if __name__ == "__main__":
    main()
