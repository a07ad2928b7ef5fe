"""The trained supernet's own weights: pruning and fine-tuning."""

import numpy as np

from st.core.registry import inits
from st.networks.checkpoint import Checkpoint
from st.networks.inits import sliced
from st.networks.structure import Structure


@inits.register
def inherit(structure: Structure, source: Checkpoint, seed: int) -> dict[str, np.ndarray]:
    """The kept slices of the trained supernet, running statistics included."""
    return sliced(structure, source)


inherit.source = "model"
