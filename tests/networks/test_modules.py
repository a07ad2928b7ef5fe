"""Modules of others: found, made for the data, filled with weights; each mistake is one line."""

import sys
import types

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.utils._pytree import tree_leaves

from st.core.errors import StError
from st.networks.imported.export import imported
from st.networks.imported.modules import fill, made
from st.networks.structure import Structure
from st.networks.weights import check_weights, fitted

SHAPE, CLASSES = (3, 8, 8), 5


class Pooled(nn.Module):
    """The mean over positions, and a linear layer."""

    def __init__(self, num_classes=7):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


class Fixed(Pooled):
    def __init__(self):
        super().__init__(7)


class Named(nn.Module):
    """A number of classes under another usual name, and an argument of its own."""

    def __init__(self, width, n_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, n_classes),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


def function(**options):
    return Pooled(**options)


def without_argument(**options):
    if options:
        raise TypeError("takes no options")
    return Fixed()


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(CLASSES)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Pair(Pooled):
    def forward(self, x):
        return super().forward(x), x


class Auxiliary(Pooled):
    """As GoogLeNet's: further results in training."""

    def forward(self, x):
        y = super().forward(x)
        return (y, 2 * y) if self.training else y


class Dictionary(Pooled):
    def forward(self, x):
        return {"logits": super().forward(x)}


class FeaturesFirst(Pooled):
    def forward(self, x):
        return {"features": x.mean((2, 3)), "logits": super().forward(x)}


class Scripted(Pooled):
    def __init__(self, num_classes=7):
        super().__init__(num_classes)
        self.fc = torch.jit.trace(self.fc, torch.zeros(1, 3))


def in_parallel(num_classes):
    return torch.compile(nn.DataParallel(Pooled(num_classes)))


class Words(Pooled):
    def forward(self, x):
        return "a cat"


class TwoInputs(Pooled):
    def forward(self, x, y):
        return super().forward(x + y)


class Branches(Pooled):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else -y


class Loops(Pooled):
    def forward(self, x):
        return torch.stack([self.fc(image.mean((1, 2))) for image in x])


class Positions(Pooled):
    """Position embeddings for other images."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.position = nn.Parameter(torch.zeros(1, 3, 16, 16))

    def forward(self, x):
        return super().forward(x + self.position)


class Maps(Pooled):
    def forward(self, x):
        return x


class Gated(Fixed):
    """A gate of as many numbers as there are classes, registered last."""

    def __init__(self):
        super().__init__()
        self.wide, self.gate = nn.Linear(3, 7), nn.Linear(7, 7)
        self.fc = nn.Linear(7, 7)
        self.fc, self.gate = self._modules.pop("fc"), self._modules.pop("gate")

    def forward(self, x):
        x = self.wide(x.mean((2, 3)))
        return self.fc(x * torch.sigmoid(self.gate(x))).log_softmax(1)


class Twice(Fixed):
    """The mean of two heads, and a third for something else, which is called last."""

    def __init__(self):
        super().__init__()
        self.second, self.other = nn.Linear(3, 7), nn.Linear(3, 7)

    def forward(self, x):
        x = x.mean((2, 3))
        return (self.fc(x) + self.second(x)) / 2, self.other(x)


class Shared(nn.Module):
    """One head under two names."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(3, 7)])
        self.again = self.parts[0]

    def forward(self, x):
        x = x.mean((2, 3))
        return self.parts[0](x) + self.again(-x)


class Writing(Fixed):
    """What it is given, and a buffer, are written into."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x.sub_(0.5)).relu_()


class Functional(Fixed):
    def forward(self, x):
        return nn.functional.linear(x.mean((2, 3)), self.fc.weight)


class Written(Fixed):
    """The number of classes is in the code, too."""

    def forward(self, x):
        return super().forward(x).view(-1, 7)


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 14, 1), nn.Conv2d(14, 7, 1, groups=7)

    def forward(self, x):
        return self.last(self.first(x)).mean((2, 3))


class Single(Fixed):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Pretrained(Pooled):
    """As torchvision's: weights say the number of classes."""

    def __init__(self, num_classes=7, weights=None):
        if weights and num_classes != 7:
            raise ValueError(f"The parameter 'num_classes' expected value 7 but got {num_classes}")
        super().__init__(num_classes)


