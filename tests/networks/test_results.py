"""Which of several results of a module is imported, and that all that is evaluated is trained."""

import pytest
import torch
from torch import nn

from st.core.errors import StError
from st.networks.imported.export import imported
from st.networks.program import named

SHAPE, CLASSES = (3, 8, 8), 5


class Deep(nn.Module):
    """Two layers of features, each with a head; `train` and `test` say what is made of them."""

    def __init__(self, train, test):
        super().__init__()
        self.auxiliary, self.main = nn.Linear(4, CLASSES), nn.Linear(6, CLASSES)
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)
        self.results = {True: train, False: test}

    def forward(self, x):
        x = torch.relu(self.one(x))
        y = torch.relu(self.two(x))
        return self.results[self.training](self, x.mean((2, 3)), y.mean((2, 3)))


def both(net, x, y):
    return net.auxiliary(x), net.main(y)


def main(net, x, y):
    return net.main(y)


def mean(net, x, y):
    return (net.auxiliary(x) + net.main(y)) / 2


def shielded(net, x, y):
    return net.main(y.detach()), net.auxiliary(x), net.main(y)


@pytest.mark.parametrize(
    "train, test, note",
    [
        (both, main, "of its 2 results in training number 2 is used"),
        (lambda *x: both(*x)[::-1], main, "of its 2 results in training the first is used"),
        (lambda *x: both(*x)[::-1], both, "of its 2 results in evaluation the first is used"),
        (both, lambda *x: main(*x).softmax(1), "in training number 2 is used"),
        (lambda *x: dict(zip("ab", both(*x), strict=True)), main, "training number 2 is used"),
        (shielded, main, "of its 3 results in training number 3 is used"),
        (mean, mean, None),
    ],
)
def test_what_is_evaluated_is_trained(train, test, note):
    """Of several results in training that of the evaluated layers counts."""
    program, _ = imported(Deep(train, test), SHAPE, classes=CLASSES)
    assert note is None or any(note in told for told in program.notes)
    used = [
        {name.split(".")[0] for node in nodes for name in named(node)}
        for nodes in program.forms.values()
    ]
    assert used[0] == used[1]


@pytest.mark.parametrize(
    "train, test, names",
    [
        (both, mean, "auxiliary.bias, auxiliary.weight"),
        (lambda net, x, y: net.auxiliary(x), main, "main.bias, main.weight, two.bias and 1 more"),
        (main, mean, "auxiliary.bias, auxiliary.weight"),
    ],
)
def test_what_would_never_be_trained_is_refused(train, test, names):
    with pytest.raises(StError, match=f"never be trained: {names}; return one result") as caught:
        imported(Deep(train, test), SHAPE, classes=CLASSES)
    assert "\n" not in str(caught.value)
    module = Deep(train, test)
    for name in ("main", "auxiliary", "two"):
        module.get_submodule(name).requires_grad_(False)
    imported(module, SHAPE, classes=CLASSES)


def test_what_gets_no_gradients_is_said():
    program, _ = imported(Deep(lambda net, x, y: net.main(y.detach()), main), SHAPE)
    assert program.notes[0] == (
        "get no gradients in training, stay as they are: one.bias, one.weight, two.bias and 1 more"
    )


def test_what_is_written_into_has_gradients():
    def written(net, x, y):
        found = torch.zeros(y.shape[0], CLASSES)
        found[:, :2].copy_(net.main(y)[:, :2])
        return found + net.auxiliary(x)

    program, _ = imported(Deep(written, written), SHAPE)
    assert program.notes == []


def test_what_fails_in_training_only_is_told_so():
    """As the auxiliary head of Inception does on small images."""
    words = r"Deep: torch.export cannot draw it in training: .* it runs: .* \(aux_logits=False\)$"
    with pytest.raises(StError, match=words):
        imported(Deep(lambda net, x, y: net.main(x), main), SHAPE)


def test_a_result_of_other_numbers_in_training_is_refused():
    with pytest.raises(StError, match="Deep in training: gives n x 6 numbers, not n x 5"):
        imported(Deep(lambda net, x, y: y, main), SHAPE)
