"""Network slimming's criterion (Liu et al. 2017)."""

import numpy as np

from st.core.errors import StError
from st.core.registry import criteria
from st.networks.structure import Structure
from st.pruning.criteria import Members, Scores, Subject, combined, rows_of
from st.pruning.selection import Budget

NEAR_ZERO = 0.01


@criteria.register
def bn_scale(subject: Subject, *, members: Members = "mean") -> Scores:
    """|gamma| of the batch normalisation that follows the channel; of several, what `members` says.

    Channels that are not normalised, as those between the two layers of squeeze-and-excitation,
    have no scores and stay. Raises StError if there is no batch normalisation at all, or if all
    scales are alike, as before any training.
    """
    scores = {
        name: combined([combined(list(s.astype(np.float64).T), members) for s in scales], members)
        for name, scales in _scales(subject).items()
    }
    suits(subject.structure)
    every = np.concatenate([*scores.values(), []])
    if len(every) > 1 and np.ptp(every) == 0:
        raise StError(
            "criterion 'bn_scale': all batch normalisations have the same scales, which tell no "
            "channel from another; train the network first (network slimming: with `sparse`)"
        )
    return scores


def suits(full: Structure, *_: Budget, **options) -> None:
    """Raise StError if no channels are normalised."""
    groups = full.graph.groups
    if groups and not any(group.norms for group in groups.values()):
        raise StError(
            "criterion 'bn_scale': the network has no batch normalisation of channels that can be "
            "removed; use l1_norm, l2_norm, geometric_median or taylor"
        )


def near_zero(subject: Subject) -> dict[str, float]:
    """The share of the scales that an L1 penalty has brought near zero: without such, what has the
    smallest ones is not unnecessary."""
    scales = [scale.ravel() for found in _scales(subject).values() for scale in found]
    return {"scales_near_zero": float((np.concatenate(scales) < NEAR_ZERO).mean())}


def _scales(subject: Subject) -> dict[str, list[np.ndarray]]:
    """|gamma| by normalised group, of each of its normalisations: (channels, n)."""
    return {
        name: [np.abs(s) for s in rows_of(subject, name, [(norm, 0) for norm in group.norms])]
        for name, group in subject.graph.groups.items()
        if group.norms
    }


bn_scale.told = near_zero
bn_scale.suits = suits
