"""Criteria and inits on imported networks whose parameters are not those of layers."""

import numpy as np
import pytest
import torch
from helpers.modules import CASES
from torch import nn
from torch.nn import functional as F

import st
from st.core.errors import StError
from st.core.registry import criteria

SHAPE = (3, 8, 8)
OF_CHANNELS = [
    name for name in criteria.names()
    if criteria.get(name).ranks and not criteria.get(name).drawn
]  # fmt: skip


class Parts(nn.Module):
    """A convolution, and what `forward` makes of it with a weight of its own and a last layer."""

    def __init__(self, forward, *shape: int):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3), nn.Linear(12, 5)
        self.own = nn.Parameter(0.2 * torch.randn(*shape))
        self._forward = forward

    def forward(self, x):
        return self._forward(self, F.relu(self.conv(x)).mean((2, 3)))


class Numbers(nn.Module):
    """Parameters that are single numbers: a residual's weight, a temperature."""

    def __init__(self):
        super().__init__()
        self.conv, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.alpha, self.temperature = (
            nn.Parameter(torch.zeros([])),
            nn.Parameter(torch.tensor(9.0)),
        )
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.conv(x))
        x = x + self.alpha * F.relu(self.deep(x))
        return self.temperature * self.last(x.mean((2, 3)))


def experts(net, x):
    shares = x[:, :2].softmax(1)
    return net.last((shares[..., None] * torch.einsum("bi,eio->beo", x, net.own).relu()).sum(1))


OWN = {
    "a product": lambda: Parts(lambda net, x: net.last(F.relu(x @ net.own)), 8, 12),
    "an Einstein sum": lambda: Parts(
        lambda net, x: net.last(torch.einsum("bi,io->bo", x, net.own).relu()), 8, 12
    ),
    "experts": lambda: Parts(experts, 2, 8, 12),
    "numbers": Numbers,
    "nothing to remove": CASES["kernels of each image"][0],
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    labels = np.arange(20) % 5
    return st.dataset((train, labels), (train[:10], labels[:10]), classes=5)


@pytest.mark.parametrize("name", OWN)
def test_all_criteria_and_fresh_weights(name, data):
    torch.manual_seed(0)
    net = st.supernet(OWN[name](), SHAPE)
    for criterion in OF_CHANNELS:
        needs = {"data": data} if criteria.get(criterion).data else {}
        ranking = "global" if criteria.get(criterion).shares else "local"
        try:
            found = st.search(net, {"macs": 0.6}, criterion, ranking=ranking, **needs)
        except StError as error:
            assert "no channels to remove" in str(error) or criterion == "bn_scale", criterion
            continue
        assert name != "nothing to remove" and found.cost()[1] <= 0.6 * net.structure.cost()[1]
    if name != "nothing to remove":
        small = st.prune(net, found, init="random")
        assert small(torch.rand(2, *SHAPE)).isfinite().all()
