"""Transformable Architecture Search: its parts against plain computations."""

import itertools
import json

import numpy as np
import pytest
import torch
from helpers.networks import counted, full_cost
from helpers.tas import NETWORKS, WIDTHS, generator, supernet
from torch.nn import functional as F

from st.core.errors import StError
from st.core.registry import criteria
from st.core.seeds import derive
from st.networks.graph import draw
from st.networks.inits.random import random
from st.networks.network import Network, build
from st.networks.structure import Structure
from st.pruning.tas import loop
from st.pruning.tas.network import Choice, Supernet, interpolated, mixed, sample
from st.pruning.tas.space import check_limits, kept_blocks, likeliest, read, shaped


def log_softmax(space, rng, spread=1.0) -> list[np.ndarray]:
    rows = [spread * rng.standard_normal(n) for n in space.candidates]
    return [row - np.log(np.exp(row).sum()) for row in rows]


# The extended resnet


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": [2, 1, 1]},
        {"blocks": [1, 2, 1], "channels": [5, 7, 9, 4, 6, 3, 11, 20, 8]},
        {"blocks": [1, 1, 1], "channels": [16, 3, 15, 2, 2, 64, 5], "width": 0.5},
    ],
)
def test_resnets_with_a_width_for_each_convolution(options):
    structure = Structure("resnet", options, (3, 9, 11), 7)
    assert structure.cost() == counted(structure)
    again = Structure.from_json(json.loads(json.dumps(structure.to_json())), "file")
    assert again == structure and again.graph.nodes == structure.graph.nodes
    logits = Network(structure)(torch.rand(2, 3, 9, 11))
    assert logits.isfinite().all()


def test_the_default_resnet_in_other_words():
    plain = draw("resnet", {"depth": 14}, (3, 32, 32), 10)
    channels = [16] * 5 + [32] * 4 + [64] * 4
    same = draw("resnet", {"blocks": [2, 2, 2], "channels": channels}, (3, 32, 32), 10)
    assert same.nodes == plain.nodes and same.tensors() == plain.tensors()
    names = [tensor.name for tensor in plain.tensors() if tensor.role == "convolution"]
    assert names[:4] == [
        "conv1.weight", *(f"stage1.block{b}.conv{c}.weight" for b, c in ((1, 1), (1, 2), (2, 1)))
    ]  # fmt: skip
    assert full_cost("resnet", {"depth": 56}) == (853018, 125485696)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"channels": [16] * 6}, "needs 55 widths"),
        ({"blocks": [1, 1, 1], "channels": [16] * 6}, "needs 7 widths"),
        ({"blocks": [1, 1]}, "blocks"),
        ({"blocks": [1, 1, 0]}, "blocks"),
        ({"blocks": [1, 1, 1], "channels": [0] * 7}, "channels"),
    ],
)
def test_resnets_that_cannot_be_drawn(options, words):
    with pytest.raises(StError) as caught:
        draw("resnet", options, (3, 8, 8), 10)
    assert words in str(caught.value) and "\n" not in str(caught.value)


# Its parts


@pytest.mark.parametrize("few, many", [(1, 5), (3, 10), (4, 8), (5, 7), (7, 7), (11, 12)])
def test_channel_wise_interpolation(few, many):
    x = torch.rand(2, few, 3, 4, generator=generator())
    expected = np.stack(
        [
            x.numpy()[:, int(np.floor(i * few / many)) : int(np.ceil((i + 1) * few / many))].mean(1)
            for i in range(many)
        ],
        1,
    )
    found = interpolated(x, many)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    torch.testing.assert_close(found, F.adaptive_avg_pool3d(x, (many, 3, 4)))
    wide = torch.rand(2, many, 3, 4, generator=generator(1))
    total = mixed([(x, torch.tensor(0.25)), (wide, torch.tensor(0.75))])
    torch.testing.assert_close(total, 0.25 * found + 0.75 * wide)


def test_two_widths_are_drawn_without_replacement():
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    rows = logits.repeat(20_000, 1)
    p = logits.softmax(0).numpy()
    index, weights, depths = sample(rows, len(rows), 0.05, generator())
    assert depths.shape == (0, 4)
    assert (index[:, 0] != index[:, 1]).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(rows)))
    for i, j in itertools.permutations(range(4), 2):
        found = ((index[:, 0] == i) & (index[:, 1] == j)).float().mean().item()
        assert found == pytest.approx(p[i] * p[j] / (1 - p[i]), abs=0.012)
    # hot: all pairs alike, and both have the same weight
    index, weights, _ = sample(rows, len(rows), 1e4, generator())
    for i, j in itertools.permutations(range(3), 2):
        found = ((index[:, 0] == i) & (index[:, 1] == j)).float().mean().item()
        assert found == pytest.approx(1 / 6, abs=0.012)
    assert (weights - 0.5).abs().max() < 0.01
    # cold, one of them has all of it, whichever of the candidates that exist
    _, weights, _ = sample(rows, len(rows), 1e-3, generator())
    assert (weights.max(1).values > 0.99).float().mean() > 0.98
    index, weights, _ = sample(torch.tensor([[0.3, -torch.inf]]), 1, 1.0, generator())
    assert index.tolist() == [[0, 1]] and weights.tolist() == [[1, 0]]