class Stubborn(nn.Module):
    def __init__(self, depth, num_classes=7):
        raise ValueError("no")


def pretrained(**options):
    return Pretrained(**options)


def with_transform(num_classes):
    return Pooled(num_classes), torch.relu


class Convolutional(nn.Module):
    """A convolution in place of a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 1)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Configured(Pooled):
    """As timm's networks say what they were trained with."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "input_size": (3, 224, 224)}


class Broken(nn.Module):
    def __init__(self):
        raise RuntimeError("no\nsuch thing")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """This module under a name that can be imported."""
    module = types.ModuleType("mine")
    module.__dict__.update(globals())
    module.instance = Pooled(CLASSES)
    module.number = 3
    monkeypatch.setitem(sys.modules, "mine", module)


def make(name, **arguments):
    return made(name, arguments, SHAPE, CLASSES, seed=0)


@pytest.mark.parametrize(
    "name, arguments, note",
    [
        ("mine:Pooled", {}, None),
        ("mine:Named", {"width": 4}, None),
        ("mine:function", {}, None),
        ("mine:instance", {}, None),
        ("mine:Lazy", {}, None),
        ("mine:Pair", {}, None),
        ("mine:Auxiliary", {}, None),
        ("mine:Dictionary", {}, None),
        ("mine:in_parallel", {}, None),
        ("mine:Configured", {}, "{mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}, and"),
        ("mine:Fixed", {}, "replaced, because the output comes of it: 'fc'; 5 classes, not 7"),
        ("mine:without_argument", {}, "comes of it: 'fc'; 5"),
        ("mine:Pooled", {"num_classes": 9}, "5 classes, not 9"),
        ("mine:Convolutional", {}, "comes of it: 'conv'; 5"),
        ("mine:Gated", {}, "comes of it: 'fc'; 5"),
        ("mine:Twice", {}, "comes of it: 'fc', 'second'; 5"),
        ("mine:Shared", {}, "comes of it: 'parts.0'; 5"),
        ("mine:Writing", {}, "comes of it: 'fc'; 5"),
        ("torchvision.models:resnet18", {}, None),
        ("torchvision.models:squeezenet1_1", {}, None),
    ],
)
def test_made_for_the_classes(name, arguments, note):
    shape = (3, 32, 32) if "torchvision" in name else SHAPE
    module, notes = made(name, arguments, shape, CLASSES, seed=0)
    output = module.eval()(torch.zeros(2, *shape))
    assert tree_leaves(output)[0].shape == (2, CLASSES)
    assert len(notes) == (note is not None) and all(note in told for told in notes)
    again, _ = made(name, arguments, shape, CLASSES, seed=0)
    for one, other in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name, notes", [("Pretrained", 2), ("pretrained", 1)])
def test_weights_for_other_classes_come_with_their_own_number(name, notes):
    module, found = make(f"mine:{name}", weights="DEFAULT")
    assert module.fc.out_features == CLASSES
    assert len(found) == notes and found[-1].endswith("comes of it: 'fc'; 5 classes, not 7")
    assert notes == 1 or "expected value 7 but got 5" in found[0]


def test_replaced_layers_are_in_all_of_their_places():
    module, _ = make("mine:Shared")
    assert module.again is module.parts[0]
    module, _ = make("mine:Gated")
    assert module.gate.out_features == 7 and module.fc.in_features == 7


