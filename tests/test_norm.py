"""Batch normalisation of several positions at a time computes what torch's does."""

import pytest
import torch
from torch import nn

from st.norm import BatchNorm

CASES = [  # images, channels, height, width, threads: each taken several positions at a time
    (16, 8, 32, 32, 1),
    (13, 20, 30, 34, 1),
    (64, 3, 32, 32, 2),
    (32, 12, 24, 24, 2),
    (20, 47, 16, 16, 2),
]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def both(x: torch.Tensor, epochs: int = 2) -> list[dict[str, torch.Tensor]]:
    """All that torch's and ours make of it in training."""
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(x.shape, generator=generator).to(x.dtype)
    gradient = gradient.to(memory_format=torch.channels_last)
    found = []
    for module in (nn.BatchNorm2d(x.shape[1]), BatchNorm(x.shape[1])):
        module = module.double() if x.dtype == torch.float64 else module
        with torch.no_grad():
            module.weight.copy_(torch.linspace(0.5, 2, x.shape[1]))
            module.bias.copy_(torch.linspace(-1, 1, x.shape[1]))
        images = x.clone(memory_format=torch.preserve_format).requires_grad_()
        for _ in range(epochs):
            y = module(images)
            y.backward(gradient)
        gradients = {name: weight.grad for name, weight in module.named_parameters()}
        result = {"y": y.detach(), "x": images.grad, **gradients}
        found.append(result | dict(module.named_buffers()))
    return found


def an_input(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    x = torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(0))
    x = x * torch.linspace(0.1, 3, channels)[:, None, None] + 5
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("n", "channels", "height", "width", "count"), CASES)
def test_same_as_torchs(n, channels, height, width, count, threads):
    threads(count)
    x = an_input(n, channels, height, width)
    assert BatchNorm(channels)._together(x) > 1
    expected, found = both(x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-4, msg=name)
    assert found["y"].is_contiguous(memory_format=torch.channels_last)
    assert found["x"].is_contiguous(memory_format=torch.channels_last)


def test_gradient_of_exact_arithmetic(threads):
    """Against torch's in float64, the error is that of float32."""
    threads(1)
    x = an_input(64, 5, 32, 32)
    (exact, _), (_, found) = both(x.double(), 1), both(x, 1)
    torch.testing.assert_close(found["x"].double(), exact["x"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "x",
    [
        an_input(64, 16, 32, 32),  # fills registers
        an_input(2, 5, 8, 8),  # little work
        an_input(64, 5, 32, 32).contiguous(),  # not channels_last
        an_input(64, 5, 32, 32).double(),
        an_input(64, 5, 32, 32).bfloat16(),
        an_input(31, 5, 31, 31),  # an odd number of positions
        an_input(16, 25, 32, 32),  # more channels than pay with one thread
    ],
    ids=["full", "little", "layout", "float64", "bfloat16", "odd", "many"],
)
def test_the_rest_is_torchs_own(x, threads):
    threads(1)
    module = BatchNorm(x.shape[1])
    assert module._together(x) == 1
    expected, found = both(x)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_evaluation_is_torchs_own():
    x = an_input(64, 5, 32, 32)
    ours, torchs = BatchNorm(5).eval(), nn.BatchNorm2d(5).eval()
    assert torch.equal(ours(x), torchs(x))
    assert ours.num_batches_tracked == 0
