"""What the authors' programs do, computed again in plain float64, against the whole method here."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.images import stripes
from helpers.networks import random_keep, random_tensors
from torch.nn import functional as F

from st.config.check import load, parse
from st.config.grid import Grid
from st.core.device import choose
from st.core.errors import StError
from st.core.registry import architectures, criteria, inits
from st.core.seeds import derive
from st.core.shares import inert
from st.data.augment import Augment
from st.data.dataset import save_data
from st.data.images import Images
from st.networks import network
from st.networks.checkpoint import load_model, save_model
from st.networks.structure import Structure, save_structure
from st.phases import initialize, pretrain, train
from st.pruning.criteria import Subject
from st.pruning.selection import Budget
from st.pruning.tas.network import Supernet
from st.pruning.tas.space import read, shaped
from st.training.epochs import scaled_epochs
from st.training.loop import Run, Step, fit
from st.training.objective import Objective
from st.training.recipe import Training, learning_rate
from st.training.trainer import say_too_weak

# Fresh weights

FAMILIES = {
    "vgg": {"depth": 11, "width": 0.25, "hidden": 40},
    "resnet": {"depth": 56, "width": 0.5},
    "preresnet": {"depth": 29, "width": 0.5},
    "densenet": {"depth": 22, "growth": 8},
}


def full_network(family: str, options: dict) -> Structure:
    return Structure(family, architectures.check(family, options), (3, 16, 16), 10)


def found(kind: str, family: str) -> Structure:
    """A structure as this kind of search finds it."""
    full = full_network(family, FAMILIES[family])
    if kind == "ranked":  # most groups lose some channels, some lose none
        keep = random_keep(full, np.random.default_rng(0))
        whole = list(keep)[::3]
        return replace(full, keep={g: k for g, k in keep.items() if g not in whole})
    if kind == "first channels":
        return replace(
            full, keep={g.name: np.arange(max(1, g.size // 2)) for g in full.graph.groups.values()}
        )
    if kind == "uniform":
        subject = Subject(full, {}, Budget(params=0.3), 0)
        return criteria.get("uniform")(subject)
    if kind == "tas":
        space = read(full, [0.5, 1.0])
        rng = np.random.default_rng(0)
        return shaped(full, space, [int(rng.integers(n)) for n in space.candidates])
    family, options = "resnet", {"depth": 110}
    full = Structure(family, architectures.check(family, options), (3, 16, 16), 10)
    subject = Subject(full, random_tensors(full, np.random.default_rng(0)), Budget(), 0)
    return criteria.get("published")(subject, name="resnet110-a")


KINDS = [(kind, f) for kind in ("ranked", "first channels", "uniform") for f in FAMILIES]
KINDS += [("tas", "vgg"), ("tas", "resnet"), ("published", "resnet")]


def starts(folder, part: Structure, monkeypatch, init="random", seed=3):
    """(the supernet's initial weights, the subnet's), as the phases make them."""
    full = part.full
    monkeypatch.setattr(pretrain, "load_data", lambda path: (FakeData(full), ""))
    monkeypatch.setattr(pretrain, "fit_and_save", lambda *arguments, **options: None)
    job = {
        "seed": seed, "family": full.family, "options": full.options, "rewind_epoch": 0,
        "init_options": {}, "training": {"epochs": 1}, "sparsity": 0.0,
    }  # fmt: skip
    pretrain.run(job, folder, folder / "m", folder / "rewind", folder / "h", "cpu", 1)
    save_structure(folder / "structure.json", part)
    job = {"seed": seed, "init": init, "options": {}}
    source = None if init == "random" else folder / "rewind"
    initialize.run(job, folder / "structure.json", source, folder / "init")
    return load_model(folder / "rewind").tensors, load_model(folder / "init").tensors


class FakeData:
    def __init__(self, structure):
        self.input_shape, self.classes = structure.input_shape, range(structure.classes)


def correlations(part: Structure, supernet: dict, subnet: dict):
    """Of each random tensor of the subnet with the supernet's: with the slice of the kept channels,
    and with the first ones, which narrower and shallower networks line up with."""
    same = part.graph.tensors() == part.full.graph.tensors()
    for tensor in part.graph.tensors():
        value = subnet[tensor.name]
        if tensor.role not in ("convolution", "linear") or value.size < 20:
            continue
        slices = []
        whole = supernet.get(tensor.name)
        if whole is not None and all(a <= b for a, b in zip(value.shape, whole.shape, strict=True)):
            slices.append(whole[tuple(slice(n) for n in value.shape)])
        if same:
            for axis, group in enumerate(tensor.axes):
                whole = np.take(whole, part.kept(group), axis=axis) if group else whole
            slices.append(whole)
        for other in slices:
            yield tensor.name, value.size, np.corrcoef(value.ravel(), other.ravel())[0, 1]


@pytest.mark.parametrize("kind, family", KINDS)
def test_fresh_weights_are_not_the_supernets(kind, family, tmp_path, monkeypatch):
    part = found(kind, family)
    supernet, subnet = starts(tmp_path, part, monkeypatch)
    seen = list(correlations(part, supernet, subnet))
    assert len(seen) > 5
    for name, count, correlation in seen:
        assert abs(correlation) < 5 / math.sqrt(count), name


def test_a_lottery_ticket_correlates(tmp_path, monkeypatch):
    """So the test above would notice."""
    part = found("ranked", "resnet")
    supernet, ticket = starts(tmp_path, part, monkeypatch, init="rewind")
    assert max(c for *_, c in correlations(part, supernet, ticket)) > 0.999


def test_methods_of_one_structure_start_alike(tmp_path, monkeypatch):
    part = found("ranked", "vgg")
    _, one = starts(tmp_path, part, monkeypatch)
    _, two = starts(tmp_path, part, monkeypatch)
    _, other = starts(tmp_path, part, monkeypatch, seed=4)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    assert not np.array_equal(one["conv3.weight"], other["conv3.weight"])


def test_what_tas_found_starts_from_other_weights_than_the_search():
    full = full_network("resnet", FAMILIES["resnet"])
    searched = Supernet(full, read(full, [0.5, 1.0]), seed=3)
    subnet = inits.get("random")(full, None, derive(3, "subnet"))
    supernet = inits.get("random")(full, None, 3)
    filters = searched.filters[7].detach().numpy().ravel()
    for other in (subnet, supernet):
        assert all(
            abs(np.corrcoef(filters, value.ravel())[0, 1]) < 5 / math.sqrt(filters.size)
            for value in other.values()
            if value.size == filters.size
        )


def test_linear_layers_start_as_published():
    """network slimming's VGG: N(0, 0.01) and zero; its and Rethinking's other networks: torch's
    default, whose bound is that of torch.nn.Linear of the pruned layer."""
    full = full_network("vgg", {"layers": [64, 300], "hidden": 500})
    part = replace(full, keep={"conv2": np.arange(0, 300, 3)})
    random = inits.get("random")
    normal, uniform = random(part, None, 0), random(part, None, 0, linear="uniform")
    assert normal["hidden.weight"].std() == pytest.approx(0.01, rel=0.02)
    assert not normal["hidden.bias"].any()
    for layer, fan_in in (("hidden", 100), ("classifier", 500)):
        weight, bias = uniform[f"{layer}.weight"], uniform[f"{layer}.bias"]
        module = torch.nn.Linear(fan_in, len(weight))
        assert weight.shape == module.weight.shape and weight.dtype == bias.dtype == np.float32
        bound = 1 / math.sqrt(fan_in)
        assert 0.95 * bound < np.abs(weight).max() <= bound
        assert weight.std() == pytest.approx(module.weight.std().item(), rel=0.03)
        assert 0.7 * bound < np.abs(bias).max() <= bound
    np.testing.assert_array_equal(normal["conv1.weight"], uniform["conv1.weight"])


def test_papers_files_start_networks_as_the_authors_programs():
    published = {
        "vgg19": {"bn_scale": 0.5, "linear": "normal"},
        "preresnet164": {"bn_scale": 0.5, "linear": "uniform"},
        "densenet40": {"bn_scale": 0.5, "linear": "uniform"},
        "resnet56": {"bn_scale": 1.0, "linear": "uniform"},
    }
    for name in ("paper-cifar10", "paper-cifar100"):
        grid = Grid(load(f"params/{name}.yaml"))
        dataset = next(iter(grid.params.datasets))
        for architecture, options in published.items():
            for supernet in ("plain", "sparse"):
                job = grid.pretrain(dataset, architecture, 0, supernet)
                assert job["init_options"] == options
            assert grid.initialize(architecture, 0, "st")["options"] == options
            assert grid.initialize(architecture, 0, "slimming-finetune")["options"] == {}
        # as much computation as the supernet, whatever the structure saves
        methods = grid.params.methods
        assert all(methods[m].max_epoch_factor is None for m in ("st", "scratch-b", "tapered"))


# Recipes


def test_warm_up_and_cosine_of_tas_retraining():
    """5 epochs of warm-up, then a cosine over 300."""
    recipe = Training(epochs=305, warmup=5 / 305, schedule="cosine", lr=0.1)
    for epoch in range(305):
        expected = 0.1 * epoch / 5
        if epoch >= 5:
            expected = 0.1 * (1 + math.cos(math.pi * (epoch - 5) / 300)) / 2
        assert learning_rate(recipe, epoch / 305) == pytest.approx(expected, abs=1e-12)


def test_scratch_b_has_the_supernets_computation():
    full = full_network("vgg", FAMILIES["vgg"])
    part = replace(full, keep={g.name: np.arange(g.size // 4) for g in full.graph.groups.values()})
    job = {"training": {"epochs": 160}, "epoch_rule": "computation", "max_epoch_factor": None}
    epochs = scaled_epochs(job, part)
    assert epochs == int(160 * full.cost()[1] / part.cost()[1])
    assert epochs * part.cost()[1] > 0.99 * 160 * full.cost()[1]
    assert scaled_epochs({**job, "max_epoch_factor": 2.0}, part) == 320


# Rankings


@pytest.mark.parametrize("name", ["l1_norm", "l2_norm", "geometric_median", "activation"])
def test_scores_that_grow_with_a_layer_are_not_ranked_globally(name):
    data = {
        "seeds": [0],
        "datasets": {"digits": {"source": "digits"}},
        "architectures": {"vgg": {"family": "vgg", "options": {"layers": [8, "M", 8]}}},
        "searches": {"s": {"criterion": name, "budget": {"params": 0.5}}},
        "methods": {"m": {"search": "s"}},
    }
    with pytest.raises(StError, match=r"searches.s.ranking: scores of .* ranking: local"):
        parse(data)
    for ranking in ("local", "normalized"):
        data["searches"]["s"]["ranking"] = ranking
        parse(data)
    for comparable in ("bn_scale", "taylor", "random"):
        data["searches"]["s"] = {"criterion": comparable, "budget": {"params": 0.5}}
        parse(data)
    data["searches"]["s"] |= {"criterion": "activation", "options": {"kind": "apoz"}}
    parse(data)


def test_l1_sums_of_fresh_weights_grow_with_the_layer():
    """Why: of weights that mean nothing, raw sums keep whole layers and empty others; over their
    layer's mean they treat layers alike."""
    full = full_network("vgg", {"layers": [16, 64, 256]})
    subject = Subject(full, inits.get("random")(full, None, 0), Budget(), 0)
    scores = criteria.get("l1_norm")(subject)
    means = [scores[f"conv{n}"].mean() for n in (1, 2, 3)]
    assert max(means) > 5 * min(means)


