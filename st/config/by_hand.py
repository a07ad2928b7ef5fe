"""Phases that a person runs without the workflow, by the names of their experiments."""

from pathlib import Path
from typing import Any

from st.config.grid import (
    DATA,
    HISTORY,
    INIT,
    MODEL,
    REWIND,
    STRUCTURE,
    SUPERNET,
    SUPERNET_HISTORY,
    Grid,
)
from st.core.errors import StError
from st.core.job import Job
from st.core.registry import closest


def by_hand(grid: Grid, phase: str, experiment: str | None) -> tuple[Job, dict[str, Any], str]:
    """Job, files and label for a phase that a person runs without the workflow.

    `experiment` is the folder below results/PHASE/: DATASET for prepare,
    DATASET/ARCHITECTURE/seedN for evaluate, and one level more, the name of a supernet, search
    or method, for the others.
    """
    if phase == "report":
        return grid.report(), {"folder": Path("results")}, ""
    levels = {"prepare": 1, "evaluate": 3}.get(phase, 4)
    parts = (experiment or "").strip("/").removeprefix(f"results/{phase}/").split("/")
    if len(parts) != levels:
        shape = "/".join(["DATASET", "ARCHITECTURE", "seedN", "NAME"][:levels])
        raise StError(f"{experiment}: {phase} needs {shape}")
    dataset, architecture, seed, name = (*parts, "", "", "")[:4]
    _known(dataset, grid.params.datasets, "data set")
    if phase == "prepare":
        return grid.prepare(dataset), {"data": Path(DATA.format(dataset=dataset))}, dataset
    _known(architecture, grid.params.architectures, "architecture")
    _known(seed, [f"seed{n}" for n in grid.params.seeds], "seed")
    number = int(seed.removeprefix("seed"))

    def place(pattern: str | None, **names: str) -> Path | None:
        words = {"dataset": dataset, "architecture": architecture, "seed": number, **names}
        return Path(pattern.format(**words)) if pattern else None

    label = "/".join(parts)
    if phase == "pretrain":
        _known(name, grid.params.supernets, "supernet")
        patterns = {"model": SUPERNET, "rewind": REWIND, "history": SUPERNET_HISTORY}
        files: dict[str, Any] = {key: place(p, supernet=name) for key, p in patterns.items()}
        job = grid.pretrain(dataset, architecture, number, name)
        return job, {**files, "data": place(DATA)}, label
    if phase == "search":
        _known(name, grid.params.searches, "search")
        supernet, rewinds = grid.params.searches[name].supernet, grid.search_needs_rewind(name)
        files = {
            "supernet": place(SUPERNET, supernet=supernet),
            "rewind": place(REWIND, supernet=supernet) if rewinds else None,
            "data": place(DATA) if grid.search_needs_data(name) else None,
            "structure": place(STRUCTURE, search=name),
        }
        return grid.search(dataset, architecture, number, name), files, label
    if phase == "evaluate":
        models, metrics, predictions = grid.evaluated(architecture)
        files = {
            "data": place(DATA),
            "models": [place(p) for p in models],
            "metrics": [place(p) for p in metrics],
            "predictions": [place(p) for p in predictions],
        }
        return grid.evaluate(dataset, architecture, number), files, label
    _known(name, grid.methods(architecture), f"method for {architecture}")
    supernet = grid.teacher(name)
    if phase == "initialize":
        files = {
            "structure": place(STRUCTURE, search=grid.params.methods[name].search),
            "source": place(grid.init_source(name), supernet=supernet),
            "init": place(INIT, method=name),
        }
        return grid.initialize(architecture, number, name), files, label
    patterns = {"init": INIT, "model": MODEL, "history": HISTORY}
    files = {key: place(p, method=name) for key, p in patterns.items()}
    files["teacher"] = place(SUPERNET, supernet=supernet) if grid.needs_teacher(name) else None
    return (
        grid.train(dataset, architecture, number, name),
        {**files, "data": place(DATA)},
        label,
    )


def _known(name: str, known: Any, what: str) -> None:
    if name not in known:
        raise StError(f"unknown {what} '{name}'; {closest(name, known)}")
