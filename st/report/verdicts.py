"""What the runs say about the paper's claim: verdicts in generated sentences.

The claim: a subnet with at most 1/10 of the parameters and 1/2 of the computation, trained anew
under its supernet's supervision, is more accurate than that supernet. It HELD where the subnet is
surely more accurate than the supernet that its structure was found in, and than the reference
supernet, and than any supernet of the run that was trained for longer. If it was itself trained
longer than all of them, the verdict says so.

A row that the params file's `claims` names must beat what is named there, whatever its budget and
training: that is the file's claim, not the paper's.

Each row that makes the claim is compared with these supernets in this order, and the next
comparison is made only where the one before was decided in the subnet's favour. Several rows are
several chances, so the rows of a report share the level of 5 % (Holm 1979): each has 5 % over the
number of rows, and one whose comparisons are all decided leaves its level to the others (a fixed
sequence within each row, after Bretz et al. 2009). So in at most 5 % of all reports any comparison
is decided that should not be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd

from st.core.job import Job
from st.report.captions import split
from st.report.controls import Control, as_long, controls, epochs_of, missing
from st.report.margins import CONFIDENCE, Margin, between, signed

PARAMS, MACS = 1 / 10, 1 / 2
OWN = "the params file's claim"  # which is bound to no budget
LONGEST = "; it was trained longer than any supernet, which may be the reason"

Answers = dict[tuple[str, str, str], np.ndarray]  # (data set, architecture, row) -> correct


@dataclass(frozen=True)
class Comparison:
    """A subnet against one supernet (or whatever row `claims` in the params file names).

    `decided`: 1 more accurate, -1 less, 0 not decided, None not tested, because an earlier
    comparison of the row was not decided in its favour. `confidence`: what the verdict used.
    """

    opponent: str
    role: str
    margin: Margin
    decided: int | None = None
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        text = f"against {self.opponent}, {self.role}: {self.margin}"
        corrected = self.margin.interval(self.confidence)
        if corrected and self.confidence > CONFIDENCE + 1e-9:
            text += f"; corrected for the number of verdicts {between(corrected)}"
        return text


@dataclass(frozen=True)
class Claim:
    """The verdict on one row. `about`: what it is called, "the claim" where it is the paper's;
    `missing`: controls that the grid has not; `longest`: it was trained longer than any supernet;
    `outcome`: held, did not hold, undecided or not tested."""

    dataset: str
    architecture: str
    method: str
    about: str
    comparisons: list[Comparison]
    controls: list[Control]
    missing: list[str]
    longest: bool = False
    outcome: str = "not tested"
    sentence: str = ""

    @property
    def short(self) -> str:
        """One line for a terminal: the comparison that decided the outcome, or left it open."""
        better = [c.decided == 1 for c in self.comparisons]
        last = self.comparisons[better.index(False) if False in better else -1]
        points = f"{signed(last.margin.mean)} points"
        interval = last.margin.interval(last.confidence)
        sure = f" ({100 * last.confidence:.3g} % interval {between(interval)})" if interval else ""
        verb = {"undecided": "is ", "not tested": "was "}.get(self.outcome, "")
        return (
            f"{self.architecture} on {self.dataset}: {self.about} {verb}{self.outcome.upper()} for "
            f"{self.method}: {points}{sure} against {last.opponent}"
            + (LONGEST if self.longest and self.outcome == "held" else "")
        )

    def to_json(self, seeds: list[int]) -> dict[str, Any]:
        """For verdicts.json: all numbers, with McNemar's counts by seed."""
        return {
            "dataset": self.dataset,
            "architecture": self.architecture,
            "method": self.method,
            "about": self.about,
            "outcome": self.outcome,
            "sentence": self.sentence,
            "comparisons": [
                {
                    "opponent": one.opponent,
                    "role": one.role,
                    "decided": one.decided,
                    "corrected_confidence": one.confidence,
                    "corrected_interval": one.margin.interval(one.confidence),
                    **_numbers(one.margin, seeds, one.confidence),
                }
                for one in self.comparisons
            ],
            "controls": [
                {
                    "opponent": one.opponent,
                    "what": one.what,
                    "also": one.also,
                    "decided": one.margin.sign(),
                    "sentence": str(one),
                    **_numbers(one.margin, seeds),
                }
                for one in self.controls
            ],
            "missing": self.missing,
            "trained_longest": self.longest,
        }