# Shares of the gradient

STRUCTURE = Structure("vgg", {"layers": [6, "M", 8]}, (1, 8, 8), 3)


def a_run(objective, epochs=1, structure=STRUCTURE, precision="float32"):
    where = choose("cpu", threads=1, precision=precision)
    teacher = network.build(STRUCTURE, random_tensors(STRUCTURE, np.random.default_rng(0)))
    return Run(
        network=where.place(network.build(structure, inits.get("random")(structure, None, 1))),
        images=Images(stripes(), where),
        recipe=Training(batch_size=8, lr=0.05, schedule="constant"),
        epochs=epochs,
        objective=Objective(objective, structure.graph.taps),
        augment=Augment(crop=1),
        seed=0,
        device=where,
        teacher=teacher,
    )


KD = {"weight": 0.9, "temperature": 4.0}
OBJECTIVES = [
    {"ce": {"weight": 0.1}, "kd": KD, "cc": {"weight": 3.0, "gamma": 0.4, "order": 2}},
    {"ce": {"weight": 1.0}, "at": {"weight": 100.0}},
    {"ce": {"weight": 0.5}, "kd": KD},
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: "+".join(o))
def test_shares_are_norms_of_gradients(objective):
    """Of each weighted term alone, at the earliest tap that one of them reads."""
    run = a_run(objective)
    fit(run, lambda run, speed: None)
    (row,) = run.history
    shares = {name: row[f"share_{name}"] for name in objective}
    assert sum(shares.values()) == pytest.approx(100)

    first = {"at": "stage1", "cc": "features"}.get([*objective][-1], "logits")
    run.network.train()
    step = Step(run, 8, 5)
    step.begin(0)
    norms = {}
    for name, given in objective.items():
        alone = Objective({name: given}, STRUCTURE.graph.taps)
        index = step._order[-1]
        images = run.augment.apply(run.images.train_images[index], step._views[index])
        batch = run.images.normalise(images)
        taps = tuple({*run.objective.taps, first})
        outputs = run.network(batch, taps)
        with torch.no_grad():
            teacher = run.teacher.eval()(batch, taps)
        loss = alone(outputs, teacher, run.images.train_labels[index])["loss"]
        (gradient,) = torch.autograd.grad(loss, outputs[first])
        norms[name] = gradient.double().norm().item()
    for name, norm in norms.items():
        assert shares[name] == pytest.approx(100 * norm / sum(norms.values()), rel=2e-3)


