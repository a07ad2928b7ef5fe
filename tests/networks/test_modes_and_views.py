"""Imported modules that write into what others see, or whose parts have modes of their own."""

import numpy as np
import pytest
import torch
from helpers.importing import check, prepared, structure_of
from helpers.modules import Plain, Small, block
from torch import nn
from torch.nn import functional as F

import st
from st.core.device import channels_last
from st.networks import network


def written_through_a_view(x, one, two):
    y = one(x)
    flat = y.view(y.shape[0], -1)
    flat -= flat.mean(1, True)
    flat /= flat.std(1, keepdim=True)
    return two(F.relu(y).mean((2, 3)))


def written_through_a_reshape(x, one, two):
    y = one(x)
    y.flatten(2).mul_(y.mean((2, 3)).sigmoid().unsqueeze(2))
    return two(y.mean((2, 3)))


def viewed_then_written(x, one, two, three, four):
    y = two(one(x))
    seen = y.flatten(2)
    y += one(x)
    weights = torch.sigmoid(three(seen.mean(-1)))
    return four((F.relu(y) * weights[:, :, None, None]).mean((2, 3)))


def written_before_a_view(x, one, two):
    y = one(x)
    y.mul_(2)
    return two(F.relu(y.flatten(2)).mean(2))


def written_input(x, one, two):
    x -= x.mean((2, 3), keepdim=True)
    return two(F.relu(one(x)).mean((2, 3)))


def convolution(channels_in, channels):
    return nn.Conv2d(channels_in, channels, 3, padding=1)


