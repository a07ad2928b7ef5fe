"""Imported modules: they compute what the module does, and pruned what it does with zeros."""

import numpy as np
import pytest
import torch
from helpers.importing import check, prepared, pruned, some_channels, structure_of
from helpers.modules import CASES, Plain, Small, Tied, between, block
from helpers.networks import zeroed
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from st.core.device import channels_last
from st.core.errors import StError
from st.networks import network
from st.networks.imported.export import imported


def slow_but(names, *quick: str) -> list:
    """Cases of a test, few of which are quick ones."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize(
    "name", slow_but(CASES, "squeeze and excite", "grouped", "shuffle", "attention", "squeezed")
)
def test_pruned_equals_zeroed(name):
    make, sizes = CASES[name]
    module = prepared(make())
    whole, values = structure_of(module)
    assert [group.size for group in whole.graph.groups.values()] == sizes
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        module.eval()(x)  # weights that hooks compute are then tensors that can be copied
    check(module, whole, values, x)
    for seed in range(4):
        part = some_channels(whole, np.random.default_rng(seed))
        small = check(module, part, values, x)
        assert part.cost()[0] == sum(p.numel() for p in small.parameters())
        small.eval()(x[:1])  # any number of images


INEXACT = {
    "linear attention": [8],
    "exponentials over channels": [6],
    "spatial attention": [8],
    "standardised weights": [8, 6],
    "group norm": [4],
    "written to": [6],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INEXACT)
def test_what_is_not_exact_is_said(name):
    module = prepared(CASES[name][0]())
    whole, values = structure_of(module)
    groups = whole.graph.groups.values()
    assert [group.size for group in groups if not group.exact] == INEXACT[name]
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    for group in groups:
        part = whole.with_keep({group.name: np.arange(group.size - 1)})
        full = network.bare(whole).double()
        full.load_state_dict(network.given(whole, zeroed(part, values)))
        found, expected = pruned(part, values).eval()(x), full.eval()(x)
        difference = float((found - expected).detach().abs().max() / expected.abs().max())
        assert (difference < 1e-9) == group.exact, group.name


def small_vgg() -> nn.Module:
    network = models.vgg11_bn(num_classes=10)
    network.avgpool = nn.AdaptiveAvgPool2d(2)
    network.classifier[0], network.classifier[3] = nn.Linear(2048, 32), nn.Linear(32, 16)
    network.classifier[6] = nn.Linear(16, 10)
    return network


# the network, the side of its images, its groups
NETWORKS = {
    "resnet18": (models.resnet18, 32, 12),
    "mobilenet_v2": (models.mobilenet_v2, 32, 25),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 32, 27),
    "shufflenet_v2": (models.shufflenet_v2_x0_5, 32, 80),
    "densenet": (lambda: models.DenseNet(8, (2, 3, 2, 2), 16), 32, 22),
    "googlenet": (lambda: models.googlenet(init_weights=False), 96, 57),
    "efficientnet_b0": (models.efficientnet_b0, 32, 40),
    "regnet_y_400mf": (models.regnet_y_400mf, 32, 53),
    "convnext_tiny": (models.convnext_tiny, 32, 22),
    "vgg": (small_vgg, 32, 10),
    "squeezenet": (models.squeezenet1_1, 32, 25),
}


@pytest.mark.parametrize("name", slow_but(NETWORKS, "squeezenet"))
def test_networks_of_torchvision(name):
    make, side, groups = NETWORKS[name]
    module = prepared(make())
    whole, values = structure_of(module, (3, side, side))
    assert len(whole.graph.groups) == groups
    x = torch.rand(2, 3, side, side, dtype=torch.float64)
    check(module, whole, values, x)
    part = some_channels(whole, np.random.default_rng(0), 0.5)
    small = check(module, part, values, x).eval()
    with FlopCounterMode(display=False) as counter:
        small(x[:1])
    assert part.cost() == (
        sum(p.numel() for p in small.parameters()),
        counter.get_total_flops() // 2,
    )
    most = 0.6 if name == "convnext_tiny" else 0.5  # of which the stream is not pruned exactly
    assert part.cost()[1] < most * whole.cost()[1]


def test_names_are_the_modules():
    module = prepared(Tied())
    whole, values = structure_of(module)
    net = network.build(whole, values)
    assert net.state_dict().keys() == module.state_dict().keys()
    assert net.b.weight is net.c.weight
    assert network.tensors(net).keys() == values.keys()
    assert whole.graph.groups["a"].members == [("a.weight", 0), ("c.weight", 0)]


class Spectra(nn.Module):
    """A filter of frequencies, with complex weights as pairs of numbers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8, 8, 5, 2))

    def forward(self, x):
        y = torch.fft.rfft2(x) * torch.view_as_complex(self.weight)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:3], 4, 2))
        return torch.fft.irfft2(y, s=x.shape[-2:]) + torch.view_as_real(pairs).reshape(x.shape)


