"""Published structures: their sizes to the last digit, and which filters they keep."""

import numpy as np
import pytest
from conftest import random_tensors
from test_architectures import in_millions

from st.check import parse
from st.criteria import Subject
from st.criteria.published import PUBLISHED
from st.errors import StError
from st.phases.train import scaled_epochs
from st.registry import criteria
from st.search import Budget
from st.structure import Structure

# millions of parameters and MACs, percent of them removed, epochs of Scratch-B instead of 160
SIZES = {
    "vgg16-a": ("5.40", "206.3", "64.0", "34.2", 243),
    "resnet56-a": ("0.773", "112.4", "9.3", "10.4", 178),
    "resnet56-b": ("0.736", "90.9", "13.8", "27.6", 220),
    "resnet110-a": ("1.689", "212.8", "2.3", "15.9", 190),
    "resnet110-b": ("1.168", "155.1", "32.4", "38.7", 260),
}


def subject(family, options, shape=(3, 32, 32), classes=10) -> Subject:
    full = Structure(family, options, shape, classes)
    return Subject(full, random_tensors(full, np.random.default_rng(0)), Budget(), 0)


def found(name) -> tuple[Subject, Structure]:
    family, options, *_ = PUBLISHED[name]
    given = subject(family, options)
    return given, criteria.get("published")(given, name=name)


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    params, macs, less_params, less_macs, epochs = SIZES[name]
    _, structure = found(name)
    cost, full = structure.cost(), structure.full.cost()
    assert (in_millions(cost[0], params), in_millions(cost[1], macs)) == (params, macs)
    less = [f"{100 * (1 - part / whole):.1f}" for part, whole in zip(cost, full, strict=True)]
    assert less == [less_params, less_macs]
    job = {"training": {"epochs": 160}, "epoch_rule": "computation", "max_epoch_factor": None}
    assert scaled_epochs(job, structure) == epochs
    assert scaled_epochs({**job, "max_epoch_factor": 1.25}, structure) == min(epochs, 200)
    assert scaled_epochs({**job, "epoch_rule": "same"}, structure) == 160


def test_every_published_structure_is_tested():
    assert set(SIZES) == set(PUBLISHED)


@pytest.mark.parametrize("name", SIZES)
def test_filters_with_the_largest_norm_remain(name):
    given, structure = found(name)
    assert structure.keep
    for group, kept in structure.keep.items():
        assert list(kept) == sorted(set(kept.tolist()))
        norms = [np.abs(w.astype(np.float64)).sum() for w in given.tensors[f"{group}.weight"]]
        cut = np.setdiff1d(np.arange(len(norms)), kept)
        assert len(cut) and min(norms[i] for i in kept) > max(norms[i] for i in cut)


def test_skipped_layers_stay_whole():
    """ResNet-56-B by its numbers: 27 first convolutions, of which the skip list has six."""
    _, structure = found("resnet56-b")
    assert len(structure.graph.groups) == 27 and len(structure.keep) == 27 - 6
    for layer in (16, 18, 20, 34, 38, 54):
        stage, block = divmod(layer // 2 - 1, 9)
        assert f"stage{stage + 1}.block{block + 1}.conv1" not in structure.keep


@pytest.mark.parametrize(
    "name, family, options",
    [
        ("vgg16-a", "vgg", {"depth": 16}),
        ("vgg16-a", "vgg", {"depth": 19, "hidden": 512}),
        ("vgg16-a", "vgg", {"depth": 16, "hidden": 512, "width": 0.5}),
        ("resnet56-a", "resnet", {"depth": 110}),
        ("resnet110-a", "resnet", {"depth": 56}),
        ("resnet56-b", "preresnet", {"depth": 56}),
    ],
)
def test_other_supernets_are_refused(name, family, options):
    with pytest.raises(StError, match=f"'{name}' is a structure of a"):
        criteria.get("published")(subject(family, options), name=name)


def test_in_params(tiny):
    """Without a budget; and checked only for the architectures whose methods use it."""
    tiny["architectures"]["r"] = {"family": "resnet", "options": {"depth": 56}}
    tiny["searches"]["li"] = {
        "criterion": "published", "supernet": "sparse", "options": {"name": "resnet56-a"}
    }  # fmt: skip
    tiny["methods"]["li"] = {"search": "li", "architectures": ["r"]}
    budget = parse(tiny).searches["li"].budget
    assert set(budget.model_dump().values()) == {None}
    tiny["methods"]["li"]["architectures"] = ["r", "vgg"]
    with pytest.raises(StError, match=r"searches\.li\.criterion: vgg: .*a resnet of depth 56"):
        parse(tiny)
