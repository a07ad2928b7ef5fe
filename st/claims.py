"""What the runs say about the paper's claim, in generated sentences.

The claim: a subnet with at most 1/10 of the parameters and 1/2 of the computation, trained anew
under its supernet's supervision, is more accurate than that supernet.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from st.job import Job

PARAMS, MACS = 1 / 10, 1 / 2
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Margin:
    """Accuracy of one method minus another's, in points, paired by seed.

    `low` and `high` bound the mean at 95 % confidence (Student's t over seeds). They are None where
    the seeds have no spread to estimate it from: one seed, or the same margin in all of them.
    """

    mean: float
    low: float | None
    high: float | None
    wins: int
    ties: int
    seeds: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes zero, otherwise 0: the seeds do not decide."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return 0
        return 1 if self.mean > 0 else -1

    def __str__(self) -> str:
        text = f"{signed(self.mean)} points"
        if self.low is not None and self.high is not None:
            text += f", 95 % interval {signed(self.low)} to {signed(self.high)}"
        text += f", better in {self.wins} of {self.seeds} seed{'s' * (self.seeds > 1)}"
        return text + (f" and equal in {self.ties}" if self.ties else "")

    def why_undecided(self) -> str:
        if self.seeds == 1:
            return "one seed has no spread to judge it by"
        if self.low is None:
            return "the same margin in all seeds gives no spread to judge it by"
        return "the interval contains zero"


@dataclass(frozen=True)
class Claim:
    """The verdict on one method. `outcome`: held, did not hold, undecided or not tested."""

    dataset: str
    architecture: str
    method: str
    outcome: str
    sentence: str
    controls: list[str] = field(default_factory=list)


def signed(number: float) -> str:
    """Two decimals, always with a sign; -0.00 is 0.00."""
    text = f"{number:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def margin(one: pd.DataFrame, other: pd.DataFrame) -> Margin:
    """`one` and `other`: runs of two methods (columns seed and accuracy) with the same seeds."""
    accuracy = [runs.set_index("seed")["accuracy"] for runs in (one, other)]
    # rounding keeps the errors of binary fractions from making ties look like wins
    points = (accuracy[0] - accuracy[1]).round(9).to_numpy()
    count, mean, low, high = len(points), float(points.mean()), None, None
    if count > 1 and np.ptp(points) > 0:
        from scipy.special import stdtrit  # scipy.stats takes a second to import

        half = stdtrit(count - 1, (1 + CONFIDENCE) / 2) * points.std(ddof=1) / np.sqrt(count)
        low, high = mean - float(half), mean + float(half)
    return Margin(mean, low, high, int((points > 0).sum()), int((points == 0).sum()), count)


def claims(job: Job, runs: pd.DataFrame) -> list[Claim]:
    """A verdict per data set, architecture and headline method (see `headline`)."""
    found = []
    for (dataset, architecture), group in runs.groupby(["dataset", "architecture"], sort=False):
        by_method = dict(iter(group.groupby("method", sort=False)))
        rows = job["rows"][architecture]
        for row in headline(rows, by_method):
            outcome, sentence = _verdict(rows, row, by_method)
            controls = list(_controls(rows, row, by_method))
            sentence = f"{architecture} on {dataset}: {sentence}"
            found.append(Claim(dataset, architecture, row["method"], outcome, sentence, controls))
    return found


def headline(rows: list[dict[str, Any]], runs: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """The rows that the claim is about: re-initialised and supervised by a teacher.

    Those called st (st-..., st2, ...) if there are any, otherwise all.
    """
    subnets = [r for r in rows if r.get("init") == "random" and _taught(runs[r["method"]])]
    named = [r for r in subnets if re.match(r"st(?![a-z])", r["method"])]
    return named or subnets


def _taught(runs: pd.DataFrame) -> bool:
    return bool(runs["teacher"].notna().all())


def _name_of_supernet(rows: list[dict[str, Any]], row: dict[str, Any]) -> str:
    return next(r["method"] for r in rows if "search" not in r and r["supernet"] == row["supernet"])


def _verdict(rows, row, runs) -> tuple[str, str]:
    """(outcome, sentence)"""
    subnet, name = runs[row["method"]], row["method"]
    supernet = _name_of_supernet(rows, row)
    # the largest over seeds: each of them must keep to the claim's budget
    params, macs = subnet["params_kept"].max(), subnet["macs_kept"].max()
    size = f"{100 * params:.2f} % of the parameters and {100 * macs:.2f} % of the MACs"
    whose = f"{supernet}, the supernet its structure was found in"
    found = margin(subnet, runs[supernet])
    if params > PARAMS or macs > MACS:
        return "not tested", (
            f"the claim is NOT TESTED in this run: {name} keeps {size}, more than the claim's "
            f"10 % and 50 %. Its margin over {whose}: {found}."
        )
    size = f"with {'at most ' if found.seeds > 1 else ''}{size}"
    if found.sign > 0:
        return "held", (
            f"the claim HELD in this run: {name}, {size}, is more accurate than {whose} ({found})."
        )
    if found.sign < 0:
        return "did not hold", (
            f"the claim DID NOT HOLD in this run: {name}, {size}, is less accurate than {whose} "
            f"({found})."
        )
    return "undecided", (
        f"the claim IS UNDECIDED in this run: {name}, {size}, against {whose}: {found}; "
        f"{found.why_undecided()}, so these seeds do not decide which is more accurate."
    )


def _controls(rows, row, runs) -> Iterator[str]:
    """Sentences on what the result owes to the teacher, the re-initialisation and the search."""
    subnet, name = runs[row["method"]], row["method"]
    reference, supernet = rows[0]["method"], _name_of_supernet(rows, row)
    if supernet != reference:
        what = "Against the reference supernet, another training of the same network"
        yield _compare(f"{what} ({reference})", name, subnet, runs[reference])
    for other in rows:
        if "search" not in other or other["method"] == name:
            continue
        control = runs[other["method"]]
        same_structure, anew = other["search"] == row["search"], other["init"] == "random"
        if same_structure and anew and not _taught(control):
            what = "Against the same structure trained anew without a teacher"
        elif same_structure and not anew:
            what = f"Against the same structure with init {other['init']}"
        elif not same_structure and anew and _taught(control):
            what = f"Against the structure of search {other['search']}, trained anew with a teacher"
        else:
            continue
        changes = _differences(row, other, subnet, control)
        label = f"{other['method']}; also {changes}" if changes else other["method"]
        yield _compare(f"{what} ({label})", name, subnet, control)


def _differences(row, other, subnet, control) -> str:
    """What else sets a control apart, so that nobody takes it for a clean one."""
    taught = _taught(control)
    found = []
    if taught and other["supernet"] != row["supernet"]:
        found.append("another teacher")
    if taught and other["objective"] != row["objective"]:
        found.append("other losses")
    if not taught and other["init"] != "random":
        found.append("no teacher")
    epochs = [runs["epochs"].mean() for runs in (control, subnet)]
    if epochs[0] != epochs[1]:
        found.append(f"{epochs[0]:.0f} instead of {epochs[1]:.0f} epochs")
    return ", ".join(found)


def _compare(what: str, name: str, one: pd.DataFrame, other: pd.DataFrame) -> str:
    found = margin(one, other)
    verdict = {1: f"{name} is better", -1: f"{name} is worse", 0: "undecided"}[found.sign]
    reason = f"; {found.why_undecided()}" if found.low is None else ""
    return f"{what}: {verdict}, {found}{reason}."
