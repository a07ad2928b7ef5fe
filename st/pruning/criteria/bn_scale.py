"""Network slimming's criterion (Liu et al. 2017)."""

import numpy as np

from st.core.errors import StError
from st.core.registry import criteria
from st.pruning.criteria import Members, Scores, Subject, combined, rows_of


@criteria.register
def bn_scale(subject: Subject, *, members: Members = "mean") -> Scores:
    """|gamma| of the batch normalisation that follows the channel; of several, what `members` says.

    Raises StError if there is none.
    """
    scores = {}
    for name, group in subject.graph.groups.items():
        if not group.norms:
            raise StError(
                f"criterion 'bn_scale': no batch normalisation follows the channels '{name}'; use "
                "l1_norm, l2_norm, geometric_median or taylor"
            )
        scales = rows_of(subject, name, [(norm, 0) for norm in group.norms])
        scores[name] = combined([combined(list(np.abs(s).T), members) for s in scales], members)
    return scores
