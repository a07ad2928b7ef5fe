"""Train: the subnet learns from the labels and from the frozen supernet at once."""

from pathlib import Path

from st.core.job import Job
from st.data.dataset import load_data
from st.networks.checkpoint import load_model
from st.training.epochs import scaled_epochs
from st.training.launch import Member
from st.training.trainer import Place, Work, fit_and_save


def run(
    job: Job,
    data: Path,
    init: Path,
    teacher: Path | None,
    model: Path,
    history: Path,
    device: str,
    threads: int,
    member: Member | None = None,
) -> None:
    """Write the trained subnet to `model`. `teacher`: the supernet, if the objective needs one."""
    images, digest = load_data(data)
    start = load_model(init)
    supernet = load_model(teacher) if teacher else None
    epochs = scaled_epochs(job, start.structure)
    depends_on = {
        "job": job,
        "data": digest,
        "init": start.digest(),
        "teacher": supernet.digest() if supernet else None,
    }
    work = Work(start.structure, start.tensors, job["objective"], epochs, teacher=supernet)
    fit_and_save(job, images, work, Place(model, history, device, threads, member), depends_on)
