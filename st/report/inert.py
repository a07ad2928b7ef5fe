"""What did nothing: losses without a share of the gradient, penalties that made nothing sparse."""

from pathlib import Path

import numpy as np

from st.config.layout import STRUCTURE
from st.core.files import read_json
from st.core.job import Job
from st.core.shares import inert
from st.report.tables import history, place, runs_of

FEW = 0.1  # of the removed channels: fewer scales near zero than that tell nothing


def without_effect(job: Job, folder: str | Path) -> list[tuple[str, str, str, str, float, int]]:
    """Losses that did next to nothing (see `st.core.shares.inert`): (data set, architecture, row,
    loss, its median share of the gradient in percent, of the seed in which it is largest, number of
    seeds), in the grid's order."""
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for names, row in runs_of(job):
        for loss, part in inert(history(place(row["history"], folder, **names))).items():
            key = (names["dataset"], names["architecture"], names["method"], loss)
            found.setdefault(key, []).append(part)
    return [(*key, max(parts), len(parts)) for key, parts in found.items()]


def ranked_in_use(job: Job, folder: str | Path) -> list[tuple[str, str, str, str, float, float]]:
    """Searches by BatchNorm scales of which next to none were near zero: (data set, architecture,
    search, supernet, the share that is, the share of the channels that was removed), means over
    seeds, in the grid's order."""
    searches: dict[tuple[str, str, str, str], dict[int, tuple[float, float]]] = {}
    for names, row in runs_of(job):
        if "search" not in row:
            continue
        key = (names["dataset"], names["architecture"], row["search"], row["supernet"])
        shares = searches.setdefault(key, {})
        if names["seed"] in shares:  # another row's, of the same search
            continue
        structure = read_json(place(STRUCTURE, folder, **names, search=row["search"]))
        if "scales_near_zero" in structure:
            kept, full = (sum(structure[of].values()) for of in ("widths", "supernet_widths"))
            shares[names["seed"]] = structure["scales_near_zero"], 1 - kept / full
    means = {
        key: np.mean(list(shares.values()), axis=0) for key, shares in searches.items() if shares
    }
    return [
        (*key, float(near), float(removed))
        for key, (near, removed) in means.items()
        if near < FEW * removed
    ]
