"""Initialize: give a structure its first weights."""

from pathlib import Path

from st.core import registry
from st.core.job import Job
from st.core.seeds import derive
from st.networks.checkpoint import load_model, save_model
from st.networks.structure import load_structure


def run(job: Job, structure: Path, source: Path | None, init: Path) -> None:
    """Write the subnet's initial weights to `init`. `source`: what the init starts from, if any."""
    target = load_structure(structure)
    start = load_model(source) if source else None
    # not the supernet's seed: layers that are not pruned would start from its initial weights
    seed = derive(job["seed"], "subnet")
    tensors = registry.inits.get(job["init"])(target, start, seed, **job["options"])
    save_model(init, target, tensors, job=job)
