"""Bad params.yaml files: each is refused in lines that name the file and the key."""

import re

import numpy as np
import pytest
from helpers.networks import random_tensors
from helpers.params import DROP, changed, mutate

from st.config.check import load, parse
from st.config.grid import Grid
from st.config.supernets import networks
from st.core.errors import StError
from st.core.registry import losses
from st.core.sources import module_file
from st.core.tensors import save_tensors
from st.networks.place import names_without

# (key, value, words of the message beside the key); the key is where the value is put, and what
# the message must name unless a fourth entry says what it names
BAD = [
    # unknown keys, at every depth
    ("seed", [0], "did you mean 'seeds'"),
    ("data", {}, "unknown key"),
    ("training.learning_rate", 0.1, "unknown key"),
    ("training.epoch", 3, "did you mean 'epochs'"),
    ("datasets.digits.sauce", "digits", "did you mean 'source'"),
    ("datasets.digits.augment.crops", 1, "did you mean 'crop'"),
    (
        "datasets.digits.augment.jitter",
        {"hew": 0.1},
        "did you mean 'hue'",
        "datasets.digits.augment.jitter.hew",
    ),
    ("datasets.digits.augment.resized_crop", {"scales": 1}, "did you mean 'scale'"),
    ("datasets.digits.augment.resized_crop", True, "mapping"),
    ("datasets.digits.augment.resized_crop", {"scale": [0.5]}, "at least 2 values, not [0.5]"),
    ("datasets.digits.augment.resized_crop", {"ratio": [1, 1, 2]}, "at most 2 values"),
    ("architectures.vgg.widths", 1, "unknown key"),
    ("architectures.vgg.training.epohcs", 1, "did you mean 'epochs'"),
    ("supernets.sparse.spars", True, "did you mean 'sparse'"),
    ("supernets.sparse.training.momentun", 0, "did you mean 'momentum'"),
    ("searches.slimming.rankings", "local", "did you mean 'ranking'"),
    ("searches.slimming.budget.flops", 0.5, "known: channels, latency, macs, params"),
    ("methods.st.inti", "random", "did you mean 'init'"),
    ("methods.st.training.decays", 1, "did you mean 'decay'"),
    ("evaluation.latency", 1, "did you mean"),
    # options that stand one level too high, of whatever is chosen
    ("datasets.f", {"source": "imagefolder", "root": "/"}, "belongs under `options`"),
    ("architectures.vgg.width", 1, "belongs under `options`"),
    ("architectures.vgg.bn_scale", 1, "belongs under `init_options`"),
    ("searches.slimming.members", "sum", "belongs under `options`"),
    ("methods.st.linear", "uniform", "belongs under `init_options`"),
    ("searches.slimming.epochs", 3, "unknown key"),  # another criterion's
    # missing keys
    ("seeds", DROP, "is missing"),
    ("datasets", DROP, "is missing"),
    ("architectures", DROP, "is missing"),
    ("datasets.digits.source", DROP, "is missing"),
    ("architectures.vgg.family", DROP, "is missing"),
    ("searches.slimming.criterion", DROP, "is missing"),
    ("searches.slimming.budget", DROP, "is missing"),
    ("methods.st.search", DROP, "is missing"),
    # wrong types and bounds: a few for the words; test_schema.py goes through all keys
    ("seeds", 0, "list"),
    ("seeds", [True], "integer", "seeds.0"),
    ("datasets.digits", "digits", "mapping"),
    ("datasets.digits.augment.flip", "yes", "boolean"),
    ("training", None, "mapping"),
    ("training.lr", "fast", "number"),
    ("training.epochs", 1e3, "integer"),
    ("training.schedule", 5, "'step'"),
    ("methods.st.objective", ["ce"], "mapping"),
    ("methods.st.objective.ce", "much", "weight"),
    ("methods.st.objective.ce", True, "weight"),
    ("methods.st.search", 5, "string"),
    ("seeds", [], "must not be empty"),
    ("seeds", [2**32], "4294967296", "seeds.0"),
    ("supernets", {}, "must not be empty"),
    ("datasets.digits.holdout", 1, "less than 1"),
    ("training.lr", 0, "greater than 0"),
    ("training.lr", float("nan"), "finite"),
    ("training.lr", 10**400, "training.lr"),
    ("training.milestones", [0.5, 1.5], "less than 1", "training.milestones.1"),
    ("searches.slimming.budget.macs", 1.1, "1"),
    # names that nothing has
    ("datasets.digits.source", "digit", "did you mean 'digits'", "datasets.digits"),
    ("architectures.vgg.family", "vgg16", "did you mean 'vgg'", "architectures.vgg"),
    ("searches.slimming.criterion", "bn_scales", "did you mean 'bn_scale'"),
    ("searches.slimming.supernet", "spars", "did you mean 'sparse'"),
    ("methods.st.search", "sliming", "did you mean 'slimming'"),
    ("methods.st.init", "randon", "did you mean 'random'"),
    ("methods.st.objective", {"ce": 1, "kdd": 1}, "did you mean 'kd'"),
    ("methods.st.architectures", ["vg"], "did you mean 'vgg'"),
    ("training.schedule", "cosin", "'cosine'"),
    ("searches.slimming.ranking", "locale", "'local'"),
    ("methods.st.epoch_rule", "sames", "'same'"),
    ("plugins", ["no_such_module"], "no_such_module"),
    ("plugins", ["json..x"], "json..x"),
    (
        "architectures.mine",
        {"family": "import", "options": {"module": "timm:resnet18"}},
        "timm is missing; pip install timm",
    ),
    (
        "architectures.mine",
        {"family": "import", "options": {"module": "no_such_package.nets:Net"}},
        "no_such_package is missing",
    ),
    (
        "architectures.mine",
        {"family": "import", "options": {"module": "torchvision.models:resnet81"}},
        "there is no 'resnet81'; did you mean 'resnet18'",
    ),
    (
        "architectures.mine",
        {"family": "import", "options": {"module": "torchvision.model:resnet18"}},
        "there is no 'model'",
    ),
    # options of what is registered
    ("datasets.digits.options", {"size": 8}, "unknown option 'size'", "datasets.digits"),
    ("architectures.vgg.options", {"layer": [8]}, "did you mean 'layers'", "architectures.vgg"),
    ("architectures.vgg.options", {"layers": ["M"]}, "convolution", "architectures.vgg"),
    ("architectures.vgg.options", {"layers": [8, "N"]}, "layers.1", "architectures.vgg"),
    ("architectures.vgg.options", {"width": 0}, "width", "architectures.vgg"),
    ("architectures.vgg.options", {"width": float("nan")}, "width", "architectures.vgg"),
    ("architectures.vgg.options", {1: 2}, "quotes", "architectures.vgg.options.1"),
    ("searches.slimming.options", {"p": 2}, "unknown option 'p'", "searches.slimming.criterion"),
    ("methods.st.init_options", {"std": 1}, "unknown option 'std'", "methods.st.init"),
    ("methods.st.objective", {}, "needs a loss"),
    ("methods.st.objective", {"ce": -1}, "0 or more"),
    ("methods.st.objective", {"kd": {"temperature": 4}}, "'weight' is missing"),
    ("methods.st.objective", {"kd": {"weight": float("nan")}}, "'weight'"),
    ("methods.st.objective", {"kd": {"weight": True}}, "'weight'"),
    ("methods.st.objective", {"kd": {"weight": 1, "temperature": 0}}, "'temperature'"),
    ("methods.st.objective", {"cc": {"weight": 1, "order": 0}}, "'order'"),
    ("methods.st.objective", {"ce": {"weight": 1, "T": 0}}, "'T'"),
    # names of one's own
    ("datasets", {"a b": {"source": "digits"}}, "names are letters", "datasets.a b"),
    ("datasets", {"a/b": {"source": "digits"}}, "names are letters", "datasets.a/b"),
    ("datasets", {"a\nb": {"source": "digits"}}, "names are letters", "datasets.a b"),
    ("datasets", {"": {"source": "digits"}}, "names are letters", "datasets."),
    ("datasets", {1: {"source": "digits"}}, "quotes", "datasets.1"),
    ("methods", {"-st": {"search": "slimming"}}, "names are letters", "methods.-st"),
    ("methods", {".st": {"search": "slimming"}}, "names are letters", "methods..st"),
    ("methods", {"é": {"search": "slimming"}}, "names are letters", "methods.é"),
    (
        "methods",
        {"m" * 21: {"search": "slimming"}},
        "names should end in fewer repetitions",
        "methods." + "m" * 21,
    ),
    (
        "methods",
        {"st-" * 30: {"search": "slimming"}},
        "names should end in fewer repetitions",
        "methods.st-st-",
    ),
    (
        "methods",
        {"0123456789" * 11: {"search": "slimming"}},
        "names should have at most 100",
        "methods.01234",
    ),
    ("methods", {"a\n": {"search": "slimming"}}, "names are letters", "methods.a"),
    ("methods", {"supernet-x": {"search": "slimming"}}, "own", "methods.supernet-x"),
    ("methods", {"a": {"search": "x\ny"}}, "unknown search 'x y'", "methods.a.search"),
    # what contradicts itself or the rest
    (
        "datasets.digits.normalisation",
        {"mean": [0.5], "std": [0.5, 0.5]},
        *("normalisation.std: has 2 values, but the images have 1 channels", "datasets.digits"),
    ),
    (
        "searches.mine",
        {
            "supernet": "sparse",
            "criterion": "tapered",
            "ranking": "local",
            "budget": {"params": 0.5},
        },
        *("of which local takes no notice; use ranking: global", "searches.mine.ranking"),
    ),
    ("seeds", [0, 1, 0], "should name 0 once, not [0, 1, 0]"),
    ("plugins", ["json", "json"], "should name 'json' once"),
    ("methods.st.architectures", [], "must not be empty"),
    ("methods.st.architectures", ["vgg", "vgg"], "should name 'vgg' once"),
    ("claims", {"st": []}, "must not be empty", "claims.st"),
    ("claims", {"st": ["lottery", "lottery"]}, "should name 'lottery' once", "claims.st"),
    (
        "architectures.mine",
        {"family": "import", "options": {"module": "torch.nn:ReLU", "stages": []}},
        "option 'stages': ",
    ),
    (
        "architectures.mine",
        {"family": "import", "options": {"module": "torch.nn:ReLU", "stages": ["a", "a"]}},
        "should name 'a' once",
    ),
    (
        *("searches.slimming.budget", {}),
        "is missing; give params, macs, channels, latency or several",
    ),
    ("searches.slimming.options", {"name": "a"}, "unknown option", "searches.slimming.criterion"),
    (
        "searches.p",
        {"criterion": "published", "supernet": "sparse"},
        *("option 'name' is missing", "searches.p.criterion"),
    ),
    (
        "searches.p",
        {"criterion": "published", "supernet": "sparse", "options": {"name": "vgg19-a"}},
        *("'vgg16-a'", "searches.p.criterion"),
    ),
    (
        "searches.slimming",
        {"criterion": "published", "supernet": "sparse", "options": {"name": "vgg16-a"}},
        *("a vgg of depth 16, hidden 512", "searches.slimming.criterion: vgg"),
    ),
    (
        "searches.p",
        {
            **{"criterion": "published", "supernet": "sparse", "options": {"name": "vgg16-a"}},
            **{"budget": {"params": 0.5}},
        },
        *("takes none", "searches.p.budget"),
    ),
    ("searches.slimming.budget", {"params": 1e-3}, "the tightest is params: 0."),
    ("searches.slimming.min_channels", 8, "the tightest is", "searches.slimming.budget"),
    ("searches.slimming.round_to", 8, "the tightest is", "searches.slimming.budget"),
    (
        "searches.slimming",
        {"supernet": "sparse", "criterion": "random"},
        *("is missing; give", "searches.slimming.budget"),
    ),
    (
        "searches.u",
        {
            **{"criterion": "uniform", "supernet": "sparse"},
            **{"budget": {"params": 0.5}, "rounds": 2},
        },
        *("ranks no channels", "searches.u.rounds"),
    ),
    ("supernets.sparse.rewind_epoch", 3, "after the last epoch, 2"),
    (
        "architectures",
        {"r": {"family": "resnet", "options": {"depth": 9}}},
        *("6n+2", "architectures.r"),
    ),
    (
        "datasets",
        {"f": {"source": "imagefolder", "options": {"size": 8}}},
        *("'root' is missing", "datasets.f"),
    ),
    (
        "datasets",
        {"f": {"source": "imagefolder", "options": {"root": "/", "size": 4}}},
        *("'size'", "datasets.f"),
    ),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[0]}={case[1]!r}"[:60])
