"""Mistakes in every key of params.yaml, keys without effect, and duplicate keys."""

import copy

import pytest
from helpers.params import changed

from st.config.check import load, parse, read
from st.core.errors import StError

UNIFORM = {"searches.slimming.criterion": "uniform", "methods.lottery.init": "random"}
# what has no effect beside other keys: (changes, the key that is named, words)
IDLE = [
    ({"methods.st.max_epoch_factor": 2}, "methods.st.max_epoch_factor", "epoch_rule: computation"),
    ({"training.milestones": [0.3]}, "training.milestones", "schedule: step"),
    ({"training.decay": 0.5}, "training.decay", "schedule: step"),
    ({"methods.st.training.decay": 0.5}, "methods.st.training.decay", "schedule: step"),
    (
        {"supernets.sparse.training.milestones": [0.3]},
        *("supernets.sparse.training.milestones", "schedule: step"),
    ),
    (
        {"architectures.vgg.training.milestones": [0.3]},
        *("architectures.vgg.training.milestones", "schedule: step"),
    ),
    ({"training.nesterov": True, "training.momentum": 0}, "training.nesterov", "momentum"),
    (
        {"training.optimiser": "adamw", "training.lr": 0.1},
        *("training.lr", "adamw takes about 0.001"),
    ),
    (
        {"training.optimiser": "adamw", "training.lr": 0.001, "training.momentum": 0.8},
        *("training.momentum", "optimiser: sgd"),
    ),
    (
        {"training.optimiser": "adamw", "training.lr": 0.001, "training.nesterov": True},
        *("training.nesterov", "optimiser: sgd"),
    ),
    (
        {"methods.st.training": {"optimiser": "adamw", "lr": 0.001, "momentum": 0.8}},
        *("methods.st.training.momentum", "optimiser: sgd"),
    ),
    (
        {"methods.st.objective": {"kd": 1}, "methods.st.training.label_smoothing": 0.1},
        *("methods.st.training.label_smoothing", "the loss 'ce'"),
    ),
    (
        {"architectures.vgg.sparsity": 0.0},
        *("supernets.sparse.sparse", "has no effect on vgg, whose sparsity is 0"),
    ),
    ({"supernets.sparse.sparse": False}, "architectures.vgg.sparsity", "no supernet is sparse"),
    ({"datasets.digits.augment.crop": 8}, "datasets.digits.augment.crop", "as large as the images"),
    (
        {**UNIFORM, "searches.slimming.ranking": "local"},
        *("searches.slimming.ranking", "ranks no channels"),
    ),
    (
        {**UNIFORM, "searches.slimming.min_channels": 2},
        *("searches.slimming.min_channels", "ranks no channels"),
    ),
    (
        {**UNIFORM, "searches.slimming.round_to": 2},
        *("searches.slimming.round_to", "ranks no channels"),
    ),
    (
        {"datasets.digits.augment": {"crop": 1, "resized_crop": {}}},
        *("datasets.digits.augment.crop", "beside resized_crop"),
    ),
    (
        {
            "datasets.digits": {
                "source": "imagefolder",
                "options": {"root": "x", "size": 8, "val": "holdout"},
                "holdout": 0.3,
            }
        },
        *("datasets.digits.holdout", "would leave the val images unused"),
    ),
    (
        {"datasets.digits.augment": {"resized_crop": {"scale": [0.5, 0.4]}}},
        *("datasets.digits.augment.resized_crop.scale", "from low to high, not [0.5, 0.4]"),
    ),
    (
        {"datasets.digits.augment": {"resized_crop": {"ratio": [2, 1]}}},
        *("datasets.digits.augment.resized_crop.ratio", "from low to high"),
    ),
    (
        {"datasets.digits.augment": {"jitter": {"hue": 0.1}}},
        *("datasets.digits.augment.jitter.hue", "no effect on gray images"),
    ),
    (
        {"datasets.digits.augment": {"jitter": {"brightness": 0.1, "saturation": 0.2}}},
        *("datasets.digits.augment.jitter.saturation", "no effect on gray images"),
    ),
    (
        {"datasets.digits.augment.mixup": 0.2, "methods.st.objective": {"dkd": 1, "ce": 1}},
        *("methods.st.objective", "loss 'dkd' needs images of one class each"),
    ),
    (
        {"datasets.digits.augment.cutmix": 1, "methods.st.objective": {"dkd": 1}},
        *("methods.st.objective", "datasets.digits.augment mixes them"),
    ),
    ({"methods.st.objective": {"ce": 0, "kd": 0.0}}, "methods.st.objective", "above 0"),
    (
        {"methods.st.objective": {"ce": 1, "rkd": {"weight": 1, "distance": 0, "angle": 0}}},
        *("methods.st.objective", "loss 'rkd': distance and angle are 0, so it does nothing"),
    ),
    (
        {"methods.st.objective": {"ce": 1, "dkd": {"weight": 1, "alpha": 0, "beta": 0}}},
        *("methods.st.objective", "loss 'dkd': alpha and beta are 0, so it does nothing"),
    ),
    (
        {"searches.slimming.criterion": "tapered", "searches.slimming.rounds": 2},
        *("searches.slimming.rounds", "'tapered' looks at no weights and has one round only"),
    ),
    (
        {"methods.st.init": "inherit", "methods.st.training.epochs": 0},
        *("methods.st.objective", "has no effect on vgg, which has 0 epochs"),
    ),
]


