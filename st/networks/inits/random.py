"""Fresh weights: Search-and-Train's subnets, Scratch-E and Scratch-B, and every supernet."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from st.core.registry import inits
from st.core.seeds import stream
from st.networks.checkpoint import Checkpoint
from st.networks.structure import Structure


@inits.register
def random(
    structure: Structure,
    source: Checkpoint | None,
    seed: int,
    *,
    bn_scale: Annotated[float, Field(gt=0, le=10)] = 1.0,
    linear: Literal["normal", "uniform"] = "normal",
) -> dict[str, np.ndarray]:
    """Convolutions from He et al.'s normal distribution over the fan-out (2015), BatchNorm scales
    `bn_scale` (network slimming starts at 0.5), BatchNorm shifts zero.

    `linear`: how linear layers start. normal: N(0, 0.01) and biases zero, as in the VGGs of network
    slimming; uniform: weights and biases within +-1/sqrt(fan-in), torch's default, as in the
    ResNets, PreResNets and DenseNets of network slimming and Liu et al. (2019). All of the pruned
    shapes: fan-in and fan-out count the channels that remain.

    `seed`: the phases derive one for subnets, so that a layer that was not pruned does not start
    from its supernet's weights.
    """
    shapes, result, fan_in = structure.shapes(), {}, 0
    for tensor in structure.graph.tensors():
        shape = shapes[tensor.name]
        draws = stream(seed, "init", tensor.name)
        if tensor.role == "convolution":
            deviation = np.sqrt(2 / (shape[0] * np.prod(shape[2:])))
            value = draws.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
        elif tensor.role == "linear" and linear == "normal":
            value = draws.standard_normal(shape, dtype=np.float32) * np.float32(0.01)
        elif tensor.role in ("linear", "bias") and linear == "uniform":
            fan_in = shape[1] if tensor.role == "linear" else fan_in  # a bias follows its weights
            value = draws.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(fan_in))
        elif tensor.role == "count":
            value = np.zeros(shape, dtype=np.int64)
        else:
            constant = {"scale": bn_scale, "variance": 1.0}.get(tensor.role, 0.0)
            value = np.full(shape, constant, dtype=np.float32)
        result[tensor.name] = value
    return result


random.source = None
