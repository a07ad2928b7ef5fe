"""Search: score the supernet's channels and keep the structure of the best."""

import importlib
from pathlib import Path

from st import registry
from st.checkpoint import load_model
from st.criteria import Scores, Subject
from st.errors import StError
from st.graph import Keep
from st.job import Job
from st.progress import say
from st.search import Budget, select_channels
from st.structure import Structure, save_structure


def run(
    job: Job,
    supernet: Path,
    structure: Path,
    data: Path | None = None,
    device: str = "auto",
    threads: int = 0,
) -> None:
    """Write the subnet's structure to `structure`; no weights are kept.

    `data`: for criteria that look at training images. `device` and `threads` concern those only.
    """
    source = load_model(supernet)
    full = source.structure
    latency = None
    if job["latency"]:
        # by name: st/sources.py must not take it for a part of every search
        watch = importlib.import_module("st.latency").Stopwatch
        latency = watch(full, **job["latency"], device=device, threads=threads)
    budget = Budget(**job["budget"])
    subject = Subject(
        full, source.tensors, budget, job["seed"], data, device, threads, latency
    )  # fmt: skip
    try:
        found = registry.criteria.get(job["criterion"])(subject, **job["options"])
        if not isinstance(found, Structure):
            found = select(job, subject, found)
    except StError as error:
        raise StError(f"{supernet}: {error}") from error
    (params, macs), (full_params, full_macs) = found.cost(), full.cost()
    measured = {"latency_kept": latency(found)} if latency else {}
    save_structure(
        structure, found, search=job, params=params, macs=macs,
        params_kept=params / full_params, macs_kept=macs / full_macs,
        widths=found.graph.widths(found.keep), supernet_widths=full.graph.widths({}), **measured,
    )  # fmt: skip
    say(
        f"{params:,} of {full_params:,} parameters ({params / full_params:.1%}), "
        f"{macs:,} of {full_macs:,} MACs ({macs / full_macs:.1%})"
        + (f", {measured['latency_kept']:.1%} of the latency" if latency else "")
    )


def select(job: Job, subject: Subject, scores: Scores) -> Structure:
    """The best-scored part of the subject's network that the budget pays for."""
    full = subject.structure

    def part(keep: Keep) -> Structure:
        return Structure(full.family, full.options, full.input_shape, full.classes, keep)

    latency = subject.latency and (lambda keep: subject.latency(part(keep)))
    rules = (job["ranking"], job["min_channels"], job["round_to"])
    return part(select_channels(full.graph, scores, subject.budget, *rules, latency))
