"""What phases are told of single parts of params.yaml: a search, an init, a training.

The workflow's grid and the Python API make their jobs here, so that equal settings are equal jobs.
"""

from collections.abc import Mapping
from typing import Any

from st.config.params import Evaluation, Search
from st.core import registry
from st.core.job import Job
from st.data.augment import Augment
from st.training.recipe import Training


def search(seed: int, spec: Search, measured: Evaluation, lottery: Job | None = None) -> Job:
    """What of a supernet is kept. `measured`: how latencies are; `lottery`: how rounds train."""
    # said only where it matters, so that changing it reruns only that
    latency = {"batch": measured.latency_batch, "rounds": measured.latency_rounds}
    return {
        "seed": seed,
        "criterion": spec.criterion,
        "options": registry.criteria.check(spec.criterion, spec.options),
        "ranking": spec.ranking,
        "budget": spec.budget.model_dump(),
        "min_channels": spec.min_channels,
        "round_to": spec.round_to,
        "latency": latency if spec.budget.latency is not None else None,
        "lottery": lottery,
    }


def initialize(seed: int, init: str, options: Mapping[str, Any]) -> Job:
    """Where a subnet's first weights come from."""
    return {"seed": seed, "init": init, "options": registry.inits.check(init, dict(options))}


def train(
    seed: int,
    objective: dict[str, dict[str, Any]],
    recipe: Training,
    augment: Augment,
    epoch_rule: str = "same",
    max_epoch_factor: float | None = None,
) -> Job:
    """The training of a subnet. `objective`: as st.config.params.objective returns it."""
    return {
        "seed": seed,
        "objective": objective,
        "epoch_rule": epoch_rule,
        "max_epoch_factor": max_epoch_factor,
        "augment": augment.model_dump(),
        "training": recipe.model_dump(),
    }
