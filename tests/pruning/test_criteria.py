"""Criteria, against scores computed channel by channel."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from helpers.networks import pruned, random_keep, random_tensors, small_structure
from torch.nn import functional as F

from st.core.errors import StError
from st.core.registry import architectures, criteria, inits
from st.core.seeds import stream
from st.core.sources import sources
from st.data.dataset import Data, save_data
from st.networks import network
from st.networks.checkpoint import Checkpoint
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.search import searched
from st.pruning.selection import Budget

IMAGES = 30


LAYERS = ("conv", "linear")


def images() -> Data:
    """Noise of the shape and classes that SMALL is drawn for."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (IMAGES, 1, 9, 11)).astype(np.uint8)
    labels = rng.integers(0, 5, IMAGES)
    return Data(pixels, labels, pixels[:3], labels[:3], list("abcde"))


@pytest.fixture(params=["whole", "pruned"])
def subject(small, request, tmp_path):
    """A supernet, or what a lottery round left of it, and its data."""
    rng = np.random.default_rng(0)
    options = architectures.check(small.family, small.options)  # as jobs have them
    full = Structure(small.family, options, small.input_shape, small.classes)
    structure = full if request.param == "whole" else pruned(full, random_keep(full, rng))
    save_data(tmp_path / "data", images(), {})
    tensors = random_tensors(structure, rng)
    return Subject(structure, tensors, Budget(0.5, 0.5), 3, tmp_path / "data", "cpu")


def scores(subject, name, **options):
    found = criteria.get(name)(subject, **options)
    assert list(found) == list(subject.graph.groups)
    for group, values in found.items():
        assert values.shape == (len(subject.structure.kept(group)),)
    return found


def filters(subject, name):
    """Per channel, the weights that make it, or with which a selection's consumer reads it."""
    group = subject.graph.groups[name]
    if group.kind == "filters":
        weight = subject.tensors[f"{name}.weight"].astype(np.float64)
        return [weight[i].ravel() for i in range(len(weight))]
    (reader,) = [n.name for n in subject.graph.nodes if n.group_in == name and n.op in LAYERS]
    weight = subject.tensors[f"{reader}.weight"].astype(np.float64)
    return [weight[:, i].ravel() for i in range(weight.shape[1])]


def test_bn_scale_is_the_scale_that_follows(subject):
    for name, values in scores(subject, "bn_scale").items():
        (norm,) = subject.graph.groups[name].norms
        np.testing.assert_array_equal(values, np.abs(subject.tensors[norm]))


def test_bn_scale_tells_how_many_scales_are_near_zero(subject):
    norms = {norm for group in subject.graph.groups.values() for norm in group.norms}
    scales = [subject.tensors[name] for name in sorted(norms)]
    for scale in scales:
        scale[:] = 0.5
    told = criteria.get("bn_scale").told
    assert told(subject) == {"scales_near_zero": 0.0}
    scales[0][0], scales[-1][-1] = 0.009, -0.009
    assert told(subject)["scales_near_zero"] == 2 / sum(map(len, scales))


def test_norms_of_filters_and_of_what_reads_a_selection(subject):
    l1, l2 = scores(subject, "l1_norm"), scores(subject, "l2_norm")
    for name in subject.graph.groups:
        rows = filters(subject, name)
        np.testing.assert_allclose(l1[name], [np.abs(row).sum() for row in rows], rtol=1e-12)
        np.testing.assert_allclose(l2[name], [(row @ row) ** 0.5 for row in rows], rtol=1e-12)


def test_geometric_median_is_the_distance_to_all_others(subject):
    for name, values in scores(subject, "geometric_median").items():
        rows = filters(subject, name)
        expected = [sum(np.linalg.norm(one - other) for other in rows) for one in rows]
        np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_geometric_median_keeps_its_digits():
    """Filters that are nearly the same, and far from zero; and two that are the same."""
    from st.pruning.criteria.geometric_median import distances

    rng = np.random.default_rng(0)
    rows = 1e3 + 1e-3 * rng.standard_normal((20, 50))
    rows[1] = rows[0]
    expected = [sum(np.linalg.norm(one - other) for other in rows) for one in rows]
    np.testing.assert_allclose(distances(rows), expected, rtol=1e-6)
    assert (distances(np.ones((4, 3))) == 0).all()


def drawn(subject, amount):
    """The network in float64, and the images and labels that a data criterion with seed 3 sees."""
    data = images()
    order = stream(3, "criterion", "images").permutation(IMAGES)[:amount]
    pixels = data.train_images.astype(np.float64)
    normal = (pixels - pixels.mean()) / pixels.std()
    net = network.build(subject.structure, subject.tensors).double().eval()
    return net, torch.from_numpy(normal[order]), torch.from_numpy(data.train_labels[order])


