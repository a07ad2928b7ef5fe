"""No criterion: the same fraction of every layer."""

import numpy as np

from st.criteria import Scores, Subject
from st.registry import criteria


@criteria.register
def uniform(subject: Subject) -> Scores:
    """Channels in their order, which with local ranking narrows all layers alike."""
    return {name: -np.arange(g.size) / g.size for name, g in subject.graph.groups.items()}
