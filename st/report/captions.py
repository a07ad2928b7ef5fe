"""What the report says in words, beside the claim (verdicts.py): captions and definitions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from st.core.job import Job
from st.data.split import TESTED
from st.report import inert
from st.report.columns import COLUMNS, GROUP
from st.report.speed import not_faster
from st.report.tables import PROCESSOR


def split(job: Job, dataset: str) -> str:
    """The images on which accuracies of a data set were measured."""
    return job["datasets"][dataset] or TESTED


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
    batch = job["latency_batch"]
    facts = {
        "where": where,
        "spread": f", mean ± sample standard deviation over {seeds} seeds"
        if seeds > 1
        else ", one seed",
        "median": "median over seeds, " if seeds > 1 else "",
        "images": f"{batch} image{'s' * (batch > 1)}",
        "devices": devices(_trained(job, runs)),
        "captured": ", on a GPU as captured passes (where its log does not say otherwise) with "
        "weights already in what is computed in, beside what other jobs compute there"
        if set(_trained(job, runs)["device"]) != {"CPU"}
        else "",
        "compared": _compared(job, runs),
        "scaled": _scaled(job, runs),
    }
    meanings = [column.meaning.format(**facts) for column in COLUMNS if column.meaning]
    return " ".join(meanings) + _files(job)


def _compared(job: Job, runs: pd.DataFrame) -> str:
    """What latencies can be compared: jobs of a run may be done by several machines."""
    trained, by = _trained(job, runs), [*GROUP, "seed"]
    facts = [(runs, PROCESSOR), (trained, "device")]
    machines = [" / ".join(dict.fromkeys(rows[fact])) for rows, fact in facts]
    several = [rows[fact].nunique() > 1 for rows, fact in facts]
    if not any(several):
        return "it compares networks on this machine and says little about others"
    named = "; ".join(found for found, many in zip(machines, several, strict=True) if many)
    if any(rows.groupby(by)[fact].nunique().max() > 1 for rows, fact in facts):
        return (
            f"rows were measured on different machines ({named}; runs.csv says which): it compares "
            "only those of the same one"
        )
    return (
        "all rows of a group and seed were measured on one machine, but not all groups and seeds "
        f"on the same one ({named}): it compares the rows of a group"
    )


def _files(job: Job) -> str:
    """Which rows are files for other programs."""
    files = {row["method"]: row for rows in job["exports"].values() for row in rows}
    if not files:
        return ""
    kinds = dict.fromkeys(row["to"] for row in files.values())
    told = "; ".join(f"{kind}: {FILES.get(kind, kind)}" for kind in kinds)
    return (
        f" {', '.join(files)}: these networks as files for other programs, on the CPU ({told}). "
        "Their parameters and MACs are the networks' own."
    )


def _scaled(job: Job, runs: pd.DataFrame) -> str:
    """Which rows of the epoch rule `computation` did not have their supernet's: because of their
    max_epoch_factor, or because the epochs that are scaled are not the supernet's."""
    shares: dict[str, list[float]] = {}
    for (_, architecture), group in runs.groupby([*GROUP], sort=False):
        rows, made = job["rows"][architecture], group.set_index("method")
        # epochs x MACs in those of the reference supernet
        spent = made["epochs"] * made["macs_kept"]
        whole = {row["supernet"]: row["method"] for row in rows if "search" not in row}
        for row in rows:
            supernets = spent[[whole[row["supernet"]]]].mean()
            # a supernet that came with its weights was not trained here
            if row.get("epoch_rule") == "computation" and supernets:
                share = 100 * spent[[row["method"]]].mean() / supernets
                shares.setdefault(row["method"], []).append(share)
    # epochs are whole ones
    apart = {name: found for name, found in shares.items() if any(abs(s - 100) > 2 for s in found)}
    if not apart:
        return ""
    told: dict[str, list[str]] = {}
    for name, found in apart.items():
        low, high = round(min(found)), round(max(found))
        told.setdefault(f"{low} %" if low == high else f"{low} to {high} %", []).append(name)
    much = "; ".join(f"{', '.join(names)} {share}" for share, names in told.items())
    return (
        "; where epochs are scaled by the computation that a network saves, at most by "
        f"max_epoch_factor, training it had of its supernet's computation: {much}"
    )