IN_MEMORY = {
    "volumes": lambda: Plain(
        lambda x, a, b: b(F.relu(a(x.unsqueeze(2))).mean((2, 3, 4))),
        nn.Conv3d(3, 8, (1, 3, 3)), nn.Linear(8, 5),
    ),
    "spectra": lambda: Small(lambda x, a: a(x), Spectra()),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_MEMORY)
def test_networks_run_in_the_order_of_memory_that_is_fast(name):
    module = IN_MEMORY[name]().eval()
    net = channels_last(network.build(*structure_of(module))).eval()
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(net(x.contiguous(memory_format=torch.channels_last)), module(x))


def test_attributes_of_networks_cannot_be_parts_of_modules():
    net = network.build(*structure_of(Tied().double()))
    own = (vars(net).keys() | set(dir(type(net)))) - set(dir(nn.Module()))
    assert {name for name in own if not name.startswith("st_")} == set()


def test_what_is_pinned_is_said():
    program, _ = imported(CASES["along channels"][0](), (3, 8, 8))
    assert program.pinned == {"conv1d": 8, "the output": 5}


class Sign(torch.autograd.Function):
    """A straight-through estimator: its gradient is not that of what it computes."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, slope):
        return slope


sign = Sign.apply  # as is usual


def reversed_gradient(x):
    x.register_hook(lambda slope: -slope)
    return x


@pytest.mark.parametrize("function", [Sign.apply, sign, lambda x: Sign.apply(x)])
def test_own_gradients_are_said_to_be_left_out(function):
    program, _ = imported(between(function), (3, 8, 8))
    assert program.notes == ["the gradient of Sign is that of its forward, not its backward"]


def test_hooks_on_gradients_are_said_to_be_left_out():
    module = between(reversed_gradient)
    module.head.weight.register_hook(lambda slope: slope * 0)
    module.stem.register_full_backward_hook(lambda *_: None)
    program, _ = imported(module, (3, 8, 8))
    assert program.notes == [
        "hooks on gradients are left out: head.weight, module stem, "
        "reversed_gradient.<locals>.<lambda> in its forward"
    ]


def test_what_is_computed_again_has_gradients():
    module = prepared(Small(lambda x, a: x + (checkpoint(a, x, use_reentrant=True)), block(8, 8)))
    whole, values = structure_of(module)
    check(module, whole, values, torch.rand(3, 3, 8, 8, dtype=torch.float64))


@pytest.mark.slow
def test_recurrent_layers_count():
    rows = Plain(
        lambda x, a, b: b(a(x.flatten(1, 2))[0][:, -1]),
        nn.GRU(8, 6, batch_first=True),
        nn.Linear(6, 5),
    )
    whole, _ = structure_of(rows)
    assert whole.cost()[1] == 24 * 3 * 6 * (8 + 6) + 6 * 5


REFUSED = {
    "values": (
        lambda x: x if x.sum() > 0 else -x,
        "what it does depends on the values",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_imported_is_one_line(name):
    function, words = REFUSED[name]
    with pytest.raises(StError, match=words) as caught:
        imported(between(function), (3, 8, 8))
    assert "\n" not in str(caught.value)
