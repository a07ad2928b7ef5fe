"""What the report says in words, beside the claim (verdicts.py): captions and definitions."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from st.core.job import Job


def split(job: Job, dataset: str) -> str:
    """The images on which accuracies of a data set were measured."""
    return "held-out training images" if job["datasets"][dataset] else "the test split"


def caption(job: Job, runs: pd.DataFrame) -> str:
    """What the table's numbers mean. One paragraph of plain text."""
    places: dict[str, list[str]] = {}
    for dataset in job["datasets"]:
        places.setdefault(split(job, dataset), []).append(dataset)
    where = " and ".join(
        f"{name} ({', '.join(datasets)})" if len(places) > 1 else name
        for name, datasets in places.items()
    )
    seeds = len(job["seeds"])
    spread = f", mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else ", one seed"
    batch = job["latency_batch"]
    return (
        f"Accuracy on {where} at the last epoch{spread}; bold: the highest mean of each "
        "group, as printed. "
        "Params: trainable parameters. MACs: multiply-accumulates of convolution and linear layers "
        "for one image. ↓: the part of the reference supernet's (row supernet) that was removed. "
        f"Latency: {'median over seeds, ' if seeds > 1 else ''}batches of {batch} "
        f"image{'s' * (batch > 1)} on {devices(runs)}; "
        "it compares networks on this machine and says little about others. "
        "Epochs: of training the network itself, without its supernet's. "
        "Teacher: the network whose outputs supervised the training."
    )


def devices(runs: pd.DataFrame) -> str:
    return " / ".join(dict.fromkeys(runs["device"]))


def provenance(job: Job, runs: pd.DataFrame) -> list[tuple[str, str]]:
    """What was run, on what: (subject, text) pairs."""

    def found(column: str) -> str:
        return " / ".join(dict.fromkeys(runs[column].astype(str)))

    return [
        ("Data", "; ".join(f"{name}, evaluated on {split(job, name)}" for name in job["datasets"])),
        ("Architectures", ", ".join(job["rows"])),
        ("Seeds", ", ".join(map(str, job["seeds"]))),
        ("Networks", f"{len(runs)} trained and evaluated"),
        ("Evaluated on", devices(runs)),
        ("Software", f"search-and-train {found('st')}, PyTorch {found('torch')}"),
    ]


def environment(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the networks were trained and evaluated (see tables.environment), as (subject, text)
    pairs."""
    pairs = [("Parameters", f"hash {found['params']}")]
    for kind in ("trained", "evaluated"):
        for made in found[kind]:
            facts = {key: value for key, value in made.items() if key != "networks"}
            text = ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
            pairs.append((f"{made['networks']} networks {kind}", text))
    return pairs


INITS = {
    "random": "new random weights",
    "inherit": "the supernet's weights of the kept channels (fine-tuning)",
    "rewind": "the supernet's early weights of the kept channels (lottery ticket)",
}


def definitions(job: Job, runs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """How each row of the table came to be: (row, text) pairs, in the table's order."""
    rows: dict[str, dict[str, Any]] = {}
    for architecture in job["rows"].values():
        for row in architecture:
            rows.setdefault(row["method"], row)
    for name, row in rows.items():
        epochs = runs.loc[runs["method"] == name, "epochs"]
        low, high = epochs.min(), epochs.max()
        length = f"{low} epochs" if low == high else f"{low} to {high} epochs"
        if "search" not in row:
            reference = "; all fractions refer to it" if name == "supernet" else ""
            yield name, f"the whole network, supernet {row['supernet']}; {length}{reference}."
            continue
        start = INITS.get(row["init"], f"init {row['init']}")
        if row.get("epoch_rule") == "computation":
            length += ", scaled by the computation it saves"
        losses = " + ".join(_loss(loss, options) for loss, options in row["objective"].items())
        yield (
            name,
            f"the structure that search {row['search']} ({_search(row)}) found in "
            f"supernet {row['supernet']}; "
            f"starts from {start}; minimises {losses}; {length}.",
        )


BOUNDED = {"params": "parameters", "macs": "MACs", "channels": "channels", "latency": "latency"}


def _search(row: dict[str, Any]) -> str:
    bounds = [f"{share:g} of the {BOUNDED[name]}" for name, share in row["budget"].items()]
    budget = f", at most {' and '.join(bounds)}" if bounds else ""
    rounds = f", in {row['rounds']} rounds" if row["rounds"] > 1 else ""
    return f"criterion {row['criterion']}{budget}{rounds}"


LOSSES = {
    "ce": "cross-entropy with the labels",
    "kd": "distillation of the supernet's softened outputs",
    "cc": "correlation congruence with the supernet's features",
    "at": "attention transfer from the supernet's stages",
    "sp": "preservation of the similarities in the supernet's last stage",
    "rkd": "relational distillation of the supernet's features",
    "pkt": "probabilistic transfer of the supernet's features",
    "dkd": "decoupled distillation of the supernet's softened outputs",
    "fitnet": "hints from a stage of the supernet",
}


def _loss(name: str, options: dict[str, Any]) -> str:
    weight = "" if options["weight"] == 1 else f"{options['weight']:g} "
    others = ", ".join(
        f"{key} {_plain(value)}"
        for key, value in options.items()
        if key != "weight" and value is not None
    )
    return f"{weight}{LOSSES.get(name, name)}{f' ({others})' if others else ''}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


VERDICTS = [
    "The claim under test: a subnet with at most 10 % of the parameters and 50 % of the MACs, "
    "trained anew under its supernet's supervision, is more accurate than that supernet.",
    "Margins are differences in accuracy points (percent of images), paired by seed and averaged.",
    "Intervals are Student's t over seeds at 95 %. They cover the randomness of training, not the "
    "choice of test images, and are not corrected for the number of comparisons.",
    "Held or did not hold: the interval is wholly above or below zero. Undecided: it contains "
    "zero, or the seeds have no spread to estimate it from; more seeds may decide. Not tested: the "
    "subnet exceeds the claim's budget.",
]