def _numbers(margin: Margin, seeds: list[int], confidence: float = CONFIDENCE) -> dict[str, Any]:
    return {
        "points": margin.mean,
        "interval": margin.interval(),
        "p_value": margin.p_value() if margin.seeds > 1 else None,
        "seeds_needed": margin.seeds_needed(confidence),
        "images": margin.images,
        "only_one_correct": {
            seed: {"subnet": a, "opponent": b}
            for seed, (a, b) in zip(seeds, margin.mcnemar, strict=True)
        },
    }


def claims(job: Job, runs: pd.DataFrame, answers: Answers) -> list[Claim]:
    """A verdict for every row that makes the claim (see `claimants`).

    `runs`: as `st.report.tables.collect` returns them; `answers`: whether each row classified each
    test image correctly, bool (seeds, images) in the job's order of seeds.
    """
    found = []
    for (dataset, architecture), group in runs.groupby(["dataset", "architecture"], sort=False):
        rows, images = job["rows"][architecture], split(job, dataset)
        measured = dict(iter(group.groupby("method", sort=False)))
        correct = {row["method"]: answers[dataset, architecture, row["method"]] for row in rows}
        for row in claimants(rows, job["claims"], measured):
            name, own = row["method"], row["method"] in job["claims"]
            comparisons = [
                Comparison(other, role, Margin(correct[name], correct[other], images))
                for other, role in opponents(rows, row, job["claims"], measured)
            ]
            beside = list(controls(rows, row, measured, correct, images))
            shorter = [] if own else list(as_long(rows, row, measured, job["names"]))
            absent = [*missing(rows, row, measured, job["names"]), *shorter]
            about = OWN if own else "the claim"
            claim = Claim(
                dataset, architecture, name, about, comparisons, beside, absent, bool(shorter)
            )
            found.append((claim, measured[name], own or _within(measured[name])))
    margins = [[one.margin for one in claim.comparisons] for claim, _, within in found if within]
    decisions = iter(decide(margins))
    return [
        _decided(claim, subnet, next(decisions) if within else None)
        for claim, subnet, within in found
    ]


def _decided(claim: Claim, subnet: pd.DataFrame, decision: tuple[list[int], float] | None) -> Claim:
    """The claim with its outcome; no `decision`: not within the budget."""
    signs, confidence = decision or ([], CONFIDENCE)
    comparisons = [
        replace(one, decided=sign, confidence=confidence)
        for one, sign in zip_longest(claim.comparisons, signs)
    ]
    outcome, sentence = _verdict(claim.method, subnet, comparisons, bool(decision), claim.about)
    if claim.longest and outcome == "held":
        sentence = f"{sentence.removesuffix('.')}{LONGEST}."
    sentence = f"{claim.architecture} on {claim.dataset}: {sentence}"
    return replace(claim, comparisons=comparisons, outcome=outcome, sentence=sentence)


def claimants(
    rows: list[dict[str, Any]], pairs: dict[str, list[str]], runs: dict[str, pd.DataFrame]
) -> list[dict[str, Any]]:
    """The rows that the claim is about: all that were searched, re-initialised and learn from their
    supernet, whatever they are called, and those that `pairs` (params.yaml's `claims`) names."""

    def makes_it(row: dict[str, Any]) -> bool:
        searched = row.get("anew") and not row["blind"]
        return bool(searched and runs[row["method"]]["teacher"].notna().all())

    return [row for row in rows if row["method"] in pairs or makes_it(row)]