def test_taylor_is_the_squared_gradient_of_a_gate(subject):
    """With gates that exist: a factor 1 on each normalised channel, and its gradient."""
    found = scores(subject, "taylor", images=20, batch_size=8)
    net, pixels, labels = drawn(subject, 20)
    gates, expected = {}, {}
    for name, group in subject.graph.groups.items():
        (norm,) = group.norms
        gates[name] = torch.ones(subject.widths[name], dtype=torch.float64, requires_grad=True)
        net.get_submodule(norm.removesuffix(".weight")).register_forward_hook(
            lambda layer, given, out, gate=gates[name]: out * gate[:, None, None]
        )
    for start in (0, 8, 16):  # the last batch has four images
        loss = F.cross_entropy(net(pixels[start : start + 8]), labels[start : start + 8])
        slopes = torch.autograd.grad(loss, list(gates.values()))
        for name, slope in zip(gates, slopes, strict=True):
            expected[name] = expected.get(name, 0) + slope.numpy() ** 2 / 3
    for name, values in found.items():
        limit = 1e-4 * expected[name].max()  # float32 against float64
        np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=limit)


@pytest.mark.parametrize("kind", ["mean", "apoz"])
def test_activation_is_what_remains_after_the_rectifier(subject, kind):
    found = scores(subject, "activation", kind=kind, images=IMAGES)
    net, pixels, _ = drawn(subject, IMAGES)
    seen = {}
    for name, group in subject.graph.groups.items():
        (norm,) = group.norms
        net.get_submodule(norm.removesuffix(".weight")).register_forward_hook(
            lambda layer, given, out, name=name: seen.update({name: out.numpy()})
        )
    with torch.inference_mode():
        net(pixels)
    for name, values in found.items():
        positive = np.where(seen[name] > 0, seen[name], 0)
        expected = (positive if kind == "mean" else seen[name] > 0).mean(axis=(0, 2, 3))
        # a value within rounding of zero may be counted on either side
        atol = 1e-5 if kind == "mean" else 1.5 / (IMAGES * seen[name][0, 0].size)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", ["taylor", "activation"])
def test_data_criteria_choose_images_by_the_seed(small, tmp_path, name):
    tensors = random_tensors(small, np.random.default_rng(0))
    save_data(tmp_path / "data", images(), {})
    one = Subject(small, tensors, Budget(0.5), 3, tmp_path / "data", "cpu")
    other = dataclasses.replace(one, seed=4)
    group = next(iter(small.graph.groups))
    some, again, changed = (scores(s, name, images=7)[group] for s in (one, one, other))
    np.testing.assert_array_equal(some, again)
    assert not np.allclose(some, changed)
    # more than there are: all, in an order that hardly matters
    every = [scores(s, name, images=10**6)[group] for s in (one, other)]
    if name == "activation":
        np.testing.assert_allclose(*every, rtol=1e-5)
    # the drawing that others use has no further taps
    assert set(small.graph.taps) == set(Structure(*dataclasses.astuple(small)[:4]).graph.taps)


@pytest.mark.parametrize("name", ["taylor", "activation"])
def test_data_criteria_need_the_supernets_data(small, tmp_path, name):
    tensors = random_tensors(small, np.random.default_rng(0))
    with pytest.raises(StError, match="give --data"):
        criteria.get(name)(Subject(small, tensors, Budget(0.5), 0))
    data = images()
    train, test = data.train_images[:, :, 1:], data.test_images[:, :, 1:]
    wrong = dataclasses.replace(data, train_images=train, test_images=test)
    save_data(tmp_path / "data", wrong, {})
    with pytest.raises(StError, match="image shape"):
        criteria.get(name)(Subject(small, tensors, Budget(0.5), 0, tmp_path / "data", "cpu"))


def test_only_what_trains_depends_on_the_training_code():
    for name in criteria.names():
        files = {path.name for path in sources("st.phases.search", criteria.module(name))}
        assert ("images.py" in files) == criteria.get(name).data, name
        assert ("optimiser.py" in files) == (name == "tas"), name


def test_random_depends_on_the_seed_and_the_group(subject):
    one = scores(subject, "random")
    again = scores(Subject(subject.structure, {}, Budget(), seed=3), "random")
    other = scores(Subject(subject.structure, {}, Budget(), seed=4), "random")
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
        assert not np.array_equal(one[name], other[name])
    first, second = list(one.values())[:2]
    shared = min(len(first), len(second))
    assert not np.array_equal(first[:shared], second[:shared])


