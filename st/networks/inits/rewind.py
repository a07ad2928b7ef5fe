"""The supernet's early weights: the lottery ticket (Frankle & Carbin 2019)."""

import numpy as np

from st.core.registry import inits
from st.networks.checkpoint import Checkpoint
from st.networks.inits import sliced
from st.networks.structure import Structure


@inits.register
def rewind(structure: Structure, source: Checkpoint, seed: int) -> dict[str, np.ndarray]:
    """The kept slices of the weights at the supernet's `rewind_epoch` (0: as initialised)."""
    return sliced(structure, source)


rewind.source = "rewind"
