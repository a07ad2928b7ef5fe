"""Search: score the supernet's channels and keep the structure of the best."""

import importlib
from pathlib import Path

from st.core import registry
from st.core.errors import StError
from st.core.job import STATE, Job
from st.core.progress import say, say_all
from st.networks.checkpoint import load_model
from st.networks.structure import save_structure
from st.pruning.criteria import Subject
from st.pruning.search import searched
from st.pruning.selection import Budget


def run(
    job: Job,
    supernet: Path,
    structure: Path,
    data: Path | None = None,
    rewind: Path | None = None,
    device: str = "auto",
    threads: int = 0,
) -> None:
    """Write the subnet's structure to `structure`; no weights are kept.

    `data`: for criteria that look at training images, and lottery rounds; `rewind`: the supernet's
    early weights, for these. `device` and `threads` concern what computes with torch.
    """
    source = load_model(supernet)
    full = source.structure
    # By name, because st/core/sources.py must not take them for parts of every search.
    latency = lottery = None
    if job["latency"]:
        latency = importlib.import_module("st.pruning.latency").Stopwatch(
            full, **job["latency"], device=device, threads=threads
        )
    if job["lottery"]:
        lottery = importlib.import_module("st.pruning.lottery")
    budget = Budget(**job["budget"])
    subject = Subject(
        full, source.tensors, budget, job["seed"], data, device, threads, latency,
        structure.with_name(STATE),
    )  # fmt: skip
    try:
        if lottery:
            subject = lottery.last_round(job, subject, rewind, structure.parent)
        found = searched(job, subject)
    except StError as error:
        raise type(error)(f"{supernet}: {error}") from error  # an interruption stays one
    (params, macs), (full_params, full_macs) = found.cost(), full.cost()
    # kept whole: the supernet's own number of channels, which need not be a multiple
    uneven = {name: width for name, width in found.widths.items() if width % job["round_to"]}
    say_all(
        f"layers kept whole, with channels that are not a multiple of {job['round_to']}",
        [f"{name}: {width}" for name, width in uneven.items()],
    )
    measured = {"latency_kept": latency(found)} if latency else {}
    told = registry.criteria.get(job["criterion"]).told
    least = [
        name
        for name, width in found.widths.items()
        if width <= job["min_channels"] < full.full.widths.get(name, 0)
    ]
    say_all(f"groups that keep no more than min_channels {job['min_channels']}", least)
    save_structure(
        structure, found, search=job, params=params, macs=macs,
        params_kept=params / full_params, macs_kept=macs / full_macs,
        widths=found.widths, supernet_widths=full.full.widths,
        not_rounded=uneven, **measured, **(told(subject) if told else {}),
    )  # fmt: skip
    if lottery:
        lottery.tidy(job, structure.parent)
    say(
        f"{params:,} of {full_params:,} parameters ({params / full_params:.1%}), "
        f"{macs:,} of {full_macs:,} MACs ({macs / full_macs:.1%})"
        + (f", {measured['latency_kept']:.1%} of the latency" if latency else "")
    )
