"""Structures: a pruned network computes what the masked one does."""

import json

import numpy as np
import pytest
from helpers.networks import pruned, random_keep, random_tensors

from st.core.registry import inits
from st.networks import network
from st.networks.checkpoint import Checkpoint
from st.networks.structure import Structure, load_structure, save_structure


def test_keeping_all_channels_changes_nothing(small):
    rng = np.random.default_rng(0)
    tensors = random_tensors(small, rng)
    every = {name: np.arange(group.size) for name, group in small.graph.groups.items()}
    part = pruned(small, every)
    inherited = inits.get("inherit")(part, Checkpoint("", tensors, small, {}), 0)
    assert {k: v.tobytes() for k, v in inherited.items()} == {
        k: v.tobytes() for k, v in tensors.items()
    }
    assert part.cost() == small.cost()


def test_inherit_prunes_what_is_pruned_already(small):
    """From the full network to a part of a part, in one step or two."""
    rng = np.random.default_rng(1)
    tensors = random_tensors(small, rng)
    part = pruned(small, random_keep(small, rng))
    less = pruned(small, {g: part.kept(g)[:: rng.integers(1, 3)] for g in small.graph.groups})
    inherit = inits.get("inherit")
    half_way = Checkpoint("", inherit(part, Checkpoint("", tensors, small, {}), 0), part, {})
    at_once = inherit(less, Checkpoint("", tensors, small, {}), 0)
    in_steps = inherit(less, half_way, 0)
    assert at_once.keys() == in_steps.keys()
    for name, value in at_once.items():
        np.testing.assert_array_equal(value, in_steps[name])


def test_random_weights_depend_on_seed_and_structure_alone(small):
    part = pruned(small, random_keep(small, np.random.default_rng(2)))
    random = inits.get("random")
    one, two, other = (random(part, None, seed) for seed in (5, 5, 6))
    roles = {tensor.name: tensor.role for tensor in part.graph.tensors()}
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
        if roles[name] in ("convolution", "linear"):
            assert not np.array_equal(value, other[name])
    scales = random(part, None, 5, bn_scale=0.5)
    for name, role in roles.items():
        if role == "scale":
            assert (one[name] == 1).all() and (scales[name] == 0.5).all()
        elif role == "variance":
            assert (one[name] == 1).all()
        elif role not in ("convolution", "linear"):
            assert not one[name].any()
    network.build(part, one)


def test_random_weights_have_the_stated_deviation():
    structure = Structure("vgg", {"layers": [64, 128]}, (3, 8, 8), 100)
    tensors = inits.get("random")(structure, None, 0)
    assert tensors["conv2.weight"].std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert abs(tensors["conv2.weight"].mean()) < 1e-3
    assert tensors["classifier.weight"].std() == pytest.approx(0.01, rel=0.03)


def test_json_round_trip(small, tmp_path):
    part = pruned(small, random_keep(small, np.random.default_rng(3)))
    save_structure(tmp_path / "structure.json", part, params_kept=0.5)
    back = load_structure(tmp_path / "structure.json")
    assert back.to_json() == part.to_json() == json.loads(json.dumps(part.to_json()))
    assert back.cost() == part.cost()
    for name in part.keep:
        np.testing.assert_array_equal(back.keep[name], part.keep[name])
    assert (back.family, back.options, back.input_shape, back.classes) == (
        part.family, part.options, part.input_shape, part.classes,
    )  # fmt: skip
