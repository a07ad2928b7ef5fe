"""Drawn families and the same networks imported from torch agree; files of programs are checked."""

import copy
import json

import numpy as np
import pytest
import torch
from helpers.networks import random_keep, random_tensors, small_structure
from torch import nn

from st.core.errors import StError
from st.data.dataset import Data, save_data
from st.networks import network
from st.networks.checkpoint import Checkpoint, load_model, save_model
from st.networks.imported.export import imported
from st.networks.inits import sliced
from st.networks.inits.random import random
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.criteria.activation import activation
from st.pruning.criteria.bn_scale import bn_scale
from st.pruning.criteria.geometric_median import geometric_median
from st.pruning.criteria.l1_norm import l1_norm
from st.pruning.criteria.taylor import taylor
from st.pruning.selection import Budget, select_channels

SHAPE, CLASSES = (1, 9, 11), 5


def plain(layer: nn.Module) -> nn.Module:
    """Torch's own layer."""
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        if isinstance(layer, kind):
            other = kind(layer.num_features)
            other.load_state_dict(layer.state_dict())
            return other
    return layer


def twins(drawn: Structure, **options):
    """A drawn structure, the same imported, and weights that fit both."""
    tensors = random_tensors(drawn, np.random.default_rng(0))
    module = network.build(drawn, tensors)
    module.st_exchange(plain)
    program, values = imported(module, SHAPE, **options)
    assert values.keys() == tensors.keys()
    return Structure("import", {}, SHAPE, CLASSES, program=program), tensors


def logits(structure, tensors, x):
    return network.build(structure, tensors).eval()(x)


@pytest.mark.slow
def test_costs_and_logits(small):
    other, tensors = twins(small)
    assert other.cost() == small.cost()
    x = torch.rand(3, *SHAPE)
    assert torch.equal(logits(other, tensors, x), logits(small, tensors, x))
    assert {t.name: (t.shape, t.role) for t in other.graph.tensors()} == {
        t.name: (t.shape, t.role) for t in small.graph.tensors()
    }


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_groups_scores_and_pruned_networks(name):
    """Of families whose streams stay whole, as they are drawn."""
    drawn = small_structure(name)
    other, tensors = twins(drawn, streams=False)
    groups = {g.name: (g.size, g.norms, g.members) for g in drawn.graph.groups.values()}
    assert {g.name: (g.size, g.norms, g.members) for g in other.graph.groups.values()} == groups
    one, two = (Subject(s, tensors, Budget(0.3, 0.5), 0) for s in (drawn, other))
    for criterion in (l1_norm, bn_scale, geometric_median):
        found, same = criterion(one), criterion(two)
        assert found.keys() == same.keys()
        for group, values in found.items():
            np.testing.assert_array_equal(values, same[group])
    keep = select_channels(drawn.graph, l1_norm(one), one.budget)
    again = select_channels(other.graph, l1_norm(two), two.budget)
    assert {g: k.tolist() for g, k in keep.items()} == {g: k.tolist() for g, k in again.items()}
    x = torch.rand(2, *SHAPE)
    for seed in range(3):
        keep = random_keep(drawn, np.random.default_rng(seed))
        part, twin = drawn.with_keep(keep), other.with_keep(keep)
        assert part.cost() == twin.cost() and part.shapes() == twin.shapes()
        pruned = sliced(part, Checkpoint("", tensors, drawn, {}))
        same = sliced(twin, Checkpoint("", tensors, other, {}))
        torch.testing.assert_close(logits(part, pruned, x), logits(twin, same, x))
        fresh, also = random(part, None, 3), random(twin, Checkpoint("", tensors, other, {}), 3)
        assert all(np.array_equal(fresh[name], also[name]) for name in fresh)


