"""A search: a criterion's scores, or its own structure, within a budget."""

from collections.abc import Mapping

from st.core import registry
from st.core.errors import StError
from st.core.job import Job
from st.core.progress import say_all
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.selection import select_channels


def searched(job: Job, subject: Subject) -> Structure:
    """What the criterion finds, or the best-scored channels that the budget pays for."""
    criterion = registry.criteria.get(job["criterion"])
    if criterion.data and subject.data is None:
        raise StError(f"--data is missing: criterion '{job['criterion']}' reads the data")
    # where there is nothing to rank, no criterion is asked: the selection says so
    ranks = subject.graph.groups or not criterion.ranks
    found = criterion(subject, **job["options"]) if ranks else {}
    if isinstance(found, Structure):
        return found
    if not isinstance(found, Mapping):
        raise StError(
            f"criterion '{job['criterion']}': must return scores by group, or a Structure, not "
            f"{found!r:.100}"
        )
    whole = subject.structure
    unscored = [name for name in whole.graph.groups if name not in found]
    if unscored:
        say_all(f"channels that stay, which '{job['criterion']}' gives no scores", unscored)
    return whole.with_keep(
        select_channels(
            whole.graph, found, subject.budget,
            job["ranking"], job["min_channels"], job["round_to"],
            latency=subject.latency and (lambda keep: subject.latency(whole.with_keep(keep))),
            available=whole.keep,
        )
    )  # fmt: skip
