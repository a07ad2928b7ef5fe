"""Inits: the weights from which training starts.

An init is called with the structure to fill, a source checkpoint (or None) and a seed, and returns
every tensor of that structure. Its attribute `source` says what it needs: None, `model` (the
trained supernet) or `rewind` (the supernet early in its training).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from st.core import registry
from st.core.errors import StError
from st.core.seeds import derive
from st.networks.checkpoint import Checkpoint, verify
from st.networks.structure import Structure


def initialised(
    structure: Structure,
    source: Checkpoint | None,
    seed: int,
    init: str,
    options: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """A subnet's first weights. `seed`: the experiment's; `source`: what the init starts from.

    Raises StError if the init, which may be a plugin's, gives others than the structure's tensors.
    """
    # not the supernet's seed: layers that are not pruned would start from its initial weights
    tensors = registry.inits.get(init)(structure, source, derive(seed, "subnet"), **options)
    if not isinstance(tensors, Mapping):
        raise StError(
            f"init '{init}': must return every tensor by name, not {type(tensors).__name__}"
        )
    verify(f"init '{init}'", tensors, structure, "it must return every tensor of the structure")
    return dict(tensors)


def sliced(structure: Structure, source: Checkpoint) -> dict[str, np.ndarray]:
    """The part of the source's weights that belongs to `structure`'s channels.

    Raises StError if these are not channels of the source's architecture, or the source was pruned
    and has not all of them.
    """
    if structure.graph.tensors() != source.structure.graph.tensors():
        raise StError(
            f"{source.path}: the structure is not made of the supernet's channels, so it can't "
            "start from its weights; use the init 'random'"
        )
    had = source.structure.graph.positions(source.structure.keep)
    keeps = structure.graph.positions(structure.keep)
    places = {axis: np.searchsorted(had[axis], kept) for axis, kept in keeps.items()}
    for axis, kept in keeps.items():
        if not np.isin(kept, had[axis]).all():
            raise StError(
                f"{source.path}: was pruned, and lacks channels that the structure keeps; take the "
                "network in which the structure was found"
            )
    result = {}
    for tensor in structure.graph.tensors():
        value = source.tensors[tensor.name]
        for number, axis in enumerate(tensor.axes):
            if axis is not None:
                value = np.take(value, places[axis], axis=number)
        result[tensor.name] = value
    return result
