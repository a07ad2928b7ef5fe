"""`st.search`: which channels of a network a budget pays for."""

import importlib
from collections.abc import Mapping
from typing import Any

from st.api.checks import data_of, fits, network_of, seed_of
from st.config import jobs
from st.config.params import BudgetSection, Evaluation, Search
from st.config.parts import search_problems, section
from st.core import registry
from st.core.device import apart
from st.core.errors import StError
from st.data.dataset import Data
from st.deploy.model import Model, checkpoint
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.search import searched
from st.pruning.selection import Budget


@apart()
def search(
    network: Model,
    budget: Mapping[str, float] | None = None,
    criterion: str = "bn_scale",
    *,
    options: Mapping[str, Any] | None = None,
    ranking: str = "global",
    min_channels: int = 1,
    round_to: int = 1,
    data: Data | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 0,
) -> Structure:
    """The structure that a criterion finds in a network within a budget; no weights are changed.

    `budget`: upper bounds as fractions (0 to 1) of the network that was imported or drawn: params,
    macs, channels, latency (measured on `device` at batches of one image). `criterion`: one of
    `st.criteria.names()`, with its `options`. `ranking`: global, normalized or local; criteria
    whose scores grow with a layer's size refuse global. `min_channels`, `round_to`: what every
    layer keeps at least, and the number of which widths are multiples (channels that go together,
    as one of each group of a grouped convolution, count once). `data`: for criteria that
    look at training images, or train (`st.dataset`). `seed`: of the choice of these. `device`,
    `threads`: where such criteria compute (auto, cpu, cuda, cuda:1, ...; 0: torch's default).
    All are the keys of `searches` in params.yaml.

    Source: `st/pruning/selection.py`; each criterion names its paper. Raises StError if the budget
    can't be met, naming the tightest that can, or an argument is wrong.
    """
    whole, seed = network_of(network), seed_of(seed)
    bounds = section(BudgetSection, {} if budget is None else budget, "budget")
    given = {
        "criterion": criterion, "options": dict(options or {}), "ranking": ranking,
        "min_channels": min_channels, "round_to": round_to,
    }  # fmt: skip
    spec = section(Search, {**given, "budget": bounds})
    job = jobs.search(seed, spec, Evaluation())
    for problem in search_problems(spec):
        raise StError(problem)
    if registry.criteria.get(criterion).data:
        if data is None:
            raise StError(f"data: is missing; criterion '{criterion}' looks at training images")
        fits(whole, data_of(data))
    elif data is not None:
        raise StError(f"data: criterion '{criterion}' looks at weights alone; leave them out")
    source = checkpoint(whole)
    latency = None
    if job["latency"]:  # by name, as the phase does
        latency = importlib.import_module("st.pruning.latency").Stopwatch(
            source.structure.full, **job["latency"], device=device, threads=threads
        )
    subject = Subject(
        source.structure, source.tensors, Budget(**job["budget"]), seed,
        data, device, threads, latency,
    )  # fmt: skip
    return searched(job, subject)
