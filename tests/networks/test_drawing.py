"""Drawing methods: the sizes that torch computes, and one line about every wrong call."""

import itertools

import numpy as np
import pytest
import torch
from helpers.networks import counted

from st.core.errors import StError
from st.core.registry import architectures
from st.networks.graph import Graph, draw
from st.networks.network import Network
from st.networks.structure import Structure


@pytest.fixture
def family(monkeypatch):
    """Registers a drawing function as the architecture `mine`."""

    def register(function):
        monkeypatch.setitem(architectures._entries, "mine", function)

    return register


@pytest.mark.parametrize("kernel", range(1, 9))
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7])
def test_nothing_is_drawn_that_is_not_executed(kernel, stride, family):
    """All kernels, strides, paddings and sizes: shapes and MACs are those of the torch network."""

    def mine(graph, *, padding):
        x = graph.conv("conv1", graph.input, 3, kernel, stride, padding=padding)
        graph.head(graph.conv("conv2", graph.relu(graph.tap("conv1", x)), 2, kernel=1))

    family(mine)
    sizes = [(1, 1), (2, 7), (5, 4), (8, 9), (32, 32)]
    for padding, (height, width) in itertools.product((None, 0, 1, 2, 5), sizes):
        structure = Structure("mine", {"padding": padding}, (2, height, width), 4)
        zeros = (kernel - 1) // 2 if padding is None else padding
        if min(height, width) + 2 * zeros < kernel:
            with pytest.raises(StError, match=rf"'conv1': a kernel of {kernel} is too large"):
                structure.cost()
            continue
        assert structure.cost() == counted(structure)
        x = Network(structure)(torch.zeros(2, 2, height, width), ("conv1",))["conv1"]
        assert structure.graph.nodes[1].positions == x.shape[2] * x.shape[3]
        if kernel % 2 and padding is None:
            assert x.shape[2:] == (-(-height // stride), -(-width // stride))


def test_patches(family):
    """Kernel 4, stride 4 on 32 x 32 are 8 x 8 patches."""
    family(lambda graph: graph.head(graph.conv("patches", graph.input, 5, kernel=4, stride=4)))
    assert Structure("mine", {}, (3, 32, 32), 10).cost()[1] == 8 * 8 * 4 * 4 * 3 * 5 + 50


@pytest.mark.parametrize("name", ["layer1.0.conv-a", "0", "größe"])
def test_layers_are_called_what_torch_takes(name, family):
    family(lambda graph: graph.head(graph.conv(name, graph.input, 4)))
    structure = Structure("mine", {}, (3, 9, 9), 4)
    assert f"{name}.weight" in Network(structure).state_dict()
    assert structure.cost() == counted(structure)


def test_vectors_are_added_and_concatenated(family):
    def mine(graph):
        x = graph.global_pool(graph.input)
        y = graph.add(graph.linear("a", x, 3), x)
        graph.head(graph.bn("bn", graph.concat([x, y])))

    family(mine)
    structure = Structure("mine", {}, (3, 5, 5), 4)
    assert structure.cost() == counted(structure)


# what is called, and what the message says; `here`: it also names this file and the line
WRONG = {
    "keyword": (lambda g, x: g.conv("a", x, 4, kernal=3), "TypeError: .*kernal.*here"),
    "missing": (lambda g, x: g.conv("a", x), "TypeError: .*channels.*here"),
    "no method": (lambda g, x: g.convolve(x), "AttributeError: .*convolve.*here"),
    "own error": (lambda g, x: [][3], "IndexError: list index out of range.*here"),
    "a library's error": (lambda g, x: np.zeros(3).reshape(2, 2), "cannot reshape.*"),
    "none": (lambda g, x: g.relu(None), "relu takes what a drawing method .*, not None.*here"),
    "number": (lambda g, x: g.add(x, 3), "a sum takes what a drawing method .*, not 3.*here"),
    "node": (lambda g, x: g.bn("a", g.nodes[0]), "'a' takes what a drawing method returned"),
    "nothing to end": (lambda g, x: g.head(None), "the head takes what"),
    "tap": (lambda g, x: g.tap(x, "a"), "takes what a drawing method returned, not 'a'"),
    "text": (lambda g, x: g.conv("a", x, "64"), "'a': 'channels' must be an integer.*'64'.*here"),
    "half": (lambda g, x: g.conv("a", x, 2.5), "integer of at least 1, not 2.5"),
    "numpy": (lambda g, x: g.conv("a", x, np.int64(4)), "integer of at least 1, not np.int64"),
    "flag": (lambda g, x: g.conv("a", x, 4, kernel=True), "'a': 'kernel' must .*not True"),
    "zero": (lambda g, x: g.conv("a", x, 4, stride=0), "'a': 'stride' must .*at least 1, not 0"),
    "negative": (lambda g, x: g.conv("a", x, 4, padding=-1), "'padding' must .*at least 0"),
    "large": (lambda g, x: g.conv("a", x, 4, 10, padding=0), "'a': a kernel of 10 is too large"),
    "unnamed": (lambda g, x: g.conv(3, x, 4), "a layer cannot be called 3"),
    "no name": (lambda g, x: g.conv(x, 4), "TypeError"),
    "dots": (lambda g, x: g.conv("a..b", x, 4), "a layer cannot be called 'a..b'"),
    "twice": (lambda g, x: g.bn("a", g.conv("a", x, 4)), "two layers are called 'a'.*here"),
    "within": (lambda g, x: g.bn("a.b", g.conv("a", x, 4)), "cannot lie within another layer"),
    "around": (lambda g, x: g.bn("a", g.conv("a.b.c", x, 4)), "'a' cannot lie within"),
    "vector": (lambda g, x: g.conv("a", g.global_pool(x), 4), "'a' needs an image"),
    "pooled twice": (lambda g, x: g.global_pool(g.global_pool(x)), "needs an image"),
    "selected": (lambda g, x: g.select("a", g.global_pool(x)), "needs an image"),
    "image": (lambda g, x: g.linear("a", x, 4), "'a' needs a pooled vector, not an image"),
    "sizes": (lambda g, x: g.concat([x, g.max_pool(x)]), "one size, not 9x9 and 4x4.*here"),
    "channels": (lambda g, x: g.add(x, g.conv("a", x, 4)), "as many channels, not 3 and 4.*here"),
    "prunable": (lambda g, x: g.add(x, g.conv("a", x, 3, prunable=True)), "fixed channels"),
    "kinds": (lambda g, x: g.concat([x, g.global_pool(x)]), "one size, not 9x9 and a vector"),
    "empty": (lambda g, x: g.concat([]), "a concatenation takes a list of values, not \\[\\]"),
    "single": (lambda g, x: g.concat(x), "a concatenation takes a list of values"),
    "shortcut": (lambda g, x: g.shortcut(x, 0, 1), "a shortcut: 'channels' must"),
    "foreign": (lambda g, x: g.relu(Graph((3, 9, 9), 4).input), "a value of another graph"),
    "second head": (lambda g, x: g.head(x) or g.head(x, "b"), "a network has one head.*here"),
    "no head": (lambda g, x: x, "must end with head"),
    "logits": (lambda g, x: g.tap("logits", x), "tap 'logits' is made by head"),
    "same taps": (lambda g, x: g.tap("a", g.tap("a", x)), "two taps are called 'a'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_one_line(name, family):
    call, words = WRONG[name]

    def mine(graph):
        x = call(graph, graph.input)
        if name not in ("no head", "second head"):
            graph.head(x)

    family(mine)
    words = words.replace("here", r"\(test_drawing.py, line \d+\)$")
    with pytest.raises(StError, match=f"^architecture 'mine': .*{words}") as caught:
        draw("mine", {}, (3, 9, 9), 4)
    assert "\n" not in str(caught.value)


def test_what_a_function_says_of_its_options_stays(family):
    def mine(graph, *, depth=3):
        raise ValueError(f"option 'depth' must be\neven, not {depth}")

    family(mine)
    with pytest.raises(StError, match=r"option 'depth' must be even, not 5$"):
        draw("mine", {"depth": 5}, (3, 9, 9), 4)


def test_a_function_that_takes_no_graph(family):
    family(lambda *, depth=3: None)
    with pytest.raises(StError, match=r"^architecture 'mine': cannot be drawn: TypeError"):
        draw("mine", {}, (3, 9, 9), 4)


@pytest.mark.parametrize("name", ["forward", "train.conv", "stage.parameters"])
def test_names_that_torch_uses(name, family):
    family(lambda graph: graph.head(graph.conv(name, graph.input, 4)))
    with pytest.raises(
        StError, match=f"^architecture 'mine': layer '{name}': torch's modules have"
    ):
        Network(Structure("mine", {}, (3, 9, 9), 4))
