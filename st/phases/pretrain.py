"""Pretrain: train a supernet from fresh or given weights."""

from pathlib import Path
from typing import Any

from st.core.job import Job
from st.core.progress import say
from st.core.tensors import checksum
from st.data.dataset import load_data
from st.networks.checkpoint import load_model, save_model
from st.networks.structure import Structure
from st.networks.weights import first
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
    drawing: Path | None = None,
    weights: Path | None = None,
    member: Member | None = None,
) -> None:
    """Write the trained supernet to `model`, its weights at the rewind epoch to `rewind`.

    `drawing`: the imported network, if it is one; `weights`: a file of weights to start from.
    """
    images, digest = load_data(data)
    drawn = load_model(drawing) if drawing else None
    shape = (images.input_shape, len(images.classes))
    structure = drawn.structure if drawn else Structure(job["family"], job["options"], *shape)
    start: Any = "own" if job.get("weights") == "own" else weights
    initial, said = first(structure, drawn, job["seed"], job["init_options"], start)
    for note in said:
        say(note)
    place = Place(model, history, device, threads, member)
    if job["rewind_epoch"] == 0 and place.leads:
        save_model(rewind, structure, initial, epochs=0)
    depends_on = {"job": job, "data": digest}
    if drawn or weights:
        depends_on["weights"] = checksum(initial, "")
    work = Work(
        structure, initial, {"ce": {"weight": 1.0}}, job["training"]["epochs"],
        sparsity=job["sparsity"], rewind=(rewind, job["rewind_epoch"]),
    )  # fmt: skip
    fit_and_save(job, images, work, place, depends_on)