def test_bad_files(tiny, case):
    key, value, words, named = (*case, case[0])[:4]
    with pytest.raises(StError) as caught:
        parse(changed(tiny, key, value), "my/params.yaml")
    lines = str(caught.value).split("\n")
    assert all(line.startswith("my/params.yaml: ") for line in lines), lines
    assert any(line.startswith(f"my/params.yaml: {named}") and words in line for line in lines)
    assert all(len(line) < 400 for line in lines)
    assert len(lines) == 1, lines


def test_claims_over_rows_that_an_architecture_lacks(tiny):
    tiny["architectures"]["other"] = tiny["architectures"]["vgg"]
    tiny["methods"]["some"] = {"search": "slimming", "architectures": ["vgg"]}
    tiny["claims"] = {"st": ["supernet", "some"]}
    with pytest.raises(StError, match=r"p\.yaml: claims\.st: 'some' is no row of other, as st is$"):
        parse(tiny, "p.yaml")
    tiny["methods"]["st"]["architectures"] = ["vgg"]
    assert parse(tiny).claims == tiny["claims"]


@pytest.mark.parametrize(
    "search, words",
    [
        (
            {"criterion": "uniform", "budget": {"params": 1e-5}},
            "vgg: .* the budget cannot",
        ),
        ({"criterion": "tas", "budget": {"macs": 0.5, "latency": 0.5}}, "vgg: .* budget's latency"),
        (
            {"criterion": "tas", "budget": {"macs": 0.5}, "options": {"temperature": [0.1, 5]}},
            "temperature: must fall",
        ),
        (
            {"criterion": "tas", "budget": {"macs": 0.5, "params": 0.01}},
            "the budget's [0-9]+ parameters cannot be met",
        ),
    ],
)
def test_searches_that_cannot_succeed(tiny, search, words):
    tiny["searches"]["other"] = {"supernet": "sparse", **search}
    tiny["methods"]["other"] = {"search": "other"}
    with pytest.raises(StError, match=rf"searches\.other\.criterion: .*{words}"):
        parse(tiny)


