"""Plugins that say too little, or something wrong: one line each, before any job if possible."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.images import stripes

from st.config.check import parse
from st.config.supernets import told_shape
from st.core import registry
from st.core.errors import StError
from st.data.dataset import check_made
from st.networks.inits import initialised
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.search import searched
from st.pruning.selection import Budget
from st.training.objective import Objective

KINDS = ("architectures", "datasets", "criteria", "inits", "losses", "targets")
HEAD = f"from st.core.registry import {', '.join(KINDS)}\n"
COUNT = iter(range(1000))
OWN = ("plugin_of_tests_", __name__)  # modules whose functions are registered here


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a module whose functions are known during the test only; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, head=HEAD):
        name = f"plugin_of_tests_{next(COUNT)}"
        (tmp_path / f"{name}.py").write_text(head + text)
        return name

    yield write
    for kind in KINDS:
        entries = getattr(registry, kind)._entries
        for name in [n for n, made in entries.items() if made.__module__.startswith(OWN)]:
            del entries[name]


def refusal(tiny, name) -> str:
    with pytest.raises(StError) as caught:
        parse({**tiny, "plugins": [name]}, "p.yaml")
    told = str(caught.value)
    assert told.startswith("p.yaml: ") and "\n" not in told
    return told


# whether or not params.yaml uses them
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "@inits.register\ndef mine(structure, source, seed): pass",
            "init 'mine': its function lacks the attribute 'source'; docs/extending.md",
        ),
        (
            "@targets.register\ndef mine(model, path, raw, calibration=None): pass",
            "target 'mine': its function lacks the attribute 'suffix'; docs/extending.md",
        ),
        (
            "@losses.register\ndef mine(student, teacher, labels): pass",
            "loss 'mine': its function lacks the attribute 'teacher'; docs/extending.md",
        ),
        (
            "@criteria.register\ndef mine(subject, *, a: 'no_such_type' = 1): pass",
            "criterion 'mine': the annotations of its options cannot be understood (NameError",
        ),
        (
            "@criteria.register\ndef mine(subject, *, a: criteria = 1): pass",
            "criterion 'mine': the annotations of its options cannot be understood (",
        ),
    ],
)
def test_what_every_function_must_say(tiny, plugin, text, words):
    assert words in refusal(tiny, plugin(text))


SOURCE = "@datasets.register\ndef mine(*, n: int = 3): pass\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            SOURCE + "mine.shape = lambda *, n: [1][n]",
            "`shape` of the data set 'mine': cannot be told: IndexError: list index out of range (",
        ),
        (
            SOURCE + "def f(*, n):\n  raise ValueError('n must be even')\nmine.shape = f",
            "datasets.mine: `shape` of the data set 'mine': n must be even",
        ),
        (
            SOURCE + "mine.shape = lambda *, n: (3, 32, 32)",
            "must give ((channels, height, width), classes), not (3, 32, 32)",
        ),
        (
            SOURCE + "mine.paths = lambda *, n: 1 / 0",
            "datasets.mine: `paths` of the data set 'mine': cannot be told: ZeroDivisionError",
        ),
    ],
)
def test_sources_that_cannot_tell(tiny, plugin, text, words):
    tiny["datasets"] = {"mine": {"source": "mine"}}
    assert words in refusal(tiny, plugin(text))


@pytest.mark.parametrize("attribute", ["suits", "comparable"])
def test_criteria_that_cannot_tell(tiny, plugin, attribute):
    text = f"@criteria.register\ndef mine(subject): pass\nmine.{attribute} = lambda *a, **o: 1 / 0"
    tiny["searches"]["slimming"]["criterion"] = "mine"
    told = refusal(tiny, plugin(text))
    assert (
        f"`{attribute}` of the criterion 'mine': cannot be told: ZeroDivisionError: division by"
        in told
    )
    assert "searches.slimming.criterion" in told


def test_losses_that_cannot_tell(tiny, plugin):
    text = (
        "@losses.register\ndef mine(s, t, l): pass\nmine.teacher, mine.taps = True, lambda a: a[9]"
    )
    tiny["methods"]["st"]["objective"] = {"ce": 1, "mine": 1}
    told = refusal(tiny, plugin(text))
    assert (
        "methods.st.objective: " in told and "`taps` of the loss 'mine': cannot be told: " in told
    )


def test_a_source_need_not_tell_its_shape(tiny, plugin):
    tiny["datasets"] = {"mine": {"source": "mine"}}
    tiny["plugins"] = [plugin(SOURCE)]
    assert parse(tiny).datasets["mine"].source == "mine"


def test_annotations_may_be_texts(tiny, plugin):
    """As `from __future__ import annotations` makes them; of torch's types, which are not there."""
    head = "from __future__ import annotations\nfrom typing import Annotated, TYPE_CHECKING\n"
    head += "from pydantic import Field\nif TYPE_CHECKING:\n    from torch import Tensor\n" + HEAD
    name = plugin(
        "@losses.register\ndef mine(student: dict[str, Tensor], teacher, labels: Tensor, *,"
        " power: Annotated[float, Field(gt=0)] = 2.0, names: list[str] | None = None): pass\n"
        "mine.teacher, mine.taps = False, ('logits',)",
        head,
    )
    tiny["plugins"] = [name]
    tiny["methods"]["st"]["objective"] = {"ce": 1, "mine": {"weight": 1, "power": 0.5}}
    parse(tiny)
    assert registry.losses.check("mine", {}) == {"power": 2.0, "names": None}
    tiny["methods"]["st"]["objective"]["mine"]["power"] = 0
    assert "option 'power': should be greater than 0, not 0" in refusal(tiny, name)


