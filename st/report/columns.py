"""The columns of the table: the one list from which checks, csv, prints and the caption follow."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

Cells = Callable[[pd.DataFrame], list[str]]


@dataclass(frozen=True)
class Column:
    """A column of table.csv.

    `of`: the key of metrics.json that it comes from; `over_seeds`: how that key's values become
    one, by pandas' name for it; `whole`: printed as an integer, else with `decimals`. `title`: its
    heading where a person reads it, none if it stands in another one's cells, which `cells` makes
    of a group's lines. `meaning`: the caption's sentence about it.
    """

    name: str
    of: str
    over_seeds: str
    whole: bool = False
    decimals: int | None = None
    title: str | None = None
    cells: Cells | None = None
    meaning: str = ""


def aligned(rows: Sequence[Sequence[str]], right: int, left: int = 0, indent: str = "") -> str:
    """A table in plain text, its heading the first row: the first `left` columns begin at the left,
    the next up to `right` end at the right, others begin at the left."""
    from tabulate import tabulate

    sides = ["right" if left <= n < right else "left" for n in range(len(rows[0]))]
    lines = tabulate(rows, tablefmt="plain", colalign=sides, disable_numparse=True).splitlines()
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def short(number: float) -> str:
    """Three significant digits: 950, 7.23k, 102k, 14.7M, 313M, 4.09G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        value = number / size
        if value >= 0.9995:  # what rounds to 1.00
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{unit}"
    return f"{number:.0f}"


def reduction(kept: float) -> str:
    """What was removed: 0.0995 -> 90.1 %; nothing for a whole network."""
    return "" if kept == 1 else f"{100 * (1 - kept):.1f} %"


def _size(number: float) -> str:
    return f"{short(number)}B"


def _accuracy(group: pd.DataFrame) -> list[str]:
    return [
        f"{mean:.1f}" + (f" ± {std:.1f}" if pd.notna(std) else "")
        for mean, std in zip(group["accuracy_mean"], group["accuracy_std"], strict=True)
    ]


def _latency(group: pd.DataFrame) -> list[str]:
    # as many decimals as give the fastest network three digits
    fastest = max(group["latency_ms"].min(), 1e-3)
    decimals = max(0, 2 - math.floor(math.log10(fastest)))
    return [f"{value:.{decimals}f}" for value in group["latency_ms"]]


def _each(name: str, show: Callable[..., str]) -> Cells:
    return lambda group: [show(value) for value in group[name]]


ACCURACY = "Accuracy (%)"  # its best cells are bold
GROUP = ("dataset", "architecture")  # a small table each
COLUMNS = [
    Column("seeds", "seed", "size"),
    Column(
        "accuracy_mean", "accuracy", "mean", decimals=3, title=ACCURACY, cells=_accuracy,
        meaning="Accuracy on {where} at the last epoch{spread}; bold: the highest mean of each "
        "group, as printed.",
    ),
    Column("accuracy_std", "accuracy", "std", decimals=3),
    Column(
        "params", "params", "mean", whole=True, title="Params", cells=_each("params", short),
        meaning="Params: trainable parameters.",
    ),
    Column(
        "params_kept", "params_kept", "mean", decimals=4, title="Params ↓",
        cells=_each("params_kept", reduction),
    ),
    Column(
        "macs", "macs", "mean", whole=True, title="MACs", cells=_each("macs", short),
        meaning="MACs: multiply-accumulates of convolutions, linear layers and matrix products for "
        "one image.",
    ),
    Column(
        "macs_kept", "macs_kept", "mean", decimals=4, title="MACs ↓",
        cells=_each("macs_kept", reduction),
        meaning="↓: the part of the reference supernet's (row supernet) that was removed.",
    ),
    Column(
        "bytes", "bytes", "mean", whole=True, title="Size", cells=_each("bytes", _size),
        meaning="Size: of the file that holds the network.",
    ),
    Column(
        "latency_ms", "latency_ms", "median", decimals=3, title="Latency (ms)", cells=_latency,
        meaning="Latency: {median}batches of {images} on {devices}{captured}; {compared}.",
    ),
    Column(
        "epochs", "epochs", "mean", whole=True, title="Epochs", cells=_each("epochs", str),
        meaning="Epochs: of training the network itself, without its supernet's training and its "
        "teacher's passes{scaled}.",
    ),
    Column(
        "teacher", "teacher", "first", title="Teacher", cells=_each("teacher", str),
        meaning="Teacher: the network whose outputs supervised the training.",
    ),
]  # fmt: skip
# Keys of metrics.json that are numbers, and the largest that can be one.
LARGEST = {
    "accuracy": 100, "params": 1e15, "params_kept": 1e6, "macs": 1e18, "macs_kept": 1e6,
    "bytes": 1e15, "latency_ms": 1e12, "epochs": 1e9,
}  # fmt: skip