@pytest.mark.parametrize("criterion", ["uniform", "tas", "published"])
def test_criteria_for_drawn_families(tiny, criterion, tmp_path, monkeypatch):
    """An imported network need not be drawn to know that it can't be searched by these."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("class Net: ...")
    tiny["architectures"]["mine"] = {"family": "import", "options": {"module": "net.py:Net"}}
    options = {"options": {"name": "vgg16-a"}} if criterion == "published" else {}
    budget = {} if criterion == "published" else {"budget": {"macs": 0.5}}
    tiny["searches"]["other"] = {"supernet": "sparse", "criterion": criterion, **options, **budget}
    tiny["methods"]["other"] = {"search": "other", "architectures": ["mine"]}
    with pytest.raises(StError, match="searches drawn families, no imported networks"):
        parse(tiny)
    if criterion != "published":
        tiny["methods"]["other"]["architectures"] = ["vgg"]
        parse(tiny)


def test_losses_of_weight_zero_are_none(tiny):
    """As in a sweep that begins at 0: without a teacher there is no supervision."""
    tiny["methods"]["st"]["objective"] = {"ce": 1, "kd": 0, "cc": {"weight": 0.0}}
    grid = Grid(parse(tiny))
    assert not grid.needs_teacher("st")
    assert grid.train("digits", "vgg", 0, "st")["objective"] == {"ce": {"weight": 1.0}}
    tiny["methods"]["st"]["objective"] = {"ce": 1, "kd": {"weight": 0, "temp": 1}}
    with pytest.raises(StError, match="did you mean 'temperature'"):
        parse(tiny)


@pytest.mark.parametrize("init", ["inherit", "rewind"])
def test_weights_for_a_structure_of_other_channels(tiny, init):
    tiny["searches"]["narrow"] = {"criterion": "uniform", "budget": {"params": 0.5}}
    tiny["methods"]["narrow"] = {"search": "narrow", "init": init}
    tiny["supernets"]["plain"] = {}
    with pytest.raises(StError, match=r"methods\.narrow\.init: .* that criterion 'uniform' finds"):
        parse(tiny)


def _weights(tiny, path):
    """Of its network, as a file from elsewhere."""
    supernet = networks(parse(tiny))[1]["digits", "vgg"]
    tensors = random_tensors(supernet, np.random.default_rng(0))
    save_tensors(path, tensors)
    return tensors


def test_weights_that_do_not_fit_are_told_before_any_job(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensors = _weights(tiny, tmp_path / "w")
    tiny["supernets"]["sparse"] = {"sparse": True, "weights": "w"}
    parse(tiny)
    (tmp_path / "w").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(StError, match=r"supernets\.sparse\.weights: w: is no safetensors file"):
        parse(tiny)
    tensors.popitem()
    save_tensors(tmp_path / "w", tensors)
    with pytest.raises(StError, match=r"supernets\.sparse\.weights: w: does not fit .* it lacks"):
        parse(tiny)
    del tiny["supernets"]["sparse"]["weights"]
    (tmp_path / "net.py").write_text("def net(classes): ...")
    (tmp_path / "w").write_bytes(b"\x80\x02}q\x00.")
    options = {"module": "net.py:net", "weights": "w"}
    tiny["architectures"]["mine"] = {"family": "import", "options": options}
    with pytest.raises(StError, match=r"architectures\.mine: w: is no safetensors file"):
        parse(tiny)


@pytest.mark.parametrize(
    "supernet, method, rounds, words",
    [
        ({"weights": "w", "training": {"epochs": 0}}, {}, 1, "methods.lottery.init: rewind: there"),
        (
            {"weights": "w", "training": {"epochs": 0}},
            {"init": "random"},
            2,
            "slimming.rounds: 2:",
        ),
        ({"rewind_epoch": 0}, {"training": {"epochs": 0}}, 1, "leaves the network untrained"),
        ({"rewind_epoch": 0}, {"init": "inherit"}, 2, "methods.lottery.init: 'inherit' takes the"),
        ({"rewind_epoch": 0}, {}, 2, None),
        ({"rewind_epoch": 1}, {"training": {"epochs": 0}}, 1, None),
        ({"weights": "w"}, {"training": {"epochs": 0}}, 1, None),
    ],
)
def test_what_can_be_rewound_to(tiny, supernet, method, rounds, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _weights(tiny, tmp_path / "w")
    tiny["supernets"]["sparse"] = {"sparse": True, **supernet}
    tiny["methods"]["lottery"] |= method
    tiny["searches"]["slimming"]["rounds"] = rounds
    if words is None:
        parse(tiny)
        return
    with pytest.raises(StError, match=words) as caught:
        parse(tiny)
    assert len(str(caught.value).split("\n")) == 1


def test_budgets_concern_the_architectures_that_are_searched(tiny):
    tiny["architectures"]["narrow"] = {"family": "vgg", "options": {"layers": [2, 2]}}
    for method in tiny["methods"].values():
        method["architectures"] = ["vgg"]
    tiny["searches"]["slimming"]["min_channels"] = 2
    parse(tiny)
    tiny["methods"]["st"]["architectures"] = ["narrow"]
    with pytest.raises(StError, match=r"searches\.slimming\.budget: narrow on digits"):
        parse(tiny)


def test_all_problems_are_told_at_once(tiny):
    tiny["training"]["lr"] = -1
    tiny["seeds"] = ["x"]
    tiny["methods"]["st"]["searhc"] = "slimming"
    with pytest.raises(StError) as caught:
        parse(tiny)
    assert len(str(caught.value).split("\n")) == 3


@pytest.mark.parametrize(
    "text",
    [
        *("", "3", "- a", "a: [", "a: b: c", "\t", "\x00", "a: !!python/object:x {}", "*a"),
        *("a: 2024-99-99", "a: 0x_", "[" * 2000, "a: &a [*a]", "seeds: &a [*a]", "{[]: 1}"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_files_that_are_no_params(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(StError) as caught:
        load(path)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).split("\n"))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes(b"a: \xe9")
    for path, words in [
        (tmp_path / "none", "cannot be read"),
        (tmp_path, "cannot be read"),
        (tmp_path / "latin", "not YAML"),
    ]:
        with pytest.raises(StError, match=words) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_modules_that_are_not_python(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole.py").write_text("import broken\n")
    (tmp_path / "broken.py").write_text("def f(")
    options = {"module": "whole.py:Net"}
    tiny["architectures"]["mine"] = {"family": "import", "options": options}
    with pytest.raises(StError, match=r"architectures\.mine: broken\.py: is not Python") as caught:
        parse(tiny)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("class Net: pass", "Nat", "there is no 'Nat'; did you mean 'Net'"),
        ("class Net: pass", "Nat.small", "there is no 'Nat'"),
        ("", "Net", "there is no 'Net'; known: none"),
        ("from other import *", "Nat", "did you mean 'Net'"),
        # there, or perhaps there
        ("class Net: pass", "Net.small", None),
        ("if True:\n    Net = print", "Net", None),
        ("from other import Net as Nat", "Nat", None),
        ("import other", "other.Net", None),
        ("import os.path", "os.walk", None),
        ("from other import *", "Net", None),
        ("from other import *", "fits", None),  # imported there
        ("from missing import *", "Net", None),
        ("globals()['N' + 'et'] = print", "Net", None),
        ("import sys; setattr(sys.modules[__name__], 'N' + 'et', print)", "Net", None),
        ("def __getattr__(name): return print", "Net", None),
    ],
)
def test_names_that_a_module_lacks(tiny, tmp_path, monkeypatch, text, name, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.py").write_text("from os.path import exists as fits\nclass Net: pass\n")
    file = tmp_path / f"m{abs(hash((text, name)))}.py"  # sources are read once
    file.write_text(text)
    options = {"module": f"{file.name}:{name}"}
    tiny["architectures"]["mine"] = {"family": "import", "options": options}
    if told is None:
        parse(tiny)
    else:
        with pytest.raises(StError, match=re.escape(told)) as caught:
            parse(tiny)
        assert str(caught.value).count("\n") == 0


def test_packages_may_have_modules_that_nothing_names(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "nets" / "deep").mkdir(parents=True)
    (tmp_path / "nets" / "__init__.py").write_text("from .one import *\n")
    (tmp_path / "nets" / "one.py").write_text("from .deep.two import *\n")
    (tmp_path / "nets" / "deep" / "two.py").write_text("def far(): pass\n")
    init = module_file("nets")
    assert init and names_without("near", init) == ["far"]
    for name in ("far", "one", "deep"):
        assert names_without(name, init) is None


def test_plugins_that_fail(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for number, (text, words) in enumerate(
        [
            ("1 / 0", "ZeroDivisionError"),
            ("raise ValueError('two\\nlines')", "two lines"),
            ("def f(", "SyntaxError"),
            ("import sys; sys.exit()", "ends the program when it is imported (status 0); guard"),
            ("from st.core.registry import losses\n@losses.register\ndef kd(): pass", "already"),
        ]
    ):
        (tmp_path / f"plugin{number}.py").write_text(text)
        losses.get("kd")
        with pytest.raises(StError) as caught:
            parse({**tiny, "plugins": [f"plugin{number}"]}, "p.yaml")
        message = str(caught.value)
        assert message.startswith("p.yaml: plugin") and "\n" not in message and words in message


@pytest.mark.parametrize(
    "key, value",
    [
        ("datasets.digits.roots", "/"),
        ("datasets.digits.augment.rotate", 10),
        ("datasets.digits.options", {"root": "/", "image_size": 8}),
    ],
)
def test_words_that_are_not_alike_are_not_meant(tiny, key, value):
    tiny["datasets"]["digits"]["source"] = "imagefolder"
    with pytest.raises(StError, match=r"unknown.*\(?known: ") as caught:
        parse(changed(tiny, key, value))
    assert "did you mean" not in str(caught.value)


def test_mutated_files(tiny):
    """Anything is either good or refused with StError."""
    rng, bad = np.random.default_rng(0), 0
    for _ in range(300):
        try:
            parse(mutate(tiny, rng), "p.yaml")
        except StError as error:
            bad += 1
            assert all(line.startswith("p.yaml: ") for line in str(error).split("\n"))
    assert 100 < bad < 300
