"""Which losses of an objective do something, as a training's history tells."""

from collections.abc import Iterable, Mapping
from statistics import median

SHARE = "share_"  # a column of history.csv: what a term contributes to the gradient, in percent
LEAST_SHARE = 1.0  # a term that has less in most epochs does next to nothing


def inert(history: Mapping[str, Iterable[float]]) -> dict[str, float]:
    """The terms whose share of the gradient is below LEAST_SHARE in most epochs, and the median of
    each: a large share in a first epoch is soon forgotten.

    `history`: the columns of a training's history.
    """
    usual = {
        column.removeprefix(SHARE): median(history[column])
        for column in history
        if column.startswith(SHARE)
    }
    return {name: share for name, share in usual.items() if share < LEAST_SHARE}