def test_folded_for_evaluation():
    other, tensors = twins(small_structure("resnet"))
    net = network.build(other, tensors).eval()
    assert net.st_foldable
    x = torch.rand(2, *SHAPE)
    torch.testing.assert_close(network.folded(net)(x), net(x), rtol=1e-4, atol=1e-4)
    layers = [type(m).__name__ for m in network.folded(net).modules()]
    assert "Identity" in layers


def test_a_model_file_holds_the_whole_network(tmp_path):
    other, tensors = twins(small_structure("resnet"))
    part = other.with_keep(random_keep(other, np.random.default_rng(1)))
    pruned = sliced(part, Checkpoint("", tensors, other, {}))
    save_model(tmp_path / "m.safetensors", part, pruned)
    found = load_model(tmp_path / "m.safetensors")
    assert found.structure.program == other.program
    x = torch.rand(2, *SHAPE)
    assert torch.equal(network.load(found).eval()(x), logits(part, pruned, x))


def damaged():
    """What may be wrong with a program in a file, as changes of its JSON."""

    def change(*path, value):
        def apply(data):
            for key in path[:-1]:
                data = data[key]
            data[path[-1]] = value

        return apply

    last = "forms", "eval", -1
    yield "version", change("version", value=99)
    yield "a node of itself", change("forms", "eval", 3, "args", value=[{"node": 3}])
    yield "a later node", change("forms", "train", 1, "args", value=[{"node": 9}])
    yield "an unknown tensor", change("forms", "eval", 3, "args", value=[{"tensor": "x"}])
    yield "no forms", change("forms", value={})
    yield "no end", change(*last, "op", value="aten.relu.default")
    yield "a negative unit", change("layouts", 0, value=[[-5, 1, 3]])
    yield "a unit too much", change("layouts", 0, value=[[0, 1, 10**6]])
    yield "a huge layout", change("layouts", 0, value=[[0, 0, 10**12]])
    yield "uneven units", change("layouts", 0, value=[[0, 0, 6]])
    yield "a text as layouts", change("layouts", value="x")
    yield "a tap that is no node", change("taps", "logits", "eval", value=10**6)
    yield "no taps", change("taps", value={})
    yield "classes", change("classes", value=4)
    yield "a group of no size", lambda data: next(iter(data["groups"].values())).update(size=0)
    yield (
        "a layout that is not there",
        lambda data: next(iter(data["stored"].values())).update(layout=[99, None, None, None]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("what", dict(damaged()))
def test_damaged_programs_are_refused(what):
    whole, _ = twins(small_structure("vgg"))
    data = json.loads(json.dumps(whole.to_json()))
    Structure.from_json(copy.deepcopy(data), "good.json")
    dict(damaged())[what](data["program"])
    with pytest.raises(StError, match=r"^bad\.json: ") as caught:
        Structure.from_json(data, "bad.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("op", ["aten.from_file.default", "os.system", "aten.no.default", "eval"])
def test_a_file_runs_nothing_but_operators(op):
    whole, tensors = twins(small_structure("vgg"))
    data = json.loads(json.dumps(whole.to_json()))
    nodes = data["program"]["forms"]["eval"]
    next(node for node in nodes if node["op"].startswith("aten.relu"))["op"] = op
    with pytest.raises(StError, match="has no operator"):
        network.build(Structure.from_json(data, "it"), tensors)


def test_activation_and_taylor_of_imported_channels(tmp_path):
    """As the drawn twin's."""
    drawn = small_structure("vgg")
    other, tensors = twins(drawn)
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (30, *SHAPE)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, 30)
    images = Data(pixels, labels, pixels[:3], labels[:3], list("abcde"))
    save_data(tmp_path / "data", images, {})
    for criterion in (activation, taylor):
        one, two = (
            criterion(Subject(s, tensors, Budget(0.3), 0, tmp_path / "data", "cpu"), images=20)
            for s in (drawn, other)
        )
        assert one.keys() == two.keys()
        for group in one:
            np.testing.assert_allclose(one[group], two[group], rtol=1e-5)
