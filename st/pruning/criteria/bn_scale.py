"""Network slimming's criterion (Liu et al. 2017)."""

import numpy as np

from st.core.errors import StError
from st.core.registry import criteria
from st.pruning.criteria import Members, Scores, Subject, combined, rows_of

NEAR_ZERO = 0.01


@criteria.register
def bn_scale(subject: Subject, *, members: Members = "mean") -> Scores:
    """|gamma| of the batch normalisation that follows the channel; of several, what `members` says.

    Channels that are not normalised, as those between the two layers of squeeze-and-excitation,
    have no scores and stay. Raises StError if there is no batch normalisation at all.
    """
    scores = {}
    for name, group in subject.graph.groups.items():
        if not group.norms:
            continue
        scales = rows_of(subject, name, [(norm, 0) for norm in group.norms])
        scores[name] = combined(
            [combined(list(np.abs(s.astype(np.float64)).T), members) for s in scales], members
        )
    if not scores:
        raise StError(
            "criterion 'bn_scale': the network has no batch normalisation; use l1_norm, l2_norm, "
            "geometric_median or taylor"
        )
    return scores


def near_zero(subject: Subject) -> dict[str, float]:
    """The share of the scales that an L1 penalty has brought near zero: without such, what has the
    smallest ones is not unnecessary."""
    scales = np.concatenate([
        scale.ravel()
        for name, group in subject.graph.groups.items()
        for scale in rows_of(subject, name, [(norm, 0) for norm in group.norms])
    ])  # fmt: skip
    return {"scales_near_zero": float((np.abs(scales) < NEAR_ZERO).mean())}


bn_scale.told = near_zero
