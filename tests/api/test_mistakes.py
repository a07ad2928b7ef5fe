"""Mistakes in calls of the API: one line each, that names what is wrong and what is known."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.images import stripes
from helpers.networks import as_trained
from torch.utils.data import DataLoader, TensorDataset

import st

GRAY, LABELS = np.zeros((6, 1, 8, 8), np.uint8), np.arange(6) % 3
COLOUR = torch.rand(6, 3, 8, 8)


class Ends(torch.nn.Flatten):
    def forward(self, x):
        exit(1)


@pytest.fixture(scope="module")
def net():
    return as_trained(st.supernet("vgg", (1, 8, 8), 3, options={"layers": [6, "M", 8]}))


@pytest.fixture(scope="module")
def data():
    return st.dataset(*stripes().parts(), classes=stripes().classes)


def refused(words: str, function, *arguments, **options) -> None:
    with pytest.raises(st.StError) as error:
        function(*arguments, **options)
    told = str(error.value)
    assert words in told and "\n" not in told


@pytest.mark.parametrize(
    "train, options, words",
    [
        ((GRAY, LABELS), {}, "test: is missing; give test images too, or holdout=0.2"),
        ((GRAY, LABELS), {"holdout": 2}, "holdout: must be at least 0 and below 1, not 2"),
        ((GRAY[:3], LABELS[:3]), {"holdout": 0.3}, "leaves none of its 1 image for training"),
        ((GRAY, LABELS[:5]), {"holdout": 0.5}, "training images: 6, but 5 labels"),
        ((GRAY, LABELS + 0.5), {"holdout": 0.5}, "training labels: must be whole numbers (n,)"),
        ((GRAY, np.eye(6)), {"holdout": 0.5}, "not float64 of (6, 6)"),
        ((GRAY, LABELS), {"holdout": 0.5, "classes": 2}, "labels: 2, of image 2, is no class"),
        ((GRAY, LABELS - 1), {"holdout": 0.5, "classes": 3}, "labels: -1, of image 0"),
        ((GRAY, LABELS), {"holdout": 0.5, "classes": "abc"}, "classes: must be names"),
        ((GRAY, LABELS + 1), {"holdout": 0.5}, "labels: no image is of class 0, of 0 to 3; number"),
        ((GRAY, 2 * LABELS), {"holdout": 0.5}, "class 1, 3, of 0 to 4"),
        ((GRAY, LABELS + 10**12), {"holdout": 0.5}, "class 0, 1, 2, ..., of 0 to 1000000000002"),
        ((GRAY, LABELS), {"test": (GRAY, LABELS + 1)}, "class 3, of 0 to 3"),
        ((GRAY, 0 * LABELS), {"holdout": 0.5}, "classes: there is one only; networks"),
        ((GRAY, 0 * LABELS), {"holdout": 0.5, "classes": ["a"]}, "classes: there is one only"),
        ((GRAY[:0], LABELS[:0]), {"holdout": 0.5}, "must be (n, channels, height, width)"),
        ((GRAY.reshape(6, -1), LABELS), {"holdout": 0.5}, "not (6, 64)"),
        ((GRAY - 1.0, LABELS), {"holdout": 0.5}, "float64 of -1 to -1; give integers of 0 to 255"),
        ((GRAY * np.nan, LABELS), {"holdout": 0.5}, "of nan to nan"),
        ((GRAY.astype(int) + 256, LABELS), {"holdout": 0.5}, "int64 of 256 to 256"),
        ((GRAY > 0, LABELS), {"holdout": 0.5}, "must be numbers, not bool"),
        (GRAY, {"holdout": 0.5}, "must be a pair (images, labels) or a Dataset"),
        (DataLoader(TensorDataset(COLOUR)), {"holdout": 0.5}, "give the loader's dataset"),
        (TensorDataset(COLOUR), {"holdout": 0.5}, "sample 0 must be (image, label)"),
        ([(COLOUR[0], 0), (COLOUR[1, :1], 1)], {"holdout": 0.5}, "image 1 is float32 of (1, 8, 8)"),
        ((GRAY, LABELS), {"test": (COLOUR, LABELS)}, "training images are 1 x 8 x 8, the test"),
        ((GRAY, LABELS), {"test": (np.zeros((6, 9, 9)), LABELS)}, "no training image may be below"),
        ((GRAY, LABELS), {"holdout": 0.5, "options": {"a": 1}}, "those of a source by its name"),
        ("digts", {}, "no source of images; known: cifar10"),
        ("digits", {"classes": 10}, "has test images and classes of its own"),
        ("digits", {"options": {"size": 9}}, "data set 'digits': unknown option 'size'"),
        ("imagefolder", {"options": {"root": "x", "size": 8}}, "run `st prepare`"),
        (
            "digits", {"normalisation": {"mean": [0.5, 0.5], "std": [0.5, 0.5]}},
            "normalisation.mean: has 2 values, but the images have 1 channels",
        ),
        ("digits", {"normalisation": {"mean": [0.5]}}, "normalisation.std: is missing"),
    ],
)  # fmt: skip
def test_of_data(train, options, words):
    refused(words, st.dataset, train, **options)


@pytest.mark.parametrize(
    "network, shape, options, words",
    [
        (Ends(), (1, 8, 8), {}, "module 'Ends': ends the program when it is run (status 1)"),
        ("vg", (1, 8, 8), {"classes": 3}, "unknown architecture 'vg'; did you mean 'vgg'?"),
        ("vgg", (8, 8), {"classes": 3}, "must be (channels, height, width), not (8, 8)"),
        ("vgg", (1, 8, 8), {}, "classes: are missing"),
        ("vgg", (1, 8, 8), {"classes": 3, "options": {"dept": 16}}, "did you mean 'depth'?"),
        ("vgg", (1, 8, 8), {"classes": 3, "weights": "own"}, "a module's, not a family's"),
        ("vgg", (1, 8, 8), {"classes": 3, "weights": "no.file"}, "no.file: is missing"),
        ("vgg", (1, 8, 8), {"classes": 3, "init_options": {"bn": 1}}, "unknown option 'bn'"),
        ("vgg", (1, 8, 8), {"classes": []}, "classes: must be names, or their number"),
        ("vgg", (1, 8, 8), {"classes": 3, "seed": -1}, "seed: must be a whole number"),
        (
            "vgg", (1, 8, 8), {"classes": 3, "normalisation": {"mean": [0, 0], "std": [1, 1]}},
            "but the network takes 1 channels",
        ),
        ("import", (1, 8, 8), {"classes": 3}, "give the module itself"),
        (torch.nn.Linear, (1, 8, 8), {}, "not type; make a module of it first"),
        (
            torch.nn.Conv2d(1, 3, 3), (1, 8, 8), {"init_options": {"bn_scale": 0.5}},
            "init_options: have no effect on a module's own weights",
        ),
        (torch.nn.Flatten(), (1, 8, 8), {}, "module 'Flatten': has no parameters"),
        (torch.nn.Conv2d(1, 2, 3), (1, 8, 8), {}, "not 2 x classes"),
        (torch.nn.Bilinear(8, 8, 3), (1, 8, 8), {}, "fails in evaluation on images of 1 x 8 x 8"),
    ],
)  # fmt: skip
def test_of_networks(network, shape, options, words):
    refused(words, st.supernet, network, shape, **options)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"budget": None}, "budget: is missing; give params, macs, channels, latency or several"),
        ({"budget": 0.5}, "budget: must be a mapping of keys to values, not 0.5"),
        ({"budget": {"flops": 0.5}}, "budget.flops: unknown key; known: channels, latency, macs"),
        ({"budget": {"macs": 50}}, "budget.macs: should be less than or equal to 1, not 50"),
        ({"budget": {"macs": 1e-6}}, "cannot be met; with min_channels 1 and round_to 1 the"),
        ({"criterion": "l1norm"}, "unknown criterion 'l1norm'; did you mean 'l1_norm'?"),
        ({"criterion": "l1_norm"}, "use ranking: local"),
        ({"criterion": "l1_norm", "ranking": "loc"}, "'global', 'normalized' or 'local', not"),
        ({"options": {"member": "max"}}, "did you mean 'members'?"),
        ({"min_channels": 0}, "min_channels: should be greater than or equal to 1, not 0"),
        ({"criterion": "taylor"}, "data: is missing; criterion 'taylor' looks at"),
        ({"seed": 0.5}, "seed: must be a whole number of 0 to 2**32 - 1, not 0.5"),
        ({"criterion": "uniform", "min_channels": 4}, "min_channels: has no effect, because"),
        ({"criterion": "tas", "round_to": 4}, "round_to: has no effect, because criterion 'tas'"),
        (
            {"criterion": "uniform", "budget": {"params": 1e-6}},
            "the budget cannot be met; one channel a layer is params: 0.",
        ),
        (
            {"criterion": "uniform", "budget": {"channels": 0.05}},
            "one channel a layer is channels: 0.1",
        ),
    ],
)
def test_of_searches(net, options, words):
    refused(words, st.search, net, **{"budget": {"macs": 0.5}, **options})


def test_of_searches_with_data(net, data):
    refused("looks at weights alone; leave them out", st.search, net, {"macs": 0.5}, data=data)
    other = st.dataset((COLOUR, LABELS), holdout=0.5)
    refused("data: images are 3 x 8 x 8", st.search, net, {"macs": 0.5}, "taylor", data=other)


@pytest.mark.parametrize(
    "structure, options, words",
    [
        ({"macs": 2}, {}, "budget.macs: should be less than or equal to 1"),
        ({"macs": 0.5}, {"init": "inhert"}, "unknown init 'inhert'; did you mean 'inherit'?"),
        ({"macs": 0.5}, {"options": {"x": 1}}, "init 'inherit': unknown option 'x'"),
        ("none.json", {}, "none.json: cannot be read"),
        (5, {}, "structure: must be what st.search returned"),
    ],
)
def test_of_pruning(net, structure, options, words):
    refused(words, st.prune, net, structure, **options)


def test_of_structures_of_other_networks(net):
    other = as_trained(st.supernet("vgg", (1, 8, 8), 3, options={"layers": [6, "M", 9]}))
    found = st.search(other, {"macs": 0.5})
    refused("structure: was found in another network (vgg)", st.prune, net, found)
    refused("use the init 'random'", st.prune, *_uniform())


def _uniform():
    wide = st.supernet("vgg", (1, 8, 8), 3, options={"width": 0.1})
    return wide, st.search(wide, {"macs": 0.5}, "uniform")


@pytest.mark.parametrize(
    "objective, options, words",
    [
        ({"kdd": 1}, {}, "unknown loss 'kdd'; did you mean 'kd'?"),
        (["ce"], {}, "objective: must map losses to weights, not ['ce']"),
        ({}, {}, "objective: needs a loss"),
        ({"ce": 0}, {}, "objective: needs a loss whose weight is above 0"),
        ({"ce": "much"}, {}, "loss 'ce': option 'weight' must be 0 or more, not 'much'"),
        ({"kd": 1}, {}, "teacher: is missing; the loss 'kd' learns from one"),
        ({"ce": 1}, {"teacher": True}, "teacher: no loss of the objective (ce) learns from one"),
        ({"kd": {"weight": 1, "temp": 4}}, {"teacher": True}, "did you mean 'temperature'?"),
        ({"fitnet": {"weight": 1, "stage": "x"}}, {"teacher": True}, "loss 'fitnet': "),
        ({"dkd": 1}, {"teacher": True, "augment": {"mixup": 0.2}}, "but augment mixes them"),
        ({"ce": 1}, {"learning_rate": 0.1}, "learning_rate: unknown key; known: batch_size"),
        ({"ce": 1}, {"lr": -1}, "lr: should be greater than 0, not -1"),
        ({"ce": 1}, {"epochs": 1.5}, "epochs: "),
        (
            {"ce": 1},
            {"augment": {"flipp": True}},
            "augment.flipp: unknown key; did you mean 'flip'",
        ),
        ({"ce": 1}, {"augment": {"jitter": {"hue": 0.1}}}, "augment.jitter.hue: has no effect"),
        ({"ce": 1}, {"augment": {"crop": 30}}, "augment.crop: 30 is as large as the images, 8"),
        (
            {"ce": 1},
            {"augment": {"crop": 1, "resized_crop": {}}},
            "augment.crop: has no effect beside resized_crop",
        ),
        ({"ce": 1}, {"milestones": [0.3], "schedule": "cosine"}, "milestones: has no effect"),
        ({"ce": 1}, {"schedule": "onecycle", "warmup": 0.1}, "warmup: has no effect"),
        ({"ce": 1}, {"nesterov": True, "momentum": 0}, "nesterov: has no effect without"),
        ({"ce": 1}, {"optimiser": "adamw"}, "lr: 0.1 is for sgd"),
        ({"ce": 1}, {"sparsity": -1}, "sparsity: must be a number of 0 to 1"),
        ({"ce": 1}, {"device": "gpu"}, "device gpu: is not known; use auto, cpu, cuda"),
        ({"ce": 1}, {"threads": -2}, "threads: must be 0 to "),
        ({"ce": 1}, {"threads": 100000}, "not 100000"),
        ({"ce": 1}, {"seed": True}, "seed: must be a whole number"),
    ],
)
def test_of_trainings(net, data, objective, options, words):
    options = {**options, **({"teacher": net} if options.get("teacher") else {})}
    refused(words, st.train, net, data, objective, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_of_batches_larger_than_the_data(net, data, caplog):
    """Not refused: they are all images, and that is said."""
    caplog.set_level("INFO", logger="st")
    st.train(net, data, epochs=1, batch_size=5000, device="cpu", threads=1)
    count = len(data.train_labels)
    assert f"batch_size: 5000, but there are {count} training images: each step" in caplog.text


def test_of_gpus_that_are_not_there(net, data):
    refused("device cuda: torch sees no GPU here", st.train, net, data, device="cuda", epochs=1)


def test_of_what_is_no_network_or_data(net, data, tmp_path):
    module = torch.nn.Linear(2, 2)
    for call in (st.search, st.prune, st.train, st.evaluate, st.save):
        argument = tmp_path / "x.safetensors" if call is st.save else {"macs": 0.5}
        refused("not Linear; st.supernet makes one of it", call, module, argument)
    refused("teacher: must come from st.supernet", st.train, net, data, {"kd": 1}, teacher=module)
    refused("network: is one already", st.supernet, net, (1, 8, 8))
    refused("data: must come from st.dataset, not tuple", st.train, net, (GRAY, LABELS))
    other = st.dataset((GRAY[:3], LABELS[:3] // 2), (GRAY[:3], LABELS[:3] // 2))
    for call in (st.train, st.evaluate):
        refused("there are 2 classes, but the network gives 3", call, net, other)
    named = st.supernet("vgg", (1, 8, 8), list("abc"), options={"layers": [6, "M", 8]})
    words = "has the class 'a' where the data have 'class0'"
    refused(f"network: {words}", st.evaluate, named, data)
    refused(f"teacher: {words}", st.train, net, data, {"kd": 1}, teacher=named, epochs=1)
    one = st.dataset((GRAY[:1], LABELS[:1]), (GRAY, LABELS), classes=3)
    refused("batch normalisation needs two", st.train, net, one, epochs=1)


def test_of_what_is_set_by_hand(net, data):
    """Frozen parameters of a network, and data that were put together without st.dataset."""
    frozen = copy.deepcopy(net)
    frozen.network.requires_grad_(False)
    refused("conv1.weight is frozen, but would be trained", st.train, frozen, data, epochs=1)
    for change in (
        {"train_images": data.train_images / 255.0},
        {"train_labels": data.train_labels + 1},
        {"test_labels": data.test_labels[:-1]},
    ):
        refused("do not fit together", st.train, net, replace(data, **change), epochs=1)


def test_of_files(net, tmp_path):
    refused("must end in .safetensors", st.save, net, tmp_path / "net.pt")
    (tmp_path / "file").write_text("")
    refused("cannot be written", st.save, net, tmp_path / "file" / "net.safetensors")
    broken = copy.deepcopy(net)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    refused("values that are not finite", st.save, broken, tmp_path / "net.safetensors")
    broken.network.st_attach("fc", torch.nn.Linear(8, 4))
    refused("but its structure says", st.save, broken, tmp_path / "net.safetensors")
    refused("st.supernet(normalisation=...)", net.predict, GRAY)
    assert not list(tmp_path.glob("*.safetensors"))


def test_test_labels_of_other_classes():
    """As torchvision numbers them, if a class has no folder in one of the parts."""

    class Named(list):
        classes = ("ant", "bee", "cat")

    train, test = ([(GRAY[0], n % count) for n in range(6)] for count in (3, 2))
    train, test = Named(train), Named(test)
    test.classes = ["ant", "cat"]
    refused(
        "test: its classes are not those of the training images (['bee'])", st.dataset, train, test
    )
    test.classes = ["cat", "bee", "ant"]
    refused("(their order)", st.dataset, train, test)
    test.classes = train.classes
    assert st.dataset(train, test).classes == ["ant", "bee", "cat"]


@pytest.mark.parametrize("loss, tap", [("at", "stage2"), ("sp", "stage2")])
def test_a_teacher_that_lacks_what_a_loss_reads(net, data, loss, tap):
    teacher = st.supernet("vgg", (1, 8, 8), data.classes, options={"layers": [6]})
    words = f"teacher: has no '{tap}', which the loss '{loss}' reads; did you mean 'stage1'?"
    student = st.supernet("vgg", (1, 8, 8), data.classes, options={"layers": [6, "M", 8]})
    refused(words, st.train, student, data, {loss: 1}, teacher=teacher, epochs=1)