def _trained(job: Job, runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that are no files for other programs."""
    files = [row["method"] for rows in job["exports"].values() for row in rows]
    return runs[~runs["method"].isin(files)]


def devices(runs: pd.DataFrame) -> str:
    """The devices of all runs, each once."""
    return " / ".join(dict.fromkeys(runs["device"]))


def provenance(job: Job, runs: pd.DataFrame) -> list[tuple[str, str]]:
    """What was run, on what: (subject, text) pairs."""

    def found(column: str) -> str:
        return " / ".join(dict.fromkeys(runs[column].astype(str)))

    return [
        ("Data", "; ".join(f"{name}, evaluated on {split(job, name)}" for name in job["datasets"])),
        ("Architectures", ", ".join(job["rows"])),
        ("Seeds", ", ".join(map(str, job["seeds"]))),
        ("Networks", f"{len(_trained(job, runs))} trained and evaluated"),
        ("Evaluated on", devices(runs)),
        ("Software", f"search-and-train {found('st')}, PyTorch {found('torch')}"),
    ]


def environment(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the networks were trained and evaluated (see tables.environment), as (subject, text)
    pairs."""
    pairs = [("Parameters", f"hash {found['params']}")]
    for name, data in found["data"].items():
        classes = data["classes"]
        named = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        source = f", source {data['fingerprint']}" if data["fingerprint"] else ""
        text = f"{len(classes)} classes ({named}), prepared {data['sha256'][:16]}{source}"
        pairs.append((f"Data {name}", text))
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
        length = (
            f"{low} epoch{'' if low == 1 else 's'}" if low == high else f"{low} to {high} epochs"
        )
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
    files = {row["method"]: row for found in job["exports"].values() for row in found}
    for name, row in files.items():
        kind = FILES.get(row["to"], f"as a file of kind {row['to']}")
        yield name, f"the network of row {row['of']} {kind}."


FILES = {
    "onnx": "as an ONNX file, run by onnxruntime",
    "int8": "as an ONNX file in 8-bit integers, quantised after training, run by onnxruntime",
    "torch": "as torch.export's program, run by torch",
    "module": "as source code in plain PyTorch, run by torch",
}

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


def notes(job: Job, folder: str | Path) -> Iterator[str]:
    """Sentences about losses that did next to nothing: their rows are not what they are called;
    about penalties of which the same is true; then about networks that fewer MACs did not make
    faster."""
    for dataset, architecture, row, loss, share, seeds in inert.without_effect(job, folder):
        where = f" in {seeds} of {len(job['seeds'])} seeds" if seeds < len(job["seeds"]) else ""
        yield (
            f"{row} of {architecture} on {dataset}: the loss {loss} did next to nothing{where}; "
            f"its share of the gradient was {share:.2g} % (median of the epochs)."
        )
    for dataset, architecture, search, supernet, near, removed in inert.ranked_in_use(job, folder):
        yield (
            f"search {search} of {architecture} on {dataset}: {100 * removed:.0f} % of the "
            f"channels were removed, and of the BatchNorm scales of supernet {supernet}, which "
            f"rank them, {100 * near:.1f} % are near zero. The L1 penalty (`sparsity`) was too "
            "weak, the training too short, or there was none: what was removed was in use."
        )
    yield from not_faster(job, folder)


VERDICTS = [
    "The claim under test: a subnet with at most 10 % of the parameters and 50 % of the MACs, "
    "trained anew under its supernet's supervision, is more accurate than that supernet.",
    "Every row that starts anew in a structure which a search found, and learns from its supernet, "
    "makes the claim (controls whose search looks at nothing do not). It must beat the supernet "
    "that its structure was found in, the reference supernet, and any supernet of the run "
    "that was trained for longer, in this order: the next comparison is made only where the one "
    "before was decided in its favour. Where all supernets were trained for less than the row, "
    "a claim that held says so: more epochs alone may be the reason.",
    "A row that `claims` in the params file names must beat what is named there instead, in this "
    "order, whatever its size and training: such a verdict is about the params file's claim.",
    "Margins are differences in accuracy points (percent of images), paired by seed and image and "
    "averaged.",
    "95 % intervals hold both the spread over seeds (Student's t) and the sampling of the test "
    "images (normal): the half-widths of the two are added in quadrature, after an analysis of "
    "variance of seeds x images.",
    "Held or did not hold is decided by an interval that is corrected for the number of verdicts "
    "in this report (Holm): the rows share the level of 5 %. Where it differs from the 95 % "
    "interval both are given. Undecided: the corrected interval contains zero, or one seed has no "
    "spread to judge it by. Not tested: the subnet exceeds the claim's budget.",
    "Comparisons with controls are single ones at 95 %, not corrected.",
    "verdicts.json has all numbers, and by seed how many images only one of the two classified "
    "correctly (McNemar's counts).",
]
