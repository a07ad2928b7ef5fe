"""Criteria, against scores computed channel by channel."""

import numpy as np
import pytest
from conftest import random_tensors, small_structure

from st.checkpoint import Checkpoint
from st.criteria import Subject
from st.errors import StError
from st.registry import architectures, criteria, inits
from st.search import Budget
from st.structure import Structure


@pytest.fixture
def subject(small):
    tensors = random_tensors(small, np.random.default_rng(0))
    options = architectures.check(small.family, small.options)  # as jobs have them
    full = Structure(small.family, options, small.input_shape, small.classes)
    return Subject(full, tensors, Budget(0.5, 0.5), seed=3)


def scores(subject, name):
    found = criteria.get(name)(subject)
    assert list(found) == list(subject.graph.groups)
    for group, values in found.items():
        assert values.shape == (subject.graph.groups[group].size,)
    return found


def test_bn_scale_is_the_scale_that_follows(subject):
    for name, values in scores(subject, "bn_scale").items():
        (norm,) = subject.graph.groups[name].norms
        np.testing.assert_array_equal(values, np.abs(subject.tensors[f"{norm}.weight"]))


def test_l1_norm_of_filters_and_of_what_reads_a_selection(subject):
    for name, values in scores(subject, "l1_norm").items():
        group = subject.graph.groups[name]
        if group.kind == "filters":
            weight = subject.tensors[f"{name}.weight"]
            expected = [np.abs(weight[i]).astype(np.float64).sum() for i in range(group.size)]
        else:
            (reader,) = group.consumers
            weight = subject.tensors[f"{reader}.weight"]
            expected = [np.abs(weight[:, i]).astype(np.float64).sum() for i in range(group.size)]
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_random_depends_on_the_seed_and_the_group(subject):
    one = scores(subject, "random")
    again = scores(Subject(subject.structure, {}, Budget(), seed=3), "random")
    other = scores(Subject(subject.structure, {}, Budget(), seed=4), "random")
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
        assert not np.array_equal(one[name], other[name])
    first, second = list(one.values())[:2]
    assert not np.array_equal(first[:4], second[:4])


@pytest.mark.parametrize("name", criteria.names())
def test_every_criterion_takes_its_defaults(subject, name):
    assert criteria.check(name, {}) is not None
    if getattr(criteria.get(name), "data", False):
        pytest.skip("reads data; it has tests of its own")
    found = criteria.get(name)(subject, **criteria.check(name, {}))
    assert isinstance(found, Structure) != getattr(criteria.get(name), "ranks", True)
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
    assert all(n <= limit for n, limit in zip(found.cost(), budget.limits(full.graph), strict=True))
    wider = {**found.options, "width": found.options["width"] * 1.001}
    costs = Structure(found.family, wider, full.input_shape, full.classes).cost()
    limits = budget.limits(full.graph)
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


@pytest.mark.parametrize("init", ["inherit", "rewind"])
def test_a_narrowed_network_has_no_weights_to_inherit(init):
    full, found = narrowed("resnet", Budget(0.3))
    tensors = random_tensors(full, np.random.default_rng(0))
    with pytest.raises(StError, match="not made of the supernet's channels"):
        inits.get(init)(found, Checkpoint("", tensors, full, {}), 0)