def test_a_file_that_is_called_as_a_module_of_python_s(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # and taken back
    (tmp_path / "types.py").write_text(
        "from dataclasses import dataclass\nfrom mine import Pooled\n\n\n"
        "@dataclass\nclass Options:\n    size: 'int' = 3\n\n\n"
        "def net(num_classes):\n    return Pooled(num_classes)\n"
    )
    made(f"{tmp_path}/types.py:net", {}, SHAPE, CLASSES, seed=0)
    assert sys.modules["types"] is types


def test_a_file_of_a_package_is_named_as_such(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "net.py").write_text("from .parts import Net\n")
    (tmp_path / "own_package" / "parts.py").write_text("from mine import Pooled as Net\n")
    with pytest.raises(StError, match=r"name it own_package\.net:Net$"):
        make("own_package/net.py:Net")
    make("own_package.net:Net")


def test_from_a_file_and_what_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text("from torch import nn\nBLOCK = nn.Linear(3, 5)\n")
    (tmp_path / "own_net.py").write_text(
        "import torch\nfrom own_parts import BLOCK\n\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n        self.fc = BLOCK\n"
        "    def forward(self, x):\n        return self.fc(x.mean((2, 3)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # and taken back
    module, _ = make(f"{tmp_path}/own_net.py:Net")
    assert type(module).__name__ == "Net"


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("resnet18", {}, "must be FILE.py:NAME, PACKAGE.MODULE:NAME or timm:NAME"),
        ("no_such_package:Net", {}, "no_such_package is missing; pip install no_such_package"),
        ("os.no_such_module:Net", {}, "cannot be imported .ModuleNotFoundError"),
        ("no_such_file.py:Net", {}, "no_such_file.py: is missing"),
        ("torchvision.models:resnet19", {}, "there is no 'resnet19'; did you mean 'resnet1"),
        ("mine:number", {}, "is no class, function or module of torch"),
        ("builtins:dict", {}, "made a dict, not a module of torch"),
        ("mine:Named", {}, r"cannot be made with \(n_classes=5\) \(TypeError"),
        ("mine:Pooled", {"depth": 3}, "unexpected keyword argument 'depth'"),
        ("mine:Broken", {}, "RuntimeError: no such thing"),
        ("mine:Scripted", {}, "its part 'fc' is compiled by torch.jit"),
        ("mine:Words", {}, "gives a str, not a tensor of classes"),
        ("mine:Maps", {}, "gives 2 x 3 x 8 x 8 numbers for 2 images, not 2 x classes"),
        ("mine:TwoInputs", {}, "fails in evaluation on images of 3 x 8 x 8 .*one input"),
        ("mine:Positions", {}, "fails in evaluation on images of 3 x 8 x 8 .*the size"),
        ("mine:Functional", {}, "no linear layer or convolution makes .* make it for 5 classes"),
        ("mine:Written", {}, "7 numbers .* where 'fc' is replaced .*; make it for 5 classes"),
        ("mine:Grouped", {}, "7 numbers an image, there are 5 classes, and no linear layer or"),
        ("mine:Single", {}, r"gives one number an image; give one for each class: \(n, classes\)"),
        ("mine:with_transform", {}, "made a tuple, .* name a function that returns the module"),
        ("mine:Stubborn", {"depth": 3}, r"made with \(depth=3, num_classes=5\) .ValueError: no"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, arguments, words):
    with pytest.raises(StError, match=words) as caught:
        make(name, **arguments)
    assert "\n" not in str(caught.value)


ENDS = {
    "import sys; sys.exit()": "status 0",
    "exit(3)": "status 3",
    "raise SystemExit('no\\ndata')": "no data",
    "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('data')\n"
    "parser.parse_args()": "the following arguments are required: data",
}


@pytest.mark.parametrize("text", ENDS)
def test_files_that_end_the_program_are_one_line(tmp_path, text, capfd, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # and taken back
    path = tmp_path / "ends.py"
    path.write_text(text)
    with pytest.raises(StError) as caught:
        make(f"{path}:Net")
    assert str(caught.value) == (
        f"module '{path}:Net': ends the program when it is imported ({ENDS[text]}); "
        'guard what runs with `if __name__ == "__main__":`'
    )
    assert capfd.readouterr() == ("", "")


def test_files_do_not_see_the_command_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["st", "draw", "digits/mine"])
    (tmp_path / "script.py").write_text(
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr')\n"
        "parser.parse_args()\nfrom mine import Pooled\n"
    )
    assert type(make(f"{tmp_path}/script.py:Pooled")[0]) is Pooled
    assert sys.argv == ["st", "draw", "digits/mine"]


def test_timm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(StError, match="timm is missing; pip install timm"):
        make("timm:resnet18")


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "mine:Branches",
            "cannot draw it in training: what it does depends on the values of its input",
        ),
        ("mine:Loops", "it can take batches of one size only"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(name, words, capfd):
    module, _ = make(name)
    with pytest.raises(StError, match=words) as caught:
        imported(module, SHAPE)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert capfd.readouterr() == ("", "")


def test_of_several_results_the_first_counts():
    program, _ = imported(make("mine:Auxiliary")[0], SHAPE)
    assert program.notes == ["of its 2 results in training the first is used"]


def test_of_several_results_that_of_the_classes_counts():
    module, notes = make("mine:FeaturesFirst")
    program, _ = imported(module, SHAPE, classes=CLASSES)
    assert notes == [] and program.classes == CLASSES
    assert program.notes == [
        f"of its 2 results in {when} number 2 is used" for when in ("training", "evaluation")
    ]


def save(path, module, **changes):
    tensors = {name: value.numpy() for name, value in module.state_dict().items()}
    tensors |= changes
    save_file({name: value for name, value in tensors.items() if value is not None}, path)
    return path


def filled(module, path):
    """What `st draw` makes of a module and a file of weights for it, and says of the file."""
    fill(module, path)
    program, values = imported(module, SHAPE, classes=CLASSES)
    return fitted(Structure("import", {}, SHAPE, CLASSES, program=program), path, values, None)


def test_weights_fill_a_module(tmp_path):
    source, target = Named(4, CLASSES), Named(4, CLASSES)
    values, said = filled(target, save(tmp_path / "w.safetensors", source))
    assert said == [] and values.keys() == dict(source.named_parameters()).keys()
    for name, parameter in source.named_parameters():
        assert np.array_equal(values[name], parameter.detach().numpy())
    for one, other in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_state_dict_may_hold_what_the_output_does_not_need(tmp_path):
    module = Pooled(CLASSES)
    module.auxiliary = nn.Linear(3, 2)
    module.register_buffer("unused", torch.zeros(3))
    module.register_buffer("order", torch.tensor([2, 0, 1]))
    module.register_forward_pre_hook(lambda part, x: x[0][:, part.order])
    program, values = imported(module, SHAPE)
    whole = Structure("import", {}, SHAPE, CLASSES, program=program)
    path = save(tmp_path / "w.safetensors", module)
    found, said = fitted(whole, path, {name: 0 * v for name, v in values.items()}, None)
    assert said == [] and found.keys() == values.keys()
    assert all(np.array_equal(found[name], values[name]) for name in values)
    module.order.copy_(torch.tensor([0, 1, 2]))
    with pytest.raises(StError, match="'order' is another order of channels"):
        fitted(whole, save(path, module), values, None)


def test_weights_for_other_classes_leave_the_last_layer(tmp_path):
    target = Named(4, CLASSES)
    before = target.layers[3].weight.detach().clone().numpy()
    values, (note,) = filled(target, save(tmp_path / "w.safetensors", Named(4, 1000)))
    assert "left out, for other classes: layers.3.weight, layers.3.bias" in note
    assert np.array_equal(values["layers.3.weight"], before)


class Normalised(nn.Module):
    """Buffers behind the parameters, and the classifier registered first, in some form."""

    def __init__(self, n, form=nn.Linear):
        super().__init__()
        self.head = form(6, n)
        self.conv, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.register_buffer("shift", torch.ones(1, 3, 1, 1))

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x - self.shift))).mean((2, 3)))


