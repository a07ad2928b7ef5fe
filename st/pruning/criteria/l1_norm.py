"""Filter pruning's criterion (Li et al. 2017)."""

import numpy as np

from st.core.registry import criteria
from st.pruning.criteria import Members, Scores, Subject, per_channel


@criteria.register
def l1_norm(subject: Subject, *, members: Members = "mean") -> Scores:
    """Sum of the absolute weights of the channel's filter."""
    return per_channel(subject, lambda rows: np.abs(rows).sum(axis=1, dtype=np.float64), members)


l1_norm.comparable = False
