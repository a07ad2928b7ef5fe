"""The control that a criterion has to beat."""

from st.criteria import Scores, Subject
from st.registry import criteria
from st.seeds import stream


@criteria.register
def random(subject: Subject) -> Scores:
    """Uniform random scores, a stream of its own per group."""
    return {
        name: stream(subject.seed, "criterion", name).random(width)
        for name, width in subject.widths.items()
    }