WRITING = {
    "through a view": lambda: Plain(written_through_a_view, convolution(3, 8), nn.Linear(8, 5)),
    "reshaped": lambda: Plain(written_through_a_reshape, convolution(3, 8), nn.Linear(8, 5)),
    "after a view": lambda: Plain(
        viewed_then_written, convolution(3, 8), convolution(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
    ),
    "before a view": lambda: Plain(written_before_a_view, convolution(3, 8), nn.Linear(8, 5)),
    "into the images": lambda: Plain(written_input, convolution(3, 8), nn.Linear(8, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITING)
def test_what_is_written_in_any_order_of_memory(name):
    module = prepared(WRITING[name]())
    whole, values = structure_of(module)
    own = channels_last(network.bare(whole).double())
    own.load_state_dict(network.given(whole, values))
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    for training in (True, False):
        expected = module.train(training)(images.clone())
        for order in (torch.contiguous_format, torch.channels_last):
            given = images.clone(memory_format=order)
            found = own.train(training)(given)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
            assert torch.equal(given, images)  # which a teacher sees next


def test_values_of_taps_are_those_of_their_time():
    """Whatever is written into them afterwards."""

    class Steps(nn.Module):
        def __init__(self, in_place):
            super().__init__()
            self.one, self.two, self.head = convolution(3, 8), convolution(8, 8), nn.Linear(8, 5)
            self.in_place = in_place

        def forward(self, x):
            y = F.relu(self.one(x))
            if self.in_place:
                z = self.two(y)
                y *= 5
                z += y
            else:
                z = self.two(y)
                z = z + y * 5
            return self.head(F.relu(z).mean((2, 3)))

    found = []
    for in_place in (True, False):
        module = prepared(Steps(in_place))
        whole, values = structure_of(module)
        nodes = whole.program.forms["eval"]
        (tap,) = [n for n, node in enumerate(nodes) if node.name == "relu"][:1]
        own = whole.with_taps({"first": {"eval": tap}})
        net = network.bare(own).double().eval()
        net.load_state_dict(network.given(own, values))
        images = torch.linspace(0, 1, 2 * 192, dtype=torch.float64).view(2, 3, 8, 8)
        found.append(net(images, ("first", "logits")))
    for key in ("first", "logits"):
        torch.testing.assert_close(found[0][key], found[1][key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("in_place", [False, True])
def test_the_output_is_computed_from_what_taps_give(in_place):
    """Or a loss on the output would have no gradient there, and be called inert."""

    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = convolution(3, 8), convolution(8, 8), nn.Linear(8, 5)
            self.act = nn.ReLU(inplace=in_place)

        def forward(self, x):
            y = self.two(self.act(self.one(x)))
            y = y + x.mean() if not in_place else y.add_(x.mean())
            return self.head(self.act(y).mean((2, 3)))

    module = prepared(Steps())
    whole, values = structure_of(module)
    nodes = whole.program.forms["train"]
    (tap,) = [n for n, node in enumerate(nodes) if node.name == "add"]
    net = network.bare(whole.with_taps({"first": {"train": tap, "eval": tap}})).double()
    net.load_state_dict(network.given(whole, values))
    images = torch.linspace(0, 1, 2 * 192, dtype=torch.float64).view(2, 3, 8, 8)
    found = net(images, ("first", "logits"))
    (gradient,) = torch.autograd.grad(found["logits"].square().sum(), found["first"])
    assert gradient.norm() > 0 and found["first"].min() < 0
    torch.testing.assert_close(found["logits"], module.train()(images))


class Own(nn.Module):
    """Normalises by the batch in evaluation too."""

    def __init__(self, functional):
        super().__init__()
        self.conv, self.norm = convolution(3, 8), nn.BatchNorm2d(8)
        self.head, self.functional = nn.Linear(8, 5), functional

    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self

    def forward(self, x):
        y, norm = self.conv(x), self.norm
        if self.functional:
            y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, True)
        else:
            y = norm(y)
        return self.head(F.relu(y).mean((2, 3)))


@pytest.mark.parametrize("functional", [True, False])
def test_normalisations_of_a_mode_of_their_own(functional):
    module = prepared(Own(functional)).eval()
    whole, values = structure_of(module)
    assert whole.graph.groups["conv"].size == 8
    own = network.bare(whole).double()
    own.load_state_dict(network.given(whole, values))
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    found, folded = own.eval()(images), network.folded(own)(images)
    expected = module(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-9)


def test_an_axis_that_becomes_one_is_not_dropped():
    def rows(x, one, two):
        return two(F.relu(one(x.mean((2, 3)))).squeeze(-1))

    def maps(x, one, two):
        y = one(x).squeeze(1).squeeze((1, 2))
        return two(y.squeeze(1).mean((2, 3)))

    for module in (
        Plain(rows, nn.Linear(3, 6), nn.Linear(6, 5)),
        Plain(maps, block(3, 6), nn.Linear(6, 5)),
    ):
        whole, values = structure_of(prepared(module))
        part = whole.with_keep({name: np.array([2]) for name in whole.graph.groups})
        assert part.keep
        check(module, part, values, torch.rand(3, 3, 8, 8, dtype=torch.float64))


class Normalised(nn.Module):
    """Batch normalisations that are no layers of an imported network, beside one that is."""

    def __init__(self):
        super().__init__()
        self.one, self.layer = convolution(3, 8), nn.BatchNorm2d(8)
        self.two, self.rows = convolution(8, 8), nn.BatchNorm1d(8)
        self.three, self.shared = convolution(8, 8), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.layer(self.one(x)))
        x = F.relu(self.rows(self.two(x).flatten(2)).unflatten(2, (8, 8)))
        x = F.relu(self.shared(self.shared(self.three(x))))
        return self.head(x.mean((2, 3)))


def data():
    images = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return st.dataset((images, torch.arange(24) % 4), (images, torch.arange(24) % 4))


def test_the_penalty_is_one_on_all_scales_that_are_ranked():
    whole = st.supernet(Normalised(), input_shape=(3, 8, 8))
    ranked = {norm for group in whole.structure.graph.groups.values() for norm in group.norms}
    assert ranked == {"layer.weight", "rows.weight", "shared.weight"}
    quiet = {"epochs": 2, "batch_size": 8, "lr": 0.01, "weight_decay": 0.0}
    plain, sparse = (
        st.train(whole, data(), sparsity=sparsity, **quiet).network.state_dict()
        for sparsity in (0.0, 1.0)
    )
    for name in ranked:
        assert (plain[name] - sparse[name]).mean() > 0.04, name


def test_a_penalty_on_nothing_is_refused():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.head = convolution(3, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.head(F.relu(self.one(x)).mean((2, 3)))

    whole = st.supernet(Bare(), input_shape=(3, 8, 8))
    with pytest.raises(st.StError, match=r"\(sparsity\).*has none that are trained; leave it out"):
        st.train(whole, data(), sparsity=1e-3, epochs=1)


def test_infinite_buffers_are_no_divergence():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.head = convolution(3, 8), nn.Linear(8, 4)
            self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))

        def forward(self, x):
            y = self.one(x).flatten(2)
            return self.head((torch.softmax(y @ y.mT + self.mask, -1) @ y).mean(2))

    whole = st.supernet(Masked(), input_shape=(3, 8, 8))
    assert st.train(whole, data(), epochs=1, lr=0.01).history[0]["epoch"] == 1


def test_frozen_layers_are_scored_as_any():
    """What its maker froze is no less important for that."""
    module = Small(lambda x, a, b: b(a(x)), block(8, 8), block(8, 8))
    scores = []
    for frozen in (False, True):
        for parameter in module.parts[0].parameters():
            parameter.requires_grad = not frozen
        whole = st.supernet(module, input_shape=(3, 8, 8), classes=4, seed=0)
        found = st.search(whole, {"channels": 0.5}, "taylor", data=data())
        scores.append(found.keep)
    assert all(np.array_equal(scores[0][name], scores[1][name]) for name in scores[0])


def test_complex_weights_are_refused():
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 8, 5, dtype=torch.cfloat))
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            y = torch.einsum("nchw,cdw->ndhw", torch.fft.rfft(x), self.weight)
            return self.head(torch.fft.irfft(y).mean((2, 3)))

    with pytest.raises(st.StError, match="'weight' is complex, which is not supported"):
        st.supernet(Spectral(), input_shape=(3, 8, 8))


def test_without_channels_to_remove_budgets_are_refused():
    whole = st.supernet(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), input_shape=(3, 8, 8))
    for budget in ({"channels": 0.5}, {"params": 0.5}):
        with pytest.raises(st.StError, match="the network has no channels to remove"):
            st.search(whole, budget, "l1_norm", ranking="local")


def test_of_several_results_those_of_the_classes_are_taken():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.head = convolution(3, 8), nn.Linear(8, 4)

        def forward(self, x):
            features = F.relu(self.one(x)).mean((2, 3))
            return features, self.head(features)

    for classes in (4, ["a", "b", "c", "d"]):
        whole = st.supernet(Two(), input_shape=(3, 8, 8), classes=classes)
        assert whole.structure.classes == 4
