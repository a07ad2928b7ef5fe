"""The usual variant of filter pruning's criterion: L2 instead of L1 (Li et al. 2017, section 3)."""

import numpy as np

from st.core.registry import criteria
from st.pruning.criteria import Members, Scores, Subject, per_channel


@criteria.register
def l2_norm(subject: Subject, *, members: Members = "mean") -> Scores:
    """Euclidean norm of the channel's filter."""
    return per_channel(
        subject, lambda rows: np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1)), members
    )


l2_norm.comparable = False