def test_looking_at_shares_changes_nothing(monkeypatch):
    objective = {"ce": {"weight": 1.0}, "kd": KD, "fitnet": {"weight": 1.0}}
    looked = a_run(objective, epochs=3)
    fit(looked, lambda run, speed: None)
    monkeypatch.setattr(Step, "shares", lambda self: {})
    blind = a_run(objective, epochs=3)
    fit(blind, lambda run, speed: None)
    for kind, module in looked.modules.items():
        other = blind.modules[kind].state_dict()
        for name, value in module.state_dict().items():
            assert torch.equal(value, other[name]), (kind, name)
    assert "share_fitnet" in looked.history[0] and "share_fitnet" not in blind.history[0]


def test_a_single_loss_has_no_shares():
    run = a_run({"kd": KD})
    fit(run, lambda run, speed: None)
    assert not any(key.startswith("share_") for key in run.history[0])


def test_shares_in_bfloat16_are_nearly_those_in_float32():
    found = []
    for precision in ("float32", "bfloat16"):
        run = a_run(OBJECTIVES[0], precision=precision)
        step = Step(run, 8, 5)
        step.begin(0)
        found.append(step.shares())
    for name, share in found[0].items():
        assert found[1][name] == pytest.approx(share, rel=0.1, abs=0.2)


