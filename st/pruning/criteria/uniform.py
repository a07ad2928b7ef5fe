"""No criterion: the supernet's architecture, narrowed by one factor."""

from st.core.errors import StError
from st.core.registry import criteria
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.selection import Budget, tightest, usage

LEAST = 1e-6  # of the width: one channel a layer


@criteria.register
def uniform(subject: Subject) -> Structure:
    """The widest network of the family, by its option `width`, that the budget pays for.

    All layers, residual and dense streams included, get the same fraction of their channels.
    Raises StError if the family has no such option or even its narrowest network costs too much.
    """
    full, bound = subject.structure, subject.budget.latency
    suits(full, subject.budget)
    limits = subject.budget.limits(full.graph)

    def fits(factor: float) -> bool:
        part = _narrowed(full, factor)
        cost = usage(part.graph, part.graph.widths({}))
        if any(n > limit for n, limit in zip(cost, limits, strict=True)):
            return False
        if bound is None:
            return True
        assert subject.latency is not None
        return subject.latency(part) <= bound

    low, high = LEAST, 1.0
    if bound is not None and not fits(low):
        assert subject.latency is not None
        measured = subject.latency(_narrowed(full, low))
        raise StError(
            "criterion 'uniform': the budget cannot be met with one channel a layer (measured at "
            f"latency: {measured:.4f})"
        )
    while high - low > 1e-4 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return _narrowed(full, round(low, 6) if fits(round(low, 6)) else low)


def _narrowed(full: Structure, factor: float) -> Structure:
    options = {**full.options, "width": full.options["width"] * factor}
    shape = (full.input_shape, full.classes)
    return Structure(full.family, options, *shape, supernet_options=full.options)


def suits(full: Structure, budget: Budget) -> None:
    """Raise StError if the family can't be narrowed, or not as far as the budget asks."""
    if "width" not in full.options:
        raise StError(f"criterion 'uniform': architecture '{full.family}' has no option 'width'")
    part = _narrowed(full, LEAST)
    least = usage(part.graph, part.graph.widths({}))
    if any(n > limit for n, limit in zip(least, budget.limits(full.graph), strict=True)):
        whole = usage(full.graph, full.graph.widths({}))
        raise StError(
            "criterion 'uniform': the budget cannot be met; one channel a layer is "
            + ", ".join(tightest(budget, least, whole))
        )


uniform.ranks = False
uniform.inherits = False
uniform.blind = True
uniform.drawn = True
uniform.suits = suits
