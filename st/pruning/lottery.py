"""Iterative pruning with rewinding: lottery tickets found in rounds (Frankle & Carbin 2019)."""

from dataclasses import replace
from pathlib import Path

from st.core.errors import StError
from st.core.job import Job, fingerprint
from st.core.progress import say
from st.data.dataset import opened
from st.networks.checkpoint import Checkpoint, load_model
from st.networks.inits import sliced
from st.pruning.criteria import Subject
from st.pruning.search import searched
from st.training.trainer import Place, Work, code, fit_and_save


def last_round(job: Job, subject: Subject, rewind: Path | None, folder: Path) -> Subject:
    """All rounds but the last pruning: what remains is to search the returned network.

    Each round scores the trained network, prunes it to its part of the way to the budget (bound **
    (round / rounds), the same fraction in every round), puts the supernet's early weights back and
    trains as the supernet was trained. A channel that is gone stays so. Between the paper and this:
    the paper removes weights, this removes channels.

    Each training has a folder of its own in `folder`. There an interrupted search finds the rounds
    that are finished, and the state of the one that is not.
    """
    if subject.data is None or rewind is None:
        raise StError("lottery rounds need --data and --rewind")
    spec, early = job["lottery"], load_model(rewind)
    data, digest = opened(subject.data)
    for number in range(1, spec["rounds"]):
        budget = subject.budget.part_way(number / spec["rounds"])
        part = searched(job, replace(subject, budget=budget))
        initial = Checkpoint(str(rewind), sliced(part, early), part, {})
        recipe = {**spec, "round": number, "data": digest, "initial": initial.digest()}
        recipe["code"] = code(part, ["ce"])
        model = _model(folder, number)
        say(f"round {number} of {spec['rounds']}: {part.cost()[0]:,} parameters")
        if not _finished(model, recipe):
            work = Work(
                part, initial.tensors, {"ce": {"weight": 1.0}}, spec["training"]["epochs"],
                sparsity=spec["sparsity"],
            )  # fmt: skip
            history = model.with_name("history.csv")
            place = Place(model, history, subject.device, subject.threads)
            fit_and_save(recipe, data, work, place, recipe)
        subject = replace(subject, structure=part, tensors=load_model(model).tensors)
    return subject


def tidy(job: Job, folder: Path) -> None:
    """Remove the rounds' models, so that no later search takes them; their histories stay."""
    for number in range(1, job["lottery"]["rounds"]):
        _model(folder, number).unlink(missing_ok=True)


def _model(folder: Path, number: int) -> Path:
    return folder / f"round{number}" / "model.safetensors"


def _finished(model: Path, recipe: Job) -> bool:
    """Whether an interrupted search has trained this already."""
    try:
        return fingerprint(load_model(model).facts["job"]) == fingerprint(recipe)
    except (StError, KeyError):
        return False