def test_a_weight_that_is_too_small_is_named(tmp_path, caplog):
    save_data(tmp_path / "data", stripes(images=80), {})
    tensors = random_tensors(STRUCTURE, np.random.default_rng(0))
    save_model(tmp_path / "teacher", STRUCTURE, tensors)
    save_model(
        tmp_path / "init", STRUCTURE, inits.get("random")(STRUCTURE, None, 1, linear="uniform")
    )

    def named(weight):
        caplog.clear()
        job = {
            "seed": 0, "epoch_rule": "same", "augment": {"crop": 0, "flip": False},
            "objective": {"ce": {"weight": 0.1}, "kd": KD, "cc": {"weight": weight}},
            "training": Training(epochs=3, batch_size=16).model_dump(),
        }  # fmt: skip
        with caplog.at_level("INFO", "st"):
            train.run(
                job, tmp_path / "data", tmp_path / "init", tmp_path / "teacher",
                tmp_path / "model", tmp_path / "history", "cpu", 1,
            )  # fmt: skip
        return "the loss 'cc' did next to nothing" in caplog.text

    assert named(1e-4) and not named(20.0)


def test_inert_losses():
    history = {
        "epoch": [1, 2, 3], "ce": [3.0, 2.0, 1.0], "share_ce": [99.0, 99.6, 99.4],
        "share_cc": [0.999, 0.4, 0.5],
        "share_kd": [0.001, 1.0, 1.2], "share_at": [60.0, 0.9, 0.1],
    }  # fmt: skip
    # a share that only the first epoch has does not count
    assert inert(history) == {"cc": 0.5, "at": 0.9}


