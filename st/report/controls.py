"""What a result owes to the teacher, the re-initialisation and the search: comparisons of a row
with its controls, and the lines of params.yaml that would add the controls that are missing."""

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml

from st.report.margins import CONFIDENCE, Margin

ALIKE = 1.05  # sizes that differ by less are not mentioned

Row = dict[str, Any]


@dataclass(frozen=True)
class Control:
    """A row beside another that lacks one of its parts, and by how much it is more accurate.

    `what` the other is, and what `also` sets it apart ("" if nothing does), so that nobody takes it
    for a clean one. Its interval is that of a single comparison at 95 %.
    """

    method: str
    opponent: str
    what: str
    also: str
    margin: Margin
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        label = f"{self.opponent}; also {self.also}" if self.also else self.opponent
        sign, margin = self.margin.sign(), self.margin
        verdict = {1: f"{self.method} is better", -1: f"{self.method} is worse", 0: "undecided"}
        reason = f"; {margin.why_undecided()}" if not sign else ""
        return f"Against {self.what} ({label}): {verdict[sign]}, {margin}{reason}."


def controls(
    rows: list[Row],
    row: Row,
    runs: dict[str, pd.DataFrame],
    correct: dict[str, np.ndarray],
    images: str,
) -> Iterator[Control]:
    """Those of `rows` that are controls of `row`. `correct`: as in verdicts.py, of one
    architecture; `images`: what they answer to."""
    name = row["method"]
    for other in rows:
        if "search" not in other or other["method"] == name:
            continue
        what = _what(row, other, runs)
        if what:
            margin = Margin(correct[name], correct[other["method"]], images)
            yield Control(name, other["method"], what, _differences(row, other, runs), margin)


def _what(row: Row, other: Row, runs: dict[str, pd.DataFrame]) -> str | None:
    """What `other` is a control of, if of anything."""
    same, anew, taught = other["search"] == row["search"], other["anew"], _taught(other, runs)
    if same and anew and not taught:
        return "the same structure trained anew without a teacher"
    if same and not anew:
        return f"the same structure with init {other['init']}"
    # of other searches only those that differ in nothing else, and those that look at no supernet
    clean = other["supernet"] == row["supernet"] and other["objective"] == row["objective"]
    if not same and anew and taught and (clean or other["blind"]):
        return f"the structure of search {other['search']}, trained anew with a teacher"
    return None


def _taught(row: Row, runs: dict[str, pd.DataFrame]) -> bool:
    return bool(runs[row["method"]]["teacher"].notna().all())


def epochs_of(method: str, runs: dict[str, pd.DataFrame]) -> float:
    """Of a row of the table, the mean over seeds."""
    return runs[method]["epochs"].mean()


def _differences(row: Row, other: Row, runs: dict[str, pd.DataFrame]) -> str:
    """What else sets a control apart."""
    found = []
    if _taught(other, runs) and other["supernet"] != row["supernet"]:
        found.append("another teacher")
    if _taught(other, runs) and other["objective"] != row["objective"]:
        found.append("other losses")
    if not _taught(other, runs) and not other["anew"] and _taught(row, runs):
        found.append("no teacher")
    epochs = epochs_of(other["method"], runs), epochs_of(row["method"], runs)
    if epochs[0] != epochs[1]:
        found.append(f"{epochs[0]:.0f} instead of {epochs[1]:.0f} epochs")
    found += [
        f"{key} {value} instead of {row['training'][key]}"
        for key, value in other["training"].items()
        if key != "epochs" and value != row["training"][key]
    ]
    if other["init"] == row["init"] and other["init_options"] != row["init_options"]:
        found.append("other init_options")
    for kept, what in (("params_kept", "parameters"), ("macs_kept", "MACs")):
        sizes = [runs[r["method"]][kept].mean() for r in (other, row)]
        if not 1 / ALIKE <= sizes[0] / sizes[1] <= ALIKE:
            found.append(f"{sizes[0] / sizes[1]:.2g} times the {what}")
    return ", ".join(found)


def missing(
    rows: list[Row], row: Row, runs: dict[str, pd.DataFrame], names: dict[str, list[str]]
) -> Iterator[str]:
    """The controls that a subnet's row needs and the grid has not, as lines for params.yaml.
    `names`: of the params file's parts, by section."""
    subnets = [r for r in rows if "search" in r and r["anew"] and r["method"] != row["method"]]
    # a control is trained anew, whatever the row is
    anew = {
        k: v for k, v in row["spec"].items() if row["anew"] or k not in ("init", "init_options")
    }
    if _taught(row, runs) and not any(
        r["search"] == row["search"]
        and not _taught(r, runs)
        and epochs_of(r["method"], runs) == epochs_of(row["method"], runs)
        for r in subnets
    ):
        line = _line(
            _free(f"{row['method']}-no-teacher", names["methods"]), anew | {"objective": {"ce": 1}}
        )
        yield f"Missing control, the same structure without a teacher; add to methods: {line}"
    if row["blind"]:
        return
    if not any(
        r["blind"]
        and r["supernet"] == row["supernet"]
        and r["objective"] == row["objective"]
        and (r["budget"] == row["budget"] or not row["budget"])
        and _lasts(r) == _lasts(row)
        for r in subnets
    ):
        criterion = row["no_search"]
        search = _free(f"{row['search']}-{criterion}", names["searches"])
        budget = row["budget"] or {  # of a published structure: its size
            bound: math.ceil(1e4 * runs[row["method"]][f"{bound}_kept"].max()) / 1e4
            for bound in ("params", "macs")
        }
        spec = {"supernet": row["supernet"], "criterion": criterion, "budget": budget}
        method = _line(
            _free(f"{row['method']}-{criterion}", names["methods"]), anew | {"search": search}
        )
        same = "the same teacher" if _taught(row, runs) else "the same"
        yield (
            f"Missing control, {same} without the search; add to searches: "
            f"{_line(search, spec)} and to methods: {method}"
        )


def as_long(
    rows: list[Row], row: Row, runs: dict[str, pd.DataFrame], names: dict[str, list[str]]
) -> Iterator[str]:
    """The supernet that the claim needs to be compared with and the grid has not: one that was
    trained as long as the row's subnet."""
    supernets = [r for r in rows if "search" not in r]
    epochs = math.ceil(epochs_of(row["method"], runs))
    if all(epochs_of(r["method"], runs) < epochs for r in supernets):
        spec = next(r["spec"] for r in supernets if r["supernet"] == row["supernet"])
        spec = {**spec, "training": {**spec.get("training", {}), "epochs": epochs}}
        line = _line(_free(f"{row['supernet']}-{epochs}", names["supernets"]), spec)
        yield f"Missing control, the supernet trained as long; add to supernets: {line}"


def _lasts(row: Row) -> tuple:
    return row["training"]["epochs"], row["epoch_rule"], row["max_epoch_factor"]


def _free(name: str, taken: Collection[str]) -> str:
    return name if name not in taken else _free(f"{name}-2", taken)


def _line(name: str, section: dict[str, Any]) -> str:
    """`name: {...}` as it stands in params.yaml."""
    plain = json.loads(json.dumps(section))  # yaml refuses the command line's kind of dict
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**6)
    return f"{name}: {text.strip()}"
