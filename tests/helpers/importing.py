"""That a network imported and pruned computes what the module does with zeros."""

import copy
import json

import numpy as np
import torch
from torch import nn

from helpers.networks import zeroed
from st.networks import network
from st.networks.checkpoint import Checkpoint
from st.networks.imported.export import imported
from st.networks.inits.inherit import inherit
from st.networks.structure import Structure


def prepared(module: nn.Module) -> nn.Module:
    """In float64, with weights of no special form, without dropout, whose draws differ."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.double().state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.normal_(
                0, max(value[0].numel(), 4) ** -0.5 if value.ndim else 1, generator=generator
            )
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0
    return module


def structure_of(module: nn.Module, input_shape=(3, 8, 8), **options):
    """The structure of an imported module as files have it, and its tensors."""
    program, values = imported(module, input_shape, **options)
    whole = Structure("import", {}, input_shape, program.classes, program=program)
    return Structure.from_json(json.loads(json.dumps(whole.to_json())), "it"), values


def some_channels(whole: Structure, rng: np.random.Generator, share: float | None = None):
    """Channels to keep of the groups that are pruned exactly."""
    keep = {}
    for name, group in whole.graph.groups.items():
        amount = rng.integers(1, group.size + 1) if share is None else int(group.size * share)
        if group.exact:
            keep[name] = np.sort(rng.permutation(group.size)[: max(1, amount)])
    return whole.with_keep(keep)


def pruned(part: Structure, values) -> nn.Module:
    """The network of these channels, with their weights."""
    source = Checkpoint("it", values, part.full, {})
    small = network.bare(part).double()
    given = network.given(part, inherit(part, source, 0))
    small.load_state_dict(given)
    return small


def outputs(module: nn.Module, x: torch.Tensor, training: bool) -> torch.Tensor:
    torch.manual_seed(0)
    y = copy.deepcopy(module).train(training)(x)
    return y if isinstance(y, torch.Tensor) else y[0]


def check(module: nn.Module, part: Structure, values, x: torch.Tensor) -> nn.Module:
    """The pruned network computes what the module does with zeros, and so do its gradients."""
    small = pruned(part, values)
    zeros = copy.deepcopy(module)
    state = zeros.state_dict()
    # weight norms are not defined for zeros
    for name, value in zeroed(part, values, 1e-30).items():
        if name in state:  # not constants of the module's code
            state[name].copy_(torch.from_numpy(value))
    for training in (False, True):
        expected = outputs(zeros, x, training)
        found = outputs(small, x, training)
        # normalising a batch's few values amplifies rounding
        close = (1e-8 if training else 1e-9) * expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=close)
    slopes, expected_slopes = gradients(small, values, x), gradients(zeros, values, x)
    same = inherit(part, Checkpoint("it", expected_slopes, part.full, {}), 0)
    for tensor in part.graph.tensors():
        if tensor.trained:
            found, wanted = slopes[tensor.name], same[tensor.name]
            # of biases before a normalisation they are zero but for rounding
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7 * scale_of(slopes))
    return small


def gradients(module: nn.Module, values, x: torch.Tensor) -> dict:
    """Of a function of the training outputs, by parameter; zero where there is none."""
    torch.manual_seed(0)
    module = copy.deepcopy(module).train()
    y = module(x)
    y = y if isinstance(y, torch.Tensor) else y[0]
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    slopes = {n: np.zeros_like(value) for n, value in values.items()}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in slopes and parameter.grad is not None:
            slopes[name] = parameter.grad.numpy()
    return slopes


def scale_of(slopes: dict) -> float:
    return max(float(np.abs(value).max()) for value in slopes.values() if value.size)