def test_gradients_of_cc_and_kd_are_equal_at_larger_weights():
    """At random features and logits of usual sizes, equal norms need a weight near that of public
    re-implementations (tens), not 0.02."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(64, 64, generator=generator, dtype=torch.float64, requires_grad=True)
    classifier = 0.5 * torch.randn(10, 64, generator=generator, dtype=torch.float64)
    other = torch.rand(64, 64, generator=generator, dtype=torch.float64)
    t, labels = 4.0, torch.zeros(64, dtype=torch.int64)
    outputs = {"features": features, "logits": features @ classifier.T}
    teacher = {"features": other, "logits": other @ classifier.T}
    objective = Objective({"kd": {"weight": 1.0, "temperature": t}, "cc": {"weight": 1.0}})
    values = objective(outputs, teacher, labels)
    norms = {
        name: torch.autograd.grad(values[name], features, retain_graph=True)[0].norm().item()
        for name in ("kd", "cc")
    }
    assert 1 < norms["kd"] / norms["cc"] < 1000
    # the definition itself, written out
    x, y = (F.normalize(v["features"].detach(), dim=1) for v in (outputs, teacher))
    kernel = [
        sum(math.exp(-0.8) * 0.8**p / math.factorial(p) * (v @ v.T) ** p for p in range(3))
        for v in (x, y)
    ]
    expected = (kernel[0] - kernel[1]).square().sum() / 64**2
    assert values["cc"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_l1_penalty_that_reaches_no_zero_is_named(caplog):
    """What it can do at most is what SGD does with nothing but the penalty."""

    def named(sparsity):
        caplog.clear()
        recipe = Training(epochs=16, batch_size=10, schedule="onecycle", weight_decay=0)
        scale = torch.nn.Parameter(torch.full((3,), 0.5))
        run = SimpleNamespace(recipe=recipe, sparsity=sparsity, scales=[scale], epochs=16)
        with caplog.at_level("INFO", "st"):
            say_too_weak(run, 200)
        optimiser = torch.optim.SGD([scale], momentum=recipe.momentum)
        for step in range(16 * 20):
            optimiser.param_groups[0]["lr"] = learning_rate(recipe, step / (16 * 20))
            scale.grad = torch.full((3,), sparsity)
            optimiser.step()
        reach = re.search(r"lower a BatchNorm scale by (\S+) in", caplog.text)
        return float(reach[1]) if reach else None, 0.5 - scale.min().item()

    told, moved = named(1e-3)
    assert told == pytest.approx(moved, rel=0.05) and told < 0.5
    told, moved = named(5e-3)
    assert told is None and moved > 0.5
