"""No criterion: the supernet's architecture, narrowed by one factor."""

from st.core.errors import StError
from st.core.registry import criteria
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.selection import usage


@criteria.register
def uniform(subject: Subject) -> Structure:
    """The widest network of the family, by its option `width`, that the budget pays for.

    All layers, residual and dense streams included, get the same fraction of their channels.
    Raises StError if the family has no such option or even its narrowest network costs too much.
    """
    full = subject.structure
    if "width" not in full.options:
        raise StError(f"criterion 'uniform': architecture '{full.family}' has no option 'width'")
    limits = subject.budget.limits(full.graph)

    def narrowed(factor: float) -> Structure:
        options = {**full.options, "width": full.options["width"] * factor}
        shape = (full.input_shape, full.classes)
        return Structure(full.family, options, *shape, supernet_options=full.options)

    def fits(factor: float) -> bool:
        part, bound = narrowed(factor), subject.budget.latency
        cost = usage(part.graph, part.graph.widths({}))
        if any(n > limit for n, limit in zip(cost, limits, strict=True)):
            return False
        if bound is None:
            return True
        assert subject.latency is not None
        return subject.latency(part) <= bound

    low, high = 1e-6, 1.0
    if not fits(low):
        measured = subject.latency and subject.latency(narrowed(low))
        told = f" (measured at latency: {measured:.4f})" if measured else ""
        raise StError(
            f"criterion 'uniform': the budget cannot be met with one channel a layer{told}"
        )
    while high - low > 1e-4 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return narrowed(round(low, 6) if fits(round(low, 6)) else low)


uniform.ranks = False
uniform.inherits = False