def test_all_depths_are_mixed_by_their_gumbel_softmax():
    """As the authors' code mixes them: p = softmax((log softmax(a) + g) / T), of all that exist."""
    rows = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]]).repeat(20_000, 1)
    _, _, depths = sample(rows, 0, 1.0, generator())
    assert depths.shape == rows.shape and (depths[:, :3] > 0).all() and (depths[:, 3] == 0).all()
    torch.testing.assert_close(depths.sum(1), torch.ones(len(rows)))
    # the largest is a draw from softmax(a), at any temperature
    for temperature in (0.01, 1.0):
        _, _, depths = sample(rows, 0, temperature, generator(1))
        found = torch.bincount(depths.argmax(1), minlength=4) / len(rows)
        np.testing.assert_allclose(found, rows[0].softmax(0), atol=0.012)
    _, _, hot = sample(rows, 0, 1e4, generator())
    assert (hot[:, :3] - 1 / 3).abs().max() < 0.01


def test_a_stage_is_the_weighted_sum_of_its_depths():
    """Against a plain computation: the blocks one after another, each depth's output weighted."""
    full = supernet(("resnet", {"depth": 20, "width": 0.25}))
    space = read(full, [1.0])
    network = Supernet(full, space, seed=1).double()
    layers, stages = len(space.layers), len(space.stages)
    assert [stage.depths for stage in space.stages] == [(1, 2, 3)] * 3
    depths = torch.rand(stages, 3, generator=generator(2), dtype=torch.float64).softmax(1)
    pairs = torch.tensor([[0, 1]] * layers), torch.tensor([[1.0, 0.0]] * layers).double()
    x = torch.rand(4, *full.input_shape, generator=generator(), dtype=torch.float64)
    found = network(x, Choice(*pairs, depths))

    filters = iter(zip(network.filters, network.norms, strict=True))

    def conv(y, stride=1):
        weight, norms = next(filters)
        return norms[0](F.conv2d(y, weight, stride=stride, padding=1))

    y = F.relu(conv(x))
    for stage in range(3):
        ends = []
        for block in range(3):
            stride = 2 if stage and not block else 1
            z = conv(F.relu(conv(y, stride)))
            shortcut = y[:, :, ::stride, ::stride]
            missing = z.shape[1] - y.shape[1]
            shortcut = F.pad(shortcut, (0, 0, 0, 0, missing // 2, missing - missing // 2))
            y = F.relu(z + shortcut)
            ends.append(y)
        y = sum(weight * end for weight, end in zip(depths[stage], ends, strict=True))
    linear = network.others["classifier"]
    torch.testing.assert_close(found, linear(y.mean((2, 3))))


def test_the_temperature_falls_by_a_cosine():
    options = criteria.check("tas", {"epochs": 8})
    run = loop.Search.__new__(loop.Search)
    run.options, run.epochs = options, 8
    found = [run.temperature(epoch) for epoch in range(8)]
    expected = [0.1 + 4.9 * (1 + np.cos(np.pi * epoch / 8)) / 2 for epoch in range(8)]
    np.testing.assert_allclose(found, expected)
    assert found[0] == 5


def test_candidates():
    assert [kept_blocks(n) for n in (1, 2, 3, 4, 5)] == [
        (1,), (1, 2), (1, 2, 3), (1, 3, 4), (1, 3, 5)
    ]  # fmt: skip
    space = read(Structure("resnet", {"depth": 56}, (3, 32, 32), 10), WIDTHS)
    assert [len(stage.blocks) for stage in space.stages] == [9, 9, 9]
    assert space.stages[0].depths == (1, 3, 5, 7, 9)
    assert space.layers[0].sizes == (4, 8, 11, 12, 14, 16) and space.stem == 1
    assert space.layers[-1].sizes == (19, 32, 44, 51, 57, 64)
    assert read(supernet(("vgg", {"layers": [1, 2]})), WIDTHS).candidates == [1, 2]


def choices(space):
    return itertools.product(*(range(n) for n in space.candidates))


@pytest.mark.parametrize(
    "network",
    [
        ("resnet", {"blocks": [2, 1, 1], "width": 0.25}),
        ("resnet", {"blocks": [1, 1, 3], "channels": [3, 4, 5, 5, 4, *[3, 4] * 3]}),
        ("vgg", {"layers": [6, "M", 9, 5], "hidden": 7}),
    ],
)
def test_macs_and_the_likeliest_choice_by_enumeration(network):
    full = supernet(network)
    space = read(full, [0.5, 1.0] if network[0] == "resnet" else WIDTHS)
    logs = log_softmax(space, np.random.default_rng(0))
    expected, every = 0.0, {}
    step = 7 if len(list(choices(space))) > 2000 else 1
    for number, choice in enumerate(choices(space)):
        macs = space.chosen_macs(choice)
        if number % step == 0:
            assert shaped(full, space, choice).cost()[1] == macs
        score = sum(row[i] for row, i in zip(logs, choice, strict=True))
        expected += np.exp(score) * macs
        every[choice] = (score, macs)
    sizes = [np.array(layer.sizes) for layer in space.layers]
    probabilities = [np.exp(row) for row in logs]
    widths = [p @ s for p, s in zip(probabilities, sizes, strict=False)]
    assert space.macs(widths, probabilities[len(sizes) :]) == pytest.approx(expected)
    assert every[tuple(n - 1 for n in space.candidates)][1] == full.cost()[1]

    for share in (0.3, 0.45, 0.6, 0.8, 1.0):
        target = share * full.cost()[1]
        found = tuple(likeliest(space, logs, target))
        near = [v for v in every.values() if 0.95 * target <= v[1] <= target]
        assert 0.95 * target <= every[found][1] <= target
        # layers that are left out do not count, whatever index they have
        best = max(near)[0]
        score = max(v[0] for c, v in every.items() if same(space, c, found))
        assert score == pytest.approx(best, abs=0.02)


def same(space, one, other) -> bool:
    """Whether two choices give one network."""
    full = space.stages
    if one[len(space.layers) :] != other[len(space.layers) :]:
        return False
    used = set(range(space.stem))
    for stage, chosen in zip(full, one[len(space.layers) :], strict=True):
        used |= {n for numbers, _ in stage.blocks[: stage.depths[chosen]] for n in numbers}
    return all(one[n] == other[n] for n in used)


def test_no_choice_is_close_enough():
    space = read(supernet(("vgg", {"layers": [10]})), [0.5, 1.0])
    logs = [np.log([0.1, 0.9])]
    half, full = (space.chosen_macs([i]) for i in (0, 1))
    assert likeliest(space, logs, full) == [1]
    assert likeliest(space, logs, full - 1) == likeliest(space, logs, half) == [0]


def test_limits_below_the_smallest_network():
    full = supernet(("vgg", {"layers": [10]}))
    space = read(full, [0.2, 0.5])  # not the whole width: shares are of the supernet all the same
    params, macs = shaped(full, space, [0]).cost()
    check_limits(full, space, (params, macs))
    told = f"{np.ceil(1e4 * macs / full.cost()[1]) / 1e4:.4f}"
    with pytest.raises(StError, match=rf"MACs cannot be met.*macs: {told}\)"):
        check_limits(full, space, (params, macs - 1))
    with pytest.raises(StError, match=r"parameters cannot be met.*params: 0\.2"):
        check_limits(full, space, (params - 1, macs))


@pytest.mark.parametrize("share", [1.0, 1.0001, 1.001])
def test_hardly_more_than_the_smallest_network(share):
    """The most probable of what is alike may be what nothing can follow."""
    full = Structure("vgg", {"layers": [64, 64, "M", "M", "M", 8, 8, 8]}, (3, 16, 16), 100)
    space, rng = read(full, [0.3, 0.5, 0.7, 0.8, 0.9, 1.0]), np.random.default_rng(0)
    target = np.floor(share * space.chosen_macs([0] * len(space.candidates)))
    for _ in range(10):
        logs = [np.log(rng.dirichlet(np.ones(n)) + 1e-12) for n in space.candidates]
        assert space.chosen_macs(likeliest(space, logs, target)) <= target


def test_cost_has_three_branches():
    for current, sign in ((101, 1), (100, 0), (96, 0), (95, 0), (94, -1)):
        expected = torch.tensor(80.0, requires_grad=True)
        value = loop.cost(expected, current, 100)
        if sign:
            value.backward()
            assert expected.grad.item() == pytest.approx(sign / 80)
            assert value.item() == pytest.approx(sign * np.log(0.8), rel=1e-5)
        else:
            assert value.item() == 0 and not value.requires_grad


@pytest.mark.parametrize("name", NETWORKS)
def test_the_supernet_holds_its_narrow_networks(name):
    """With all weight on one candidate it computes what that network does, with the first filters;
    the second draw is narrower, so that nothing is interpolated."""
    full = supernet(name)
    space = read(full, WIDTHS)
    network = Supernet(full, space, seed=1)
    layers = len(space.layers)
    for wanted, other, depth in ((1, 0, 0), (5, 2, -1)):
        index = torch.tensor([[wanted, other]] * layers)
        weights = torch.tensor([[1.0, 0.0]] * layers)
        depths = torch.zeros(len(space.stages), len(WIDTHS))
        choice = [wanted] * layers
        for row, stage in zip(depths, space.stages, strict=True):
            choice.append(len(stage.depths) - 1 if depth else 0)
            row[choice[-1]] = 1
        found = shaped(full, space, choice)
        initial, start = random(full, None, derive(1, "tas")), random(found, None, 0)
        for tensor, value in start.items():
            if tensor.endswith(".weight") and value.ndim > 1:
                start[tensor] = initial[tensor][tuple(slice(n) for n in value.shape)]
        x = torch.rand(5, *full.input_shape, generator=generator())
        expected = build(found, start).train()(x)
        mixture = network(x, Choice(index, weights, depths))
        torch.testing.assert_close(mixture, expected, rtol=1e-4, atol=1e-5)
