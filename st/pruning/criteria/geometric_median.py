"""Filter pruning via geometric median, FPGM (He et al. 2019)."""

import numpy as np

from st.core.registry import criteria
from st.pruning.criteria import Members, Scores, Subject, per_channel


@criteria.register
def geometric_median(subject: Subject, *, members: Members = "mean") -> Scores:
    """Sum of the Euclidean distances to the other filters of the layer.

    A filter near the layer's geometric median is replaceable by the others, so it goes first. The
    paper prunes the same fraction of every layer: `ranking: local`.
    """
    return per_channel(subject, distances, members)


geometric_median.comparable = False


def distances(rows: np.ndarray) -> np.ndarray:
    """Per row of (n, d), the sum of its distances to all rows, shape (n,)."""
    # |a - b|^2 = |a|^2 + |b|^2 - 2ab: one matrix product instead of n x n x d differences.
    # Centred, because a common offset changes no distance but costs digits.
    rows = rows.astype(np.float64)
    rows -= rows.mean(axis=0)
    lengths = np.square(rows).sum(axis=1)
    squares = lengths[:, None] + lengths[None, :] - 2 * rows @ rows.T
    np.fill_diagonal(squares, 0)
    return np.sqrt(np.maximum(squares, 0)).sum(axis=1)
