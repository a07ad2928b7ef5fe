"""Fresh weights: Search-and-Train's subnets, Scratch-E and Scratch-B, and every supernet."""

from typing import Annotated

import numpy as np
from pydantic import Field

from st.checkpoint import Checkpoint
from st.registry import inits
from st.seeds import stream
from st.structure import Structure


@inits.register
def random(
    structure: Structure,
    source: Checkpoint | None,
    seed: int,
    *,
    bn_scale: Annotated[float, Field(gt=0, le=10)] = 1.0,
) -> dict[str, np.ndarray]:
    """Convolutions from He et al.'s normal distribution over the fan-out (2015), linear layers from
    N(0, 0.01), BatchNorm scales `bn_scale` (network slimming starts at 0.5), the rest zero.
    """
    widths = structure.graph.widths(structure.keep)
    result = {}
    for tensor in structure.graph.tensors():
        shape = [widths[g] if g else n for n, g in zip(tensor.shape, tensor.groups, strict=True)]
        if tensor.role in ("convolution", "linear"):
            fan_out = shape[0] * int(np.prod(shape[2:]))
            deviation = np.sqrt(2 / fan_out) if tensor.role == "convolution" else 0.01
            drawn = stream(seed, "init", tensor.name).standard_normal(shape, dtype=np.float32)
            value = drawn * np.float32(deviation)
        elif tensor.role == "count":
            value = np.zeros(shape, dtype=np.int64)
        else:
            constant = {"scale": bn_scale, "variance": 1.0}.get(tensor.role, 0.0)
            value = np.full(shape, constant, dtype=np.float32)
        result[tensor.name] = value
    return result


random.source = None
