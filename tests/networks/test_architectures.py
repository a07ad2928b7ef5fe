"""Sizes: published numbers, and the drawing against the network that torch runs."""

import numpy as np
import pytest
import torch
from helpers.networks import counted, full_cost, in_millions, pruned, random_keep, small_structure
from torch.utils.flop_counter import FlopCounterMode

from st.core.device import Device
from st.core.errors import StError
from st.networks.graph import draw
from st.networks.network import Network
from st.networks.structure import Structure

# Millions of parameters and MACs, to the digits given: Liu et al. 2017, Liu et al. 2019
PUBLISHED = {
    "VGG-19": ("vgg", {"depth": 19}, "20.04", "398.1"),
    "VGG-16": ("vgg", {"depth": 16, "hidden": 512}, "14.99", "313.5"),
    "ResNet-56": ("resnet", {"depth": 56}, "0.853", "125.5"),
    "ResNet-110": ("resnet", {"depth": 110}, "1.728", "252.9"),
    "PreResNet-164": ("preresnet", {"depth": 164}, "1.703", "247.65"),
    "DenseNet-40": ("densenet", {"depth": 40}, "1.059", "282.9"),
    "DenseNet-40, 16 initial": ("densenet", {"depth": 40, "initial": 16}, "1.020", "264.8"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    family, options, params, macs = PUBLISHED[name]
    cost = full_cost(family, options)
    assert (in_millions(cost[0], params), in_millions(cost[1], macs)) == (params, macs)


CASES = [
    *(("vgg", {"depth": depth}) for depth in (11, 13, 16, 19)),
    ("vgg", {"depth": 16, "hidden": 512, "width": 0.25}),
    ("vgg", {"layers": [5, "M", "M", 7, 3, "M"], "width": 2.0}),
    *(("resnet", {"depth": depth, "width": 0.5}) for depth in (8, 20, 32, 44, 56)),
    ("resnet", {"depth": 110}),
    ("resnet", {"depth": 8, "width": 1.3}),
    *(("preresnet", {"depth": depth, "width": 0.3}) for depth in (11, 20, 56)),
    ("preresnet", {"depth": 164}),
    *(("preresnet", {"depth": depth, "bottleneck": False}) for depth in (8, 20)),
    *(("densenet", {"depth": depth, "growth": 6}) for depth in (7, 16)),
    ("densenet", {"depth": 40, "initial": 16}),
    ("densenet", {"depth": 22, "growth": 5, "width": 1.5, "bottleneck": True, "compression": 0.5}),
    ("densenet", {"depth": 10, "compression": 0.33, "initial": 1}),
]
IMAGES = [((3, 32, 32), 10), ((1, 8, 8), 3), ((2, 9, 11), 100), ((1, 28, 28), 2), ((3, 64, 64), 7)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{n}-{CASES[n][0]}")
def test_the_drawing_counts_as_torch_does(number):
    family, options = CASES[number]
    rng = np.random.default_rng(number)
    # one kind of images for deep networks, three for the others, in turn
    kinds = 1 if options.get("depth", 0) >= 20 else 3
    for images in (2 * IMAGES)[number % 5 :][:kinds]:
        full = Structure(family, options, *images)
        part = pruned(full, random_keep(full, rng))
        assert full.cost() == counted(full)
        assert part.cost() == counted(part)
        assert part.cost()[0] < full.cost()[0]


def test_what_runs_on_a_device_counts_the_same(small):
    """As evaluation counts it; how something is computed there must not show."""
    part = pruned(small, random_keep(small, np.random.default_rng(7)))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        Device("cpu").place(Network(part)).eval()(torch.rand(1, *part.input_shape))
    assert counter.get_total_flops() // 2 == part.cost()[1]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 32])
def test_networks_run_on_images_of_any_size(small, side):
    structure = Structure(small.family, small.options, (3, side, side), 4)
    for mode in (True, False):
        network = Network(structure).train(mode)
        outputs = network(torch.rand(3, 3, side, side), ("features", "logits"))
        assert outputs["logits"].shape == (3, 4)
        assert outputs["features"].ndim == 2
        assert torch.isfinite(outputs["logits"]).all()


def test_taps(small):
    network = Network(small)
    names = [n for n in small.graph.taps if n.startswith("stage")]
    outputs = network(torch.rand(2, *small.input_shape), tuple(small.graph.taps))
    assert names and all(outputs[name].ndim == 4 for name in names)
    torch.testing.assert_close(
        network.eval()(torch.ones(2, *small.input_shape), ("logits",))["logits"],
        network(torch.ones(2, *small.input_shape)),
    )
    classifier = network.classifier
    torch.testing.assert_close(classifier(outputs["features"]), outputs["logits"])


def test_shortcuts_subsample_and_pad_on_both_sides():
    graph = draw("resnet", {"depth": 8}, (3, 8, 8), 10)
    node = next(n for n in graph.nodes if n.op == "shortcut")
    from st.networks.network import apply

    x = torch.rand(1, 16, 7, 8)
    y = apply(node, [x])
    assert y.shape == (1, 32, 4, 4)
    torch.testing.assert_close(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


def test_group_names_and_kinds():
    graph = small_structure("preresnet").graph
    kinds = {name: group.kind for name, group in graph.groups.items()}
    assert kinds["stage1.block1.select"] == kinds["select"] == "selection"
    assert kinds["stage1.block1.conv1"] == kinds["stage1.block1.conv2"] == "filters"
    assert "stage1.block1.conv3" not in kinds and "conv1" not in kinds
    group = graph.groups["stage1.block1.conv1"]
    assert group.members == [("stage1.block1.conv1.weight", 0)]
    assert group.norms == ["stage1.block1.bn2.weight"]
    for name in graph.groups:
        assert graph.groups[name].norms, f"{name} has no scale to be ranked by"


@pytest.mark.parametrize(
    "family, options, words",
    [
        ("resnet", {"depth": 57}, "6n+2"),
        ("resnet", {"depth": 2}, "6n+2"),
        ("preresnet", {"depth": 20, "bottleneck": True, "width": 0}, "width"),
        ("preresnet", {"depth": 21}, "9n+2"),
        ("preresnet", {"depth": 11, "bottleneck": False}, "6n+2"),
        ("densenet", {"depth": 41}, "3n+4"),
        ("densenet", {"depth": 4}, "3n+4"),
        ("densenet", {"depth": 13, "bottleneck": True}, "6n+4"),
        ("vgg", {"depth": 12}, "depth"),
        ("vgg", {"layers": ["M", 8]}, "layers"),
        ("vgg", {"layers": []}, "layers"),
        ("vgg", {"layers": [8, 0]}, "layers"),
        ("vgg", {"layer": [8]}, "did you mean 'layers'"),
        ("vvg", {}, "did you mean 'vgg'"),
    ],
)
def test_options_that_cannot_be_drawn(family, options, words):
    with pytest.raises(StError) as caught:
        draw(family, options, (3, 32, 32), 10)
    assert words in str(caught.value) and "\n" not in str(caught.value)
