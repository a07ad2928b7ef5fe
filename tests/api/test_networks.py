"""The API's networks: own modules in, ordinary torch modules out, which stay as they were."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from helpers.images import stripes
from helpers.networks import as_trained
from torch import nn

import st
from st.core.registry import losses

SHAPE = (1, 8, 8)
RECIPE = {"epochs": 1, "batch_size": 8, "lr": 0.05, "device": "cpu", "threads": 1}


class Net(nn.Module):
    """A residual sum and a depthwise convolution."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.fc((x + torch.relu(self.deep(x))).mean((2, 3)))


class Two(Net):
    def forward(self, x, y):
        return super().forward(x + y)


@pytest.fixture(scope="module")
def data():
    found = stripes()
    train, test = found.parts()
    return st.dataset(train, test, classes=found.classes)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return as_trained(st.supernet(Net(), SHAPE))


@pytest.fixture(scope="module")
def drawn():
    return as_trained(st.supernet("vgg", SHAPE, 3, options={"layers": [6, "M", 8]}))


def state(network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def close(one, other) -> bool:
    return one.keys() == other.keys() and all(np.allclose(one[n], other[n]) for n in one)


@pytest.mark.slow
def test_a_module_is_taken_as_it_is_and_left_alone():
    torch.manual_seed(1)
    module = Net().eval()
    module.norm.running_mean.uniform_(-1, 1)
    before, x = state(module), torch.rand(4, *SHAPE)
    network = st.supernet(module, SHAPE, ["a", "b", "c"])
    assert not module.training and equal(state(module), before)
    assert torch.equal(network(x), module(x)) and not network.training
    assert network.classes == ["a", "b", "c"] and network.structure.label == "Net"
    module.load_state_dict(network.network.state_dict())  # names are the module's own
    fresh = [
        st.supernet(module, SHAPE, weights="random", seed=seed).state_dict() for seed in (3, 3, 4)
    ]
    assert equal(fresh[0], fresh[1]) and not equal(fresh[0], fresh[2])
    assert not equal(fresh[0], network.state_dict())


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_are_taken_as_float32(kind):
    module = Net().to(kind)
    with pytest.warns(UserWarning, match=f"{str(kind)[6:]} are taken as float32"):
        network = st.supernet(module, SHAPE)
    assert next(module.parameters()).dtype == kind
    wanted = module.float().eval()(torch.ones(2, *SHAPE))
    assert torch.equal(network(torch.ones(2, *SHAPE)), wanted)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_types_classify(kind):
    rule = {"mean": [0.5], "std": [0.25]}
    network = st.supernet(Net(), SHAPE, normalisation=rule)
    images = torch.rand(5, *SHAPE)
    wanted = network.predict(images)
    other = copy.deepcopy(network).to(kind)
    assert other.preprocess(images).dtype == kind
    for one, two in zip(wanted, other.predict(images), strict=True):
        assert np.allclose(one.probabilities, two.probabilities, atol=0.02)


def test_images_of_any_number_of_channels_classify():
    """The arrays that `st.dataset` takes, as the test images are."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 4, 8, 6), np.uint8)
    data = st.dataset((images, np.arange(20) % 2), holdout=0.3)
    network = st.supernet(
        nn.Sequential(nn.Conv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
        (4, 8, 6), normalisation={"mean": [0.5] * 4, "std": [0.25] * 4},
    )  # fmt: skip
    wanted = network.normalise(torch.from_numpy(data.test_images))
    for given in (data.test_images, torch.from_numpy(data.test_images), list(data.test_images)):
        assert torch.equal(network.preprocess(given), wanted)
    as_floats = network.preprocess(torch.from_numpy(data.test_images) / 255)
    assert torch.equal(as_floats, wanted) and len(network.predict(data.test_images[0])) == 1
    with pytest.raises(st.StError, match=r"an array must be \(4, 8, 6\), .* not \(8, 6, 4\)"):
        network.predict(np.zeros((8, 6, 4), np.uint8))
    with pytest.raises(st.StError, match=r"is not readable .its values are float32 of 9 to 9"):
        network.predict(np.full((4, 8, 6), 9, np.float32))
    with pytest.raises(st.StError, match="4 channels, which no picture has; give arrays or tensor"):
        network.predict([object()])


def test_what_is_to_be_known_of_an_import_is_a_warning():
    module = Net()
    module.norm.requires_grad_(False)
    with pytest.warns(UserWarning, match="frozen, kept as they are"):
        frozen = st.supernet(module, SHAPE)
    assert "notes" in frozen.provenance
    with pytest.warns(UserWarning, match="all parameters are frozen; they are taken"):
        found = st.supernet(module.requires_grad_(False), SHAPE)
    assert found.structure.cost()[0] == sum(p.numel() for p in module.parameters())
    assert not any(p.requires_grad for p in module.parameters())
    module = Net()
    module.norm.eval()
    with pytest.warns(UserWarning, match="in evaluation mode, but will be trained .*: norm"):
        st.supernet(module, SHAPE)
    with pytest.warns(UserWarning, match="replaced, because .*: 'fc'; 5 classes, not 3"):
        assert st.supernet(Net(), SHAPE, 5).classes == list("01234")


@pytest.mark.slow
def test_what_cannot_be_taken_is_told_with_what_helps():
    cumulative = Net()
    cumulative.norm = nn.BatchNorm2d(6, momentum=None)
    with pytest.raises(st.StError, match=r"'norm' has momentum=None, .* such as 0\.1"):
        st.supernet(cumulative, SHAPE)
    lazy = Net()
    lazy.stem, lazy.norm = nn.LazyConv2d(6, 3, padding=1), nn.LazyBatchNorm2d()
    with pytest.raises(st.StError, match="if its layers are lazy, call it on a batch"):
        st.supernet(lazy, SHAPE)
    lazy(torch.rand(2, *SHAPE))
    st.supernet(lazy, SHAPE)


def test_what_wraps_a_module_is_taken_off():
    for module in (nn.DataParallel(Net()), torch.compile(Net())):
        assert st.supernet(module, SHAPE).structure.label == "Net"


@pytest.mark.parametrize("kind", ["drawn", "net"])
def test_networks_are_plain_torch(kind, request):
    """State dicts, copies, pickle, other types, gradients: of pruned networks too."""
    whole = request.getfixturevalue(kind)
    part = st.prune(whole, {"macs": 0.7})
    x, buffer = torch.rand(3, *SHAPE), io.BytesIO()
    assert isinstance(part, nn.Module) and part(x).shape == (3, 3)
    torch.save(part.state_dict(), buffer)
    buffer.seek(0)
    other = copy.deepcopy(part)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(other(x), part(x))
    other.load_state_dict(torch.load(buffer))
    again = pickle.loads(pickle.dumps(part))
    for found in (other, again):
        assert torch.equal(found(x), part(x))
    assert again.classes == part.classes and again.structure.cost() == part.structure.cost()
    torch.testing.assert_close(other.double()(x.double()).float(), part(x))
    again.train()
    again(x).sum().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_nothing_that_is_given_is_changed(net, data):
    """Networks, modes, and torch's random numbers, type, gradient mode."""
    before, random, threads = state(net), torch.get_rng_state(), torch.get_num_threads()
    part = st.prune(net, st.search(net, {"macs": 0.7}), "random")
    own = state(part)
    with torch.inference_mode():
        objective, recipe = {"ce": 0.5, "kd": 0.5}, {**RECIPE, "threads": 2}
        trained = st.train(part, data, objective, teacher=net, **recipe)
        st.search(net, {"macs": 0.7}, "taylor", options={"images": 8}, data=data)
        assert torch.is_inference_mode_enabled()
    assert torch.get_num_threads() == threads
    torch.set_default_dtype(torch.float64)
    try:
        again = st.train(part, data, objective, teacher=net, **recipe)
    finally:
        torch.set_default_dtype(torch.float32)
    assert equal(state(net), before) and equal(state(part), own)
    assert torch.equal(torch.get_rng_state(), random)
    assert equal(state(trained), state(again)) and not equal(state(trained), own)
    assert [row["epoch"] for row in trained.history] == [1]


def test_own_training_between_goes_in(net, data, tmp_path):
    """Weights as they are now, whoever trained them, in whatever type."""
    own = copy.deepcopy(net)
    with torch.no_grad():
        own.network.fc.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    found = st.evaluate(own, data)["class_accuracy"]
    assert found == {"class0": 100, "class1": 0, "class2": 0}
    assert found != st.evaluate(net, data)["class_accuracy"]
    st.save(own.bfloat16(), tmp_path / "own.safetensors")
    loaded = st.load(tmp_path / "own.safetensors")
    assert loaded.network.fc.bias.tolist() == [9.0, 0.0, 0.0]
    assert loaded.network.fc.bias.dtype == torch.float32


def test_evaluate_is_the_share_of_right_predictions(net, data):
    """And of what is said about sizes."""
    trained = st.train(net, data, **{**RECIPE, "epochs": 6})
    part = st.prune(trained, {"macs": 0.6})
    for network in (trained, part):
        told = st.evaluate(network, data, device="cpu")
        found = network.predict(data.test_images)
        right = [p.label == data.classes[n] for p, n in zip(found, data.test_labels, strict=True)]
        assert told["accuracy"] == pytest.approx(100 * np.mean(right))
        shares = [s for s in told["class_accuracy"].values() if s is not None]
        assert len(shares) == 3 and min(shares) <= told["accuracy"] <= max(shares)
        assert told["params"] == sum(p.numel() for p in network.parameters())
    whole = st.evaluate(trained, data)
    assert told["params_kept"] == told["params"] / whole["params"]
    assert told["macs_kept"] == told["macs"] / whole["macs"] <= 0.6
    assert whole["accuracy"] == trained.history[-1]["test_accuracy"]


def test_normalisation_is_the_network_s_own(net, data):
    """Given on import it is kept by all that comes of it; data that say another are refused."""
    rule = {"mean": [0.2], "std": [0.4]}
    known = as_trained(st.supernet(Net(), SHAPE, normalisation=rule))
    trained = st.train(st.prune(known, {"macs": 0.7}), data, **RECIPE)
    assert close(trained.normalise.given, rule)
    x = torch.rand(2, *SHAPE)
    wanted = (torch.round(255 * x) / 255 - 0.2) / 0.4
    torch.testing.assert_close(trained.preprocess(x), wanted)
    train, test = data.parts()
    other = st.dataset(train, test, classes=3, normalisation={"mean": [0.3], "std": [0.4]})
    for call in (
        lambda: st.train(trained, other, **RECIPE),
        lambda: st.evaluate(trained, other),
    ):
        with pytest.raises(st.StError, match=r"network: was trained on .*'mean': \[0.2"):
            call()
    with pytest.raises(st.StError, match="teacher: was trained on"):
        st.train(net, data, {"kd": 1}, teacher=trained, **RECIPE)
    same = st.dataset(train, test, classes=3, normalisation=rule)
    assert close(st.train(trained, same, **RECIPE).normalise.given, rule)


def test_a_network_that_was_pruned_is_pruned_again(net):
    part = st.prune(net, {"macs": 0.8})
    found = st.search(part, {"macs": 0.5})
    less = st.prune(part, found)
    assert less.structure.cost()[1] <= 0.5 * net.structure.cost()[1]
    for group, kept in found.keep.items():
        assert set(kept) <= set(part.structure.kept(group))
    with pytest.raises(st.StError, match="was pruned, and lacks channels that the structure keeps"):
        st.prune(less, part.structure)


def test_a_loss_of_a_notebook_s_own(net, data):
    """Registered in place; what it lacks is said."""

    def heavy(student, teacher, labels, *, power: float = 2.0):
        return student["logits"].abs().pow(power).mean()

    try:
        st.losses.register(heavy)
        with pytest.raises(st.StError, match="'heavy': its function lacks the attribute 'teacher'"):
            st.train(net, data, {"ce": 1, "heavy": 1}, **RECIPE)
        heavy.teacher, heavy.taps = False, ("logits",)
        trained = st.train(net, data, {"ce": 1, "heavy": {"weight": 0.1, "power": 1}}, **RECIPE)
        assert trained.history[0]["heavy"] > 0
    finally:
        losses._entries.pop("heavy", None)