@pytest.mark.parametrize("changes, key, words", IDLE, ids=lambda x: str(x)[:50])
def test_keys_without_effect(tiny, changes, key, words):
    for place, value in changes.items():
        changed(tiny, place, value)
    with pytest.raises(StError) as caught:
        parse(tiny, "p.yaml")
    (line,) = str(caught.value).split("\n")
    assert line.startswith(f"p.yaml: {key}: ") and words in line


def test_the_same_keys_where_they_have_an_effect(tiny):
    tiny["methods"]["st"] |= {"max_epoch_factor": 2, "epoch_rule": "computation"}
    tiny["training"] |= {"milestones": [0.3], "nesterov": True, "momentum": 0}
    tiny["methods"]["st"]["training"] = {"schedule": "step", "momentum": 0.5}
    tiny["datasets"]["digits"]["augment"]["crop"] = 7
    parse(tiny)
    tiny["datasets"]["digits"]["augment"] |= {"mixup": 0.2, "cutmix": 1}
    parse(tiny)
    tiny["training"] |= {"optimiser": "adamw", "lr": 0.001, "label_smoothing": 0.1, "momentum": 0.8}
    tiny["methods"]["st"]["training"] |= {"optimiser": "sgd", "label_smoothing": 0}
    tiny["datasets"]["digits"]["augment"] = {
        "resized_crop": {"scale": [0.5, 0.5]}, "jitter": {"contrast": 2}
    }  # fmt: skip
    parse(tiny)


def test_a_completed_file_is_a_good_one(tiny):
    assert parse(parse(tiny).model_dump()) == parse(tiny)


def keys_of(value, path=()):
    """The paths of all keys in nested mappings."""
    for key, part in value.items():
        yield (*path, key)
        if isinstance(part, dict):
            yield from keys_of(part, (*path, key))


REQUIRED = {"seeds", "datasets", "architectures", "source", "family", "criterion", "search"}
OPTIONAL = {("methods", name, "architectures") for name in ("st", "lottery")}
OPTIONAL |= {("supernets", "sparse", "architectures")}
OPTIONAL |= {("resources", part, "search") for part in ("runtime", "mem_mb")}
FREE = {"options", "init_options", "objective"}  # their keys are those of what they are for
WRONG = [object, [[1]], {"a": {"b": 1}}, -1, 1e30, "\n", ""]


def test_every_key_with_every_kind_of_mistake(tiny):
    """Each key of the file, completed by all defaults, misspelt, missing and with wrong values: all
    are refused in lines that begin with the file and name the key."""
    complete, refused = parse(tiny).model_dump(), 0

    def check(path: tuple, named: str, **kinds) -> None:
        nonlocal refused
        with pytest.raises(StError) as caught:
            parse(data, "p.yaml")
        lines = str(caught.value).split("\n")
        assert all(line.startswith("p.yaml: ") and len(line) < 400 for line in lines)
        # of 'source' and 'family' the message is about the section that names them
        places = (named, f"{'.'.join(map(str, path[:-1]))}: unknown")
        assert any(p in line for p in places for line in lines), (path, kinds, lines)
        refused += 1

    for path in keys_of(complete):
        if any(part in FREE for part in path[:-1]):
            continue
        names = path[:1] in (("datasets",), ("architectures",), ("supernets",), ("searches",))
        own = len(path) == 2 and (names or path[0] == "methods")  # a name of one's own
        if not own:
            data = copy.deepcopy(complete)
            place = data
            for part in path[:-1]:
                place = place[part]
            place[f"{path[-1]}x"] = place[path[-1]]
            check(path, f"{path[-1]}x", kind="misspelt")
            if len(path) in (1, 3) and path[-1] in REQUIRED and path not in OPTIONAL:
                del place[f"{path[-1]}x"], place[path[-1]]
                check(path, path[-1], kind="missing")
        for wrong in WRONG:
            if own or path[-1] in FREE:
                wrong = 3 if wrong is not object else None
            if wrong is object or (wrong in ("", "\n") and path[-1] == "plugins"):
                wrong = {1: 2}
            data = copy.deepcopy(complete)
            place = data
            for part in path[:-1]:
                place = place[part]
            place[path[-1]] = wrong
            check(path, str(path[-1]), wrong=wrong)
    assert refused > 400
    print(f"{refused} bad files refused")


@pytest.mark.parametrize(
    "text, key",
    [
        ("seeds: [0]\nseeds: [1]\n", "seeds"),
        ("training: {lr: 0.1, epochs: 3, lr: 0.2}\n", "lr"),
        ("methods:\n  a: {search: x}\n  b: {search: x}\n  a: {search: y}\n", "a"),
        ("a: &a {x: 1, x: 2}\n", "x"),
        ("a: &a {x: 1}\nb: {<<: *a, <<: *a}\n", "<<"),
        ("? seeds\n: 1\n'seeds': 2\n", "seeds"),
    ],
)
def test_keys_that_are_there_twice(tmp_path, text, key):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(StError, match="duplicate key") as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and f"'{key}'" in message and "line" in message


def test_merged_keys_may_be_replaced(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: [*a, *b], x: 3}\n")
    assert read(path)["c"] == {"x": 3, "y": 1}
