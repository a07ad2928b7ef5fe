"""Pretrain: train a supernet from scratch."""

from pathlib import Path

from st.core import registry
from st.core.job import Job
from st.data.dataset import load_data
from st.networks.checkpoint import save_model
from st.networks.structure import Structure
from st.training.launch import Member
from st.training.trainer import Place, Work, fit_and_save


def run(
    job: Job,
    data: Path,
    model: Path,
    rewind: Path,
    history: Path,
    device: str,
    threads: int,
    member: Member | None = None,
) -> None:
    """Write the trained supernet to `model`, its weights at the rewind epoch to `rewind`."""
    images, digest = load_data(data)
    structure = Structure(job["family"], job["options"], images.input_shape, len(images.classes))
    initial = registry.inits.get("random")(structure, None, job["seed"], **job["init_options"])
    place = Place(model, history, device, threads, member)
    if job["rewind_epoch"] == 0 and place.leads:
        save_model(rewind, structure, initial, epochs=0)
    work = Work(
        structure, initial, {"ce": {"weight": 1.0}}, job["training"]["epochs"],
        sparsity=job["sparsity"], rewind=(rewind, job["rewind_epoch"]),
    )  # fmt: skip
    fit_and_save(job, images, work, place, {"job": job, "data": digest})