# `published` has no default and suits few networks, `tas` takes minutes: tests of their own
@pytest.mark.parametrize("name", sorted(set(criteria.names()) - {"published", "tas"}))
def test_every_criterion_takes_its_defaults(subject, name):
    if subject.structure.keep and not criteria.get(name).ranks:
        return  # these search supernets only
    found = criteria.get(name)(subject, **criteria.check(name, {}))
    assert isinstance(found, Structure) != criteria.get(name).ranks
    if not isinstance(found, Structure):
        assert all(np.isfinite(values).all() for values in found.values())


def narrowed(name, budget, **options):
    """The structure that `uniform` gives for a network of SMALL at twice its width."""
    small = small_structure(name, (3, 32, 32), 10)
    full = Structure(small.family, {**small.options, "width": 2.0}, (3, 32, 32), 10)
    return full, criteria.get("uniform")(Subject(full, {}, budget, 0), **options)


@pytest.mark.parametrize("name", ["vgg", "resnet", "preresnet", "densenet-bc"])
@pytest.mark.parametrize("budget", [Budget(0.3), Budget(None, 0.5), Budget(0.1, 0.6), Budget(1.0)])
def test_uniform_is_the_widest_that_the_budget_pays_for(name, budget):
    full, found = narrowed(name, budget)
    assert found.keep == {} and found.full.options == full.options
    assert all(
        n <= limit for n, limit in zip(found.cost(), budget.limits(full.graph)[:2], strict=True)
    )
    wider = {**found.options, "width": found.options["width"] * 1.001}
    costs = Structure(found.family, wider, full.input_shape, full.classes).cost()
    limits = budget.limits(full.graph)[:2]
    fits = all(n <= limit for n, limit in zip(costs, limits, strict=True))
    assert not fits or costs == found.cost()


def test_uniform_narrows_streams_too():
    full, found = narrowed("resnet", Budget(0.3))
    share = [
        new.channels / old.channels
        for old, new in zip(full.graph.nodes, found.graph.nodes, strict=True)
        if old.op == "conv"
    ]
    assert max(share) < 1 and max(share) - min(share) <= 2 / 16


def test_uniform_says_what_it_cannot_do():
    with pytest.raises(StError, match="budget cannot be met"):
        narrowed("vgg", Budget(1e-6))
    plugin = Structure("vgg", {"layers": [8]}, (1, 8, 8), 10)
    with pytest.raises(StError, match="no option 'width'"):
        criteria.get("uniform")(Subject(plugin, {}, Budget(0.5), 0))


def found_by(structure, criterion, budget, seed=0, ranking="global"):
    job = {"criterion": criterion, "options": {}, "ranking": ranking}
    job |= {"min_channels": 1, "round_to": 1}
    return searched(job, Subject(structure, {}, budget, seed))


@pytest.mark.parametrize("budget", [Budget(0.1, 0.5), Budget(0.3, 0.2), Budget(0.3, 0.3)])
def test_tapered_uses_up_both_bounds(budget):
    full = Structure("vgg", {"depth": 16, "width": 0.25}, (3, 32, 32), 10)
    found = found_by(full, "tapered", budget)
    used = np.array(found.cost()) / budget.limits(full.graph)[:2]
    assert (used <= 1).all() and (used > 0.98).all()
    # shares follow the images' size: down with it where MACs may be more than parameters
    share = [found.widths[name] / full.widths[name] for name in full.graph.groups]
    change = np.sign(budget.macs - budget.params)
    assert all(change * (b - a) <= 0.05 for a, b in itertools.pairwise(share))
    assert (change * (share[0] - share[-1]) > 0.2) == (change != 0)
    # which channels is chance
    other = found_by(full, "tapered", budget, seed=1)
    assert other.widths == found.widths and other.to_json() != found.to_json()


@pytest.mark.parametrize("budget", [Budget(0.4), Budget(None, 0.5), Budget(channels=0.5)])
def test_tapered_keeps_equal_shares_for_one_bound(small, budget):
    tapered = found_by(small, "tapered", budget)
    assert tapered.widths == found_by(small, "random", budget, ranking="local").widths


@pytest.mark.parametrize("init", ["inherit", "rewind"])
def test_a_narrowed_network_has_no_weights_to_inherit(init):
    full, found = narrowed("resnet", Budget(0.3))
    tensors = random_tensors(full, np.random.default_rng(0))
    with pytest.raises(StError, match="not made of the supernet's channels"):
        inits.get(init)(found, Checkpoint("", tensors, full, {}), 0)
