"""Phases that a person runs without the workflow, by the names of their experiments."""

from pathlib import Path
from typing import Any

from st.config import wiring
from st.config.changes import is_made
from st.config.grid import Grid
from st.config.layout import Experiment, Files
from st.core.errors import StError
from st.core.job import Job
from st.core.registry import closest


def named_job(grid: Grid, phase: str, experiment: str | None) -> tuple[Job, dict[str, Any], str]:
    """Job, files and label for a phase that a person runs without the workflow.

    `experiment` is the folder below results/PHASE/: DATASET for prepare, DATASET/ARCHITECTURE/seedN
    for evaluate, and one level more, the name of a supernet, search or method, for the others; for
    draw it is DATASET/ARCHITECTURE. Raises StError if the params file has no such experiment, or
    its data set was prepared as the file no longer says.
    """
    parts = [] if phase == "report" else _parts(phase, experiment)
    about = _experiment(grid, phase, parts)
    files = _paths(wiring.files(grid, phase, about))
    data = files.get("data") if phase != "prepare" else None
    if data and data.exists() and not is_made(grid.prepare(about.dataset), data):
        raise StError(
            f"{data}: was prepared with other options, or of other images, than the params file "
            f"says now; prepare it again: st prepare {about.dataset}"
        )
    return grid.job(phase, about), files, "/".join(parts)


def _parts(phase: str, experiment: str | None) -> list[str]:
    levels = {"prepare": 1, "draw": 2, "evaluate": 3}.get(phase, 4)
    parts = (experiment or "").strip("/").removeprefix(f"results/{phase}/").split("/")
    if len(parts) != levels:
        shape = "/".join(["DATASET", "ARCHITECTURE", "seedN", "NAME"][:levels])
        raise StError(f"{experiment}: {phase} needs {shape}")
    return parts


def _experiment(grid: Grid, phase: str, parts: list[str]) -> Experiment:
    """The experiment of these names, if all are known."""
    params = grid.params
    dataset, architecture, seed, name = (*parts, "", "", "", "")[:4]
    number: int | str = ""
    if parts:
        _known(dataset, params.datasets, "data set")
    if parts[1:]:
        _known(architecture, params.architectures, "architecture")
    if parts[2:]:
        _known(seed, [f"seed{n}" for n in params.seeds], "seed")
        number = int(seed.removeprefix("seed"))
    if phase == "draw":
        _known(architecture, grid.imported(), "imported architecture")
    elif phase == "pretrain":
        _known(name, params.supernets, "supernet")
    elif phase == "search":
        _known(name, params.searches, "search")
    elif phase == "deploy":
        _known(name, grid.exports(architecture), f"exported network of {architecture}")
    elif parts[3:]:
        _known(name, grid.methods(architecture), f"method for {architecture}")
    return Experiment(dataset, architecture, number, name)


def _paths(files: Files) -> dict[str, Any]:
    """All files of a job as paths."""

    def path(value: Any) -> Any:
        if isinstance(value, list):
            return [Path(name) for name in value]
        return value and Path(value)

    return {option: path(value) for part in files for option, value in part.items()}


def _known(name: str, known: Any, what: str) -> None:
    if name not in known:
        raise StError(f"unknown {what} '{name}'; {closest(name, known)}")