class Cosine(nn.Module):
    """The weights of each class are divided by their norm, the results scaled."""

    def __init__(self, features, n):
        super().__init__()
        self.prototypes, self.scale = (
            nn.Parameter(torch.rand(features, n)),
            nn.Parameter(torch.ones(n)),
        )

    def forward(self, x):
        return (x @ nn.functional.normalize(self.prototypes, dim=0)) * self.scale


class Excited(nn.Module):
    """A gate that the features go through is registered behind the head."""

    def __init__(self, features, n):
        super().__init__()
        self.out, self.gate = nn.Linear(features, n), nn.Linear(features, features)

    def forward(self, x):
        return self.out(x * torch.sigmoid(self.gate(x)))


FORMS = {
    "linear": (nn.Linear, ["head.weight", "head.bias"]),
    "weight norm": (
        lambda i, n: nn.utils.parametrizations.weight_norm(nn.Linear(i, n)),
        [
            "head.bias",
            "head.parametrizations.weight.original0",
            "head.parametrizations.weight.original1",
        ],
    ),
    "log softmax": (
        lambda i, n: nn.Sequential(nn.Linear(i, n), nn.LogSoftmax(1)),
        ["head.0.weight", "head.0.bias"],
    ),
    "convolution": (
        lambda i, n: nn.Sequential(
            nn.Unflatten(1, (i, 1, 1)), nn.Conv2d(i, n, 1), nn.BatchNorm2d(n), nn.Flatten()
        ),
        [
            *(f"head.{n}.{p}" for n in (1, 2) for p in ("weight", "bias")),
            "head.2.running_mean",
            "head.2.running_var",
        ],
    ),
    "cosine": (Cosine, ["head.prototypes", "head.scale"]),
    "gate": (Excited, ["head.out.weight", "head.out.bias"]),
}


