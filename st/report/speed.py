"""Where fewer MACs did not make a network faster, in words, and why."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from st.core.job import Job
from st.networks.kinds import WITH_MACS
from st.report.tables import read_metrics

FEWER = 0.9  # of the supernet's MACs: what is above is not pruned to speak of
FASTER = 0.95  # of the supernet's time: what is above is not faster
Runs = Sequence[dict[str, Any]]


def not_faster(job: Job, folder: str | Path) -> Iterator[str]:
    """A sentence for each structure whose networks take the time of their reference supernet with
    fewer MACs. What operators take is told where it was measured, on CPUs."""
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for run in read_metrics(job, folder):
        rows = found.setdefault((run["dataset"], run["architecture"]), {})
        rows.setdefault(run["method"], []).append(run)
    for (dataset, architecture), rows in found.items():
        reference = next(iter(rows.values()))
        alike: dict[tuple, list[str]] = {}
        for name, runs in rows.items():
            macs = median(run["macs_kept"] for run in runs)
            time = _time(runs, reference)
            if macs <= FEWER and time > FASTER:
                alike.setdefault(tuple(run["macs"] for run in runs), []).append(name)
        for names in alike.values():
            times = [_time(rows[name], reference) for name in names]
            yield (
                f"{', '.join(names)} of {architecture} on {dataset}: not faster with fewer MACs. "
                + _told(rows[names[0]], reference, times, job["latency_batch"])
            )


def _time(runs: Runs, reference: Runs) -> float:
    """The share of the reference's time; by seed, because seeds may be of different machines."""
    pairs = zip(runs, reference, strict=True)
    return median(run["latency_ms"] / full["latency_ms"] for run, full in pairs)


def _told(runs: Runs, reference: Runs, times: list[float], batch: int) -> str:
    macs = median(run["macs_kept"] for run in runs)
    low, high = round(100 * min(times)), round(100 * max(times))
    spread = f"{low} %" if low == high else f"{low} to {high} %"
    images = f"{batch} image{'s' * (batch > 1)}"
    text = f"{100 * macs:.0f} % of the supernet's MACs take {spread} of its time, in batches of "
    text += f"{images}."
    own, full = _parts(runs), _parts(reference)
    if not own or not full:
        return text
    multiplying, before = (_multiplying(parts) for parts in (own, full))
    total = sum(ms for _, ms in own.values())
    rest = [(kind, ms) for kind, (_, ms) in own.items() if kind not in WITH_MACS][:3]
    named = ", ".join(f"{kind} {100 * ms / total:.0f} %" for kind, ms in rest)
    text += (
        f" What multiplies takes {100 * multiplying / before:.0f} % of what it takes in the "
        f"supernet; {100 * (1 - multiplying / total):.0f} % of the network's time are other "
        f"operators ({named})."
    )
    count, count_full = (sum(n for n, _ in parts.values()) for parts in (own, full))
    if count > count_full:
        more = [kind for kind in own if own[kind][0] > full.get(kind, (0, 0.0))[0]]
        text += f" It has {count:.0f} operators, the supernet {count_full:.0f}: more for "
        text += f"{' and '.join(more)}."
    if multiplying / before > 2 * macs:
        text += (
            f" Its operators take {1000 * total / count:.1f} µs each on average: with so little "
            "arithmetic, calling them is what takes the time."
        )
    return text


def _multiplying(parts: dict[str, tuple[float, float]]) -> float:
    """The ms of the operators that MACs are of."""
    return max(sum(ms for kind, (_, ms) in parts.items() if kind in WITH_MACS), 1e-9)


def _parts(runs: Runs) -> dict[str, tuple[float, float]]:
    """By kind of operators their number and ms, medians over seeds, the slowest first; empty where
    they were not measured."""
    told = [run["operators"] for run in runs if run.get("operators")]
    if len(told) < len(runs):
        return {}
    kinds = dict.fromkeys(kind for parts in told for kind in parts)
    found = {}
    for kind in kinds:
        entries = [parts.get(kind, {"operators": 0, "ms": 0.0}) for parts in told]
        count = median(entry["operators"] for entry in entries)
        found[kind] = count, median(entry["ms"] for entry in entries)
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))
