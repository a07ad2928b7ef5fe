"""What files say of how they were made, against Snakemake's records of it.

A file may not be the one that its record is about: after a phase that was run by hand, after `dvc
checkout` where a run had been interrupted, or where params.yaml was edited while a cluster ran its
jobs. Snakemake believes the records; the files are right.
"""

from pathlib import Path
from typing import Any

from st.config import wiring
from st.config.changes import made_by
from st.config.grid import Grid
from st.core.errors import StError
from st.core.files import read_json
from st.core.job import Job, deciding, ordered
from st.core.snakemake_internals import is_noted, note
from st.core.tensors import read_header
from st.networks.checkpoint import FORMAT

# The phases whose results say what made them, and the output that does.
SAYING = {
    "prepare": "data",
    "draw": "drawing",
    "pretrain": "model",
    "search": "structure",
    "initialize": "init",
    "train": "model",
}


def settle(grid: Grid) -> None:
    """Make the records of the grid's results say what the results themselves do, so that Snakemake
    makes again what was made of other params, and nothing else."""
    for phase, option in SAYING.items():
        for experiment in grid.experiments(phase):
            outputs = wiring.files(grid, phase, experiment).outputs
            job = _job(phase, Path(str(outputs[option])))
            if job is None:
                continue
            told = deciding(ordered(job))
            for path in outputs.values():
                if Path(str(path)).exists() and not is_noted(str(path), told):
                    note(str(path), told)


def _job(phase: str, path: Path) -> Job | None:
    """The job that a file says it was made by; None without such a file."""
    if phase == "prepare":
        return made_by(path)
    if not path.exists():
        return None
    try:
        found: Any = (
            read_json(path)["search"]
            if phase == "search"
            else read_header(path, FORMAT)["facts"]["job"]
        )
    except (StError, KeyError, TypeError):  # damaged, or an older version's: the record decides
        return None
    return found if isinstance(found, dict) else None