@pytest.mark.parametrize("number", ["3", "np.int64(3)"])
def test_shapes_may_be_numpy_s(tiny, plugin, number):
    tiny["datasets"] = {"mine": {"source": "mine"}}
    text = f"import numpy as np\n{SOURCE}mine.shape = lambda *, n: ([1, 8, 8], {number})"
    tiny["plugins"] = [plugin(text)]
    parse(tiny)
    assert told_shape("mine", {"n": 3}) == ((1, 8, 8), 3)


def test_options_of_classes_and_of_decorated_functions(plugin):
    head = "from __future__ import annotations\nimport functools\nText = str\n" + HEAD
    name = plugin(
        "def twice(f):\n    @functools.wraps(f)\n    def g(*a, **o): return 2 * f(*a, **o)\n"
        "    return g\n"
        "@losses.register\n@twice\ndef mine(s, t, l, *, a: Text = 'x'): pass\n"
        "mine.teacher, mine.taps = False, ('logits',)\n"
        "@criteria.register\nclass other:\n    def __init__(self, subject, *, a: Text = 'y'): pass",
        head,
    )
    registry.load_plugins([name])
    assert registry.losses.check("mine", {}) == {"a": "x"}
    assert registry.criteria.check("other", {}) == {"a": "y"}


def test_options_of_any_name(tiny, plugin):
    names = ("name", "attribute", "function", "self_")
    given = ", ".join(f"{name}: int = 1" for name in names)
    text = f"@criteria.register\ndef mine(subject, *, {given}): pass\n"
    text += "mine.comparable = lambda **o: True\nmine.suits = lambda full, budget, **o: None"
    tiny["searches"]["slimming"] |= {"criterion": "mine", "options": dict.fromkeys(names, 2)}
    tiny["plugins"] = [plugin(text)]
    parse(tiny)


def spoilt(**changes):
    return replace(stripes(), **changes)


@pytest.mark.parametrize(
    "found",
    [
        None,
        spoilt(train_images=stripes().train_images.astype(np.float32)),
        spoilt(train_labels=stripes().train_labels.astype(np.int32)),
        spoilt(train_labels=stripes().train_labels + 1),
        spoilt(classes=3),
        spoilt(train_images=stripes().train_images[:, :, :4]),
    ],
)
@pytest.mark.parametrize("held_out", [False, True])
def test_sources_that_return_something_else(found, held_out):
    with pytest.raises(StError, match=r"^data set 'mine': must return a st\.data\.dataset\.Data: "):
        check_made(found, "mine", held_out)


def test_only_images_that_are_looked_at_must_be_there():
    none = spoilt(test_images=stripes().test_images[:0], test_labels=stripes().test_labels[:0])
    check_made(stripes(), "mine", held_out=False)
    check_made(none, "mine", held_out=True)
    with pytest.raises(StError, match="no part may be empty"):
        check_made(none, "mine", held_out=False)


NETWORK = Structure("vgg", {"layers": [8, "M", 8]}, (1, 8, 8), 3)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda tensors: None, "init 'mine': must return every tensor by name, not NoneType"),
        (lambda tensors: {}, "init 'mine': tensor '.*' has shape None"),
        (lambda tensors: {n: v[None] for n, v in tensors.items()}, "has shape"),
        (
            lambda tensors: {
                n: v + np.nan if v.dtype.kind == "f" else v for n, v in tensors.items()
            },
            "not finite",
        ),
    ],
)
def test_inits_that_return_something_else(plugin, made, words):
    def mine(structure, source, seed):
        return made(initialised(structure, None, 0, "random", {}))

    mine.source = None
    registry.inits.register(mine)
    with pytest.raises(StError, match=words):
        initialised(NETWORK, None, 0, "mine", {})


def test_criteria_that_return_something_else(plugin):
    registry.criteria.register(mine := _nothing)
    job = {"criterion": "_nothing", "options": {}}
    with pytest.raises(StError, match="must return scores by group, or a Structure, not None"):
        searched(job, Subject(NETWORK, {}, Budget(params=0.5), 0))
    assert mine.ranks and mine.comparable and not mine.data


@pytest.mark.parametrize("made", [lambda x: x.mean(1), lambda x: 1.0, lambda x: None])
def test_losses_that_return_something_else(plugin, made):
    def mine(student, teacher, labels):
        return made(student["logits"])

    mine.teacher, mine.taps = False, ("logits",)
    registry.losses.register(mine)
    with pytest.raises(StError, match="loss 'mine': must return a scalar tensor"):
        Objective({"mine": {"weight": 1.0}})({"logits": torch.ones(4, 3)}, None, torch.zeros(4))


def _nothing(subject):
    return None
