"""Published structures: their sizes to the last digit, and which filters they keep."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.networks import in_millions, random_tensors

from st.config.check import parse
from st.core.errors import StError
from st.core.registry import criteria
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.criteria.published import PUBLISHED
from st.pruning.selection import Budget, select_channels
from st.training.epochs import scaled_epochs

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


# Network slimming of VGG-19 as reproduced by foolwood/pytorch-slimming: the pruned part of all
# channels, the widths, millions of parameters and MACs, and how far these may be off: the last
# row's are not quite those of its widths. (So are those of its row for 0.3, left out here.)
SLIMMED = [
    (0.1, "60 64 128 128 256 255 253 245 436 417 425 462 463 465 472 424", 15.9, 349.22, 0.002),
    (0.2, "58 64 128 128 256 255 250 233 360 336 329 398 420 412 435 341", 12.28, 307.78, 0.002),
    (0.4, "52 64 128 128 256 254 247 218 218 162 166 294 317 315 318 165", 6.74, 247.86, 0.002),
    (0.5, "52 64 128 128 256 254 245 214 179 117 116 229 228 220 210 111", 4.62, 231.86, 0.002),
    (0.6, "51 64 128 128 256 254 245 213 165 85 92 153 83 86 87 111", 3.14, 222.17, 0.002),
    (0.7, "49 64 128 128 256 254 234 198 114 41 24 11 14 13 19 104", 2.42, 210.84, 0.025),
]


@pytest.mark.parametrize("pruned, widths, params, macs, error", SLIMMED)
def test_network_slimming_of_vgg19(pruned, widths, params, macs, error):
    """One threshold for all layers, given as a part of the channels, gives the published network
    from scales that lie above a threshold where it kept them."""
    random = np.random.default_rng(0)
    full = Structure("vgg", {"depth": 19}, (3, 32, 32), 10)
    scores, expected = {}, {}
    for (name, group), width in zip(
        full.graph.groups.items(), map(int, widths.split()), strict=True
    ):
        kept = random.permutation(group.size)[:width]
        scores[name], expected[name] = random.uniform(0, 0.1, group.size), set(kept.tolist())
        scores[name][kept] = random.uniform(0.1, 1, width)
    keep = select_channels(full.graph, scores, Budget(channels=1 - pruned))
    found = {name: set(kept.tolist()) for name, kept in keep.items()}
    # the authors' threshold is itself not kept: where the fraction is no whole number of channels,
    # one more is in the budget
    assert all(expected[name] <= found[name] for name in expected)
    assert sum(map(len, found.values())) - sum(map(len, expected.values())) <= 1
    cost = Structure("vgg", {"depth": 19}, (3, 32, 32), 10, keep).cost()
    assert cost[0] / 1e6 == pytest.approx(params, rel=error)
    assert cost[1] / 1e6 == pytest.approx(macs, rel=error)


STAGES = ((16, 64, 16), (64, 128, 32), (128, 256, 64))  # channels before, after, in between
PRERESNET_164 = 256 + sum(before + 17 * after + 18 * 2 * inner for before, after, inner in STAGES)
DENSENET_40 = sum(24 + 12 * n for n in range(36)) + sum(24 + 144 * n for n in (1, 2, 3))


@pytest.mark.parametrize("left", [0.6, 0.4])
@pytest.mark.parametrize(
    "family, options, scales",
    [
        ("preresnet", {"depth": 164}, PRERESNET_164),
        ("densenet", {"depth": 40, "growth": 12}, DENSENET_40),
    ],
)
def test_network_slimming_counts_all_scales(family, options, scales, left):
    """In pre-activation ResNets and DenseNets every consumer of the stream selects for itself, so
    the channels that a pruning ratio refers to are the scales of all batch normalisations."""
    full = Structure(family, options, (3, 32, 32), 10)
    assert sum(full.graph.widths({}).values()) == scales
    random = np.random.default_rng(0)
    scores = {name: random.uniform(size=group.size) for name, group in full.graph.groups.items()}
    keep = select_channels(full.graph, scores, Budget(channels=left))
    # The published program: the sorted scales' entry number int(scales x pruned) is the threshold,
    # and what is strictly above it is kept.
    every = np.sort(np.concatenate(list(scores.values())))
    threshold = every[int(scales * round(1 - left, 9))]
    assert sum(map(len, keep.values())) == (every > threshold).sum()
    for name, kept in keep.items():
        np.testing.assert_array_equal(kept, np.flatnonzero(scores[name] > threshold))


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


def test_rounding_costs_no_epoch():
    """100 x 2.3 is 229.99999999999997, 100 x 1.15 114.99999999999999."""
    full = Structure("vgg", {"layers": [8, "M", 8]}, (1, 8, 8), 10)
    job = {"training": {"epochs": 100}, "epoch_rule": "computation", "max_epoch_factor": 2.3}
    small = full.with_keep({name: np.array([0]) for name in full.graph.groups})
    assert full.cost()[1] > 2.3 * small.cost()[1]
    assert scaled_epochs(job, small) == 230
    assert scaled_epochs({**job, "max_epoch_factor": 1.15}, small) == 115


def test_a_network_that_was_pruned_is_not_the_published_one():
    given, structure = found("vgg16-a")
    with pytest.raises(StError, match="takes a whole network, not one that was pruned"):
        criteria.get("published")(replace(given, structure=structure), name="vgg16-a")
