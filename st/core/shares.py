"""Which losses of an objective do something, as a training's history tells."""

from collections.abc import Iterable, Mapping

SHARE = "share_"  # a column of history.csv: what a term contributes to the gradient, in percent
LEAST_SHARE = 1.0  # a term that never has more does next to nothing


def inert(history: Mapping[str, Iterable[float]]) -> dict[str, float]:
    """The terms whose share of the gradient stayed below LEAST_SHARE, and the largest of each.

    `history`: the columns of a training's history.
    """
    largest = {
        column.removeprefix(SHARE): max(history[column])
        for column in history
        if column.startswith(SHARE)
    }
    return {name: share for name, share in largest.items() if share < LEAST_SHARE}
