"""The control that a criterion has to beat."""

from st.core.registry import criteria
from st.core.seeds import stream
from st.pruning.criteria import Scores, Subject


@criteria.register
def random(subject: Subject) -> Scores:
    """Uniform random scores, a stream of its own per group."""
    return {
        name: stream(subject.seed, "criterion", name).random(width)
        for name, width in subject.widths.items()
    }


random.blind = True