@pytest.mark.parametrize("given", ["architecture", "supernet"])
@pytest.mark.parametrize("kind", FORMS)
def test_the_classifier_is_what_makes_the_output(kind, given, tmp_path):
    """Wherever it is registered, and with buffers behind it."""
    form, names = FORMS[kind]
    torch.manual_seed(0)
    source, target = Normalised(10, form), Normalised(CLASSES, form)
    path = save(tmp_path / "w.safetensors", source.requires_grad_(False))
    if given == "architecture":
        values, (note,) = filled(target, path)
    else:
        program, own = imported(target, SHAPE)
        whole = Structure("import", {}, SHAPE, CLASSES, program=program)
        check_weights(path, whole)
        values, (note,) = fitted(whole, path, own, None)
    assert note.startswith(f"{path}: left out, for other classes: ")
    assert sorted(note.rpartition(": ")[2].split(", ")) == sorted(names)
    for name, value in (source.state_dict() | {n: target.state_dict()[n] for n in names}).items():
        assert np.array_equal(values[name], value.numpy()), name


def test_the_classifier_of_a_drawn_family_is_its_last_layer(tmp_path):
    ten, three = (Structure("resnet", {"depth": 8, "width": 0.25}, SHAPE, n) for n in (10, 3))
    tensors = {n: np.ones(shape, np.float32) for n, shape in ten.shapes().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    initial = {n: np.zeros(shape, np.float32) for n, shape in three.shapes().items()}
    values, (note,) = fitted(three, tmp_path / "w.safetensors", initial, None)
    names = note.rpartition(": ")[2].split(", ")
    assert names == list(ten.shapes())[-2:]
    assert all((values[name] == (name not in names)).all() for name in values)


class Helped(Normalised):
    """An auxiliary head in training, as GoogLeNet's."""

    def __init__(self, n):
        super().__init__(n)
        self.auxiliary = nn.Linear(3, n)

    def forward(self, x):
        y = super().forward(x)
        return (y, self.auxiliary(x.mean((2, 3)))) if self.training else y


def test_weights_of_what_is_left_out_are_ignored(tmp_path):
    path = save(tmp_path / "w.safetensors", Helped(10))
    _, (note,) = filled(Helped(CLASSES), path)
    assert note.endswith("left out, for other classes: head.weight, head.bias")


def test_statistics_cannot_be_missing(tmp_path):
    module = Normalised(CLASSES)
    path = save(
        tmp_path / "w.safetensors", module,
        **{"norm.running_mean": None, "norm.num_batches_tracked": None, "shift": None},
    )  # fmt: skip
    with pytest.raises(StError, match=r"network: it lacks 'norm\.running_mean'$"):
        filled(module, path)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"layers.0.weight": None}, "it lacks 'layers.0.weight'"),
        ({"extra": np.zeros(3, np.float32)}, "it has foreign 'extra'"),
        (
            {"layers.0.bias": np.zeros(9, np.float32)},
            r"'layers.0.bias' has shape \(9,\) instead of \(4,\)",
        ),
    ],
)
def test_weights_that_do_not_fit(changes, words, tmp_path):
    path = save(tmp_path / "w.safetensors", Named(4, CLASSES), **changes)
    with pytest.raises(StError, match=words) as caught:
        filled(Named(4, CLASSES), path)
    assert str(caught.value).startswith(f"{path}: ")
    path.write_bytes(b"pickle")
    with pytest.raises(StError, match="st convert"):
        fill(Named(4, CLASSES), path)
