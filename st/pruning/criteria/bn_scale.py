"""Network slimming's criterion (Liu et al. 2017)."""

import numpy as np

from st.core.registry import criteria
from st.pruning.criteria import Scores, Subject


@criteria.register
def bn_scale(subject: Subject) -> Scores:
    """|gamma| of the batch normalisation that follows the channel."""
    return {
        name: sum(  # type: ignore[misc]  # not 0: every group has a normalisation
            np.abs(subject.tensors[f"{bn}.weight"].astype(np.float64)) for bn in group.norms
        )
        for name, group in subject.graph.groups.items()
    }