def opponents(
    rows: list[dict[str, Any]],
    row: dict[str, Any],
    pairs: dict[str, list[str]],
    runs: dict[str, pd.DataFrame],
) -> list[tuple[str, str]]:
    """(row, role) of all that a claimant must beat, in the order in which they are tested."""
    if row["method"] in pairs:
        here = {r["method"] for r in rows}
        found = dict.fromkeys(pairs[row["method"]], "as the params file names it")
        return [
            (name, role + _unequal(runs, name, row["method"]))
            for name, role in found.items()
            if name in here
        ]
    supernets = {r["supernet"]: r["method"] for r in rows if "search" not in r}
    own, reference = supernets[row["supernet"]], rows[0]["method"]
    found = {own: "the supernet its structure was found in"}
    if reference != own:
        found[reference] = "the reference supernet"
    epochs = {name: epochs_of(name, runs) for name in supernets.values()}
    for name in sorted(epochs, key=lambda name: epochs[name]):
        if epochs[name] > epochs[own] and name not in found:
            found[name] = "a supernet that was trained for longer"
    return [(name, role + _unequal(runs, name, row["method"])) for name, role in found.items()]


def _unequal(runs: dict[str, pd.DataFrame], name: str, method: str) -> str:
    """The epochs of both, where they differ."""
    other, own = (f"{epochs_of(row, runs):.4g}" for row in (name, method))
    return "" if other == own else f" ({other} epochs, {method} {own})"


def decide(
    rows: Sequence[Sequence[Margin]], level: float = 1 - CONFIDENCE
) -> list[tuple[list[int], float]]:
    """For each row the signs of its comparisons, as far as they are tested, and the confidence.

    Rows share `level`; within a row comparisons are tested in order, while they are positive.
    """
    signs: list[list[int]] = [[] for _ in rows]
    confidence = [1.0] * len(rows)
    while True:
        open_rows = [n for n, row in enumerate(rows) if _open(row, signs[n])]
        tested = False
        for number in open_rows:
            confidence[number] = 1 - level / len(open_rows)
            while _open(rows[number], signs[number]):
                sign = rows[number][len(signs[number])].sign(confidence[number])
                if not sign:
                    break
                signs[number].append(sign)
                tested = True
        if not tested:
            break
    for number, row in enumerate(rows):
        if _open(row, signs[number]):
            signs[number].append(0)
    return list(zip(signs, confidence, strict=True))


def _open(row: Sequence[Margin], signs: list[int]) -> bool:
    return len(signs) < len(row) and -1 not in signs


def _within(subnet: pd.DataFrame) -> bool:
    """Whether each seed keeps to the claim's budget."""
    return subnet["params_kept"].max() <= PARAMS and subnet["macs_kept"].max() <= MACS


def _verdict(
    name: str, subnet: pd.DataFrame, comparisons: list[Comparison], within: bool, about: str
) -> tuple[str, str]:
    """(outcome, sentence)"""
    kept = [
        (subnet["params_kept"].max(), PARAMS, "of the parameters"),
        (subnet["macs_kept"].max(), MACS, "of the MACs"),
    ]
    each = "; ".join(map(str, comparisons))
    if not within:
        most = "up to " if len(subnet) > 1 else ""
        over = [
            f"{most}{100 * share:.2f} % {what}, more than the claim's {100 * bound:.0f} %"
            for share, bound, what in kept
            if share > bound
        ]
        return "not tested", (
            f"{about} is NOT TESTED in this run: {name} keeps {', and '.join(over)}. "
            f"Its margins: {each}."
        )
    size = " and ".join(f"{100 * share:.2f} % {what}" for share, _, what in kept)
    size = f"{name}, with {'at most ' if len(subnet) > 1 else ''}{size},"
    better = [c.opponent for c in comparisons if c.decided == 1]
    if len(better) == len(comparisons):
        strictest = comparisons[-1]
        others = f", and against {_and(better[:-1])}" if better[:-1] else ""
        return "held", (
            f"{about} HELD in this run against {strictest.opponent}, {strictest.role}{others}: "
            f"{size} is more accurate ({each})."
        )
    first = comparisons[len(better)]
    beaten = f"{size} is more accurate than {_and(better)}, but" if better else ""
    if first.decided == -1:
        return "did not hold", (
            f"{about} DID NOT HOLD in this run: {beaten or size} is less accurate than "
            f"{first.opponent}, {first.role} ({each})."
        )
    doubt = f"{beaten} whether it" if better else f"whether {size}"
    return "undecided", (
        f"{about} IS UNDECIDED in this run: {doubt} is more accurate than {first.opponent}, "
        f"{first.role}, is not decided ({each}); "
        f"{first.margin.why_undecided(first.confidence)}."
    )


def _and(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
