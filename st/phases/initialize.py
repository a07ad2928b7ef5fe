"""Initialize: give a structure its first weights."""

from pathlib import Path

from st.core.job import Job
from st.networks.checkpoint import load_model, save_model
from st.networks.inits import initialised
from st.networks.structure import load_structure


def run(job: Job, structure: Path, source: Path | None, init: Path) -> None:
    """Write the subnet's initial weights to `init`. `source`: what the init starts from, if any."""
    target = load_structure(structure)
    start = load_model(source) if source else None
    tensors = initialised(target, start, job["seed"], job["init"], job["options"])
    save_model(init, target, tensors, job=job)
