"""Fresh weights: Search-and-Train's subnets, Scratch-E and Scratch-B, and every supernet."""

from typing import Annotated, Literal

import numpy as np

from st.core.registry import inits
from st.core.seeds import stream
from st.core.types import Finite
from st.networks.checkpoint import Checkpoint
from st.networks.inits import sliced
from st.networks.structure import Structure


@inits.register
def random(
    structure: Structure,
    source: Checkpoint | None,
    seed: int,
    *,
    bn_scale: Annotated[float, Finite(gt=0, le=10)] = 1.0,
    linear: Literal["normal", "uniform"] = "normal",
) -> dict[str, np.ndarray]:
    """Convolutions from He et al.'s normal distribution over the fan-out (2015), BatchNorm scales
    `bn_scale` (network slimming starts at 0.5), as are those of other normalisations, shifts zero.

    `linear`: how linear layers start. normal: N(0, 0.01) and biases zero, as in the VGGs of network
    slimming; uniform: weights and biases within +-1/sqrt(fan-in), torch's default, as in the
    ResNets, PreResNets and DenseNets of network slimming and Liu et al. (2019). All of the pruned
    shapes: fan-in and fan-out count the channels that remain.

    Grouped convolutions, depthwise ones among them, are drawn over their fan-in. What is neither of
    these layers' (the position embeddings and tokens of transformers, layer scales) is drawn from
    the normal distribution with the mean and deviation of the imported module's own values, which
    `source` has, and buffers are these values.

    `seed`: the phases derive one for subnets, so that a layer that was not pruned does not start
    from its supernet's weights.
    """
    shapes, result, fan_in = structure.shapes(), {}, 0
    own = sliced(structure, source) if source and structure.program else {}
    for tensor in structure.graph.tensors():
        shape = shapes[tensor.name]
        draws = stream(seed, "init", tensor.name)
        if tensor.role in ("convolution", "transposed", "grouped"):
            axis = {"convolution": 0}.get(tensor.role, 1)  # of what the fan counts
            deviation = np.sqrt(2 / (shape[axis] * np.prod(shape[2:])))
            value = draws.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
            fan_in = 0
        elif tensor.role == "linear" and linear == "normal":
            value = draws.standard_normal(shape, dtype=np.float32) * np.float32(0.01)
        elif tensor.role == "linear" or (tensor.role == "bias" and fan_in):
            fan_in = shape[1] if tensor.role == "linear" else fan_in  # a bias follows its weights
            value = draws.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(fan_in))
        elif tensor.role == "count":
            value = np.zeros(shape, dtype=np.int64)
        elif tensor.role == "buffer":
            value = own[tensor.name]
        elif tensor.role == "parameter":
            mean, deviation = own[tensor.name].mean(), own[tensor.name].std()
            value = np.float32(mean) + draws.standard_normal(shape, np.float32) * deviation
        else:
            constant = {"scale": bn_scale, "variance": 1.0}.get(tensor.role, 0.0)
            value = np.full(shape, constant, dtype=np.float32)
        result[tensor.name] = np.asarray(value, tensor.dtype)  # numbers are of numpy's types
    return result


random.source = None
