"""`st export --to module`: source code that computes what the network does, and can be owned."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import SMALL, pruned, random_keep, random_tensors, small_structure
from torch import nn
from torch.nn import functional as F

import st
from st.core.registry import architectures, targets
from st.deploy.source.text import wrapped
from st.networks.checkpoint import Checkpoint, save_model
from st.networks.graph import Graph
from st.networks.imported.export import imported
from st.networks.inits import sliced
from st.networks.structure import Structure

pytestmark = pytest.mark.slow

WIDTH = 88
SHAPE = (3, 12, 10)


def saved(folder: Path, structure: Structure, tensors: dict) -> st.Model:
    normal = {"mean": [0.4] * 3, "std": [0.25] * 3}
    classes = [f"c{n}" for n in range(structure.classes)]
    save_model(folder / "m.safetensors", structure, tensors, classes=classes, normalisation=normal)
    return st.load(folder / "m.safetensors")


def alone(path: Path, batch: torch.Tensor) -> tuple[np.ndarray, dict]:
    """What the exported file computes in a process that can't import this package, and how often
    each class is used."""
    np.save(path.with_suffix(".npy"), batch.numpy())
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('st', 'torchvision'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import collections, json, numpy as np, torch\n"
        f"from {path.stem} import load\n"
        f"net = load('{path.stem}.safetensors')\n"
        f"assert not net.training\n"
        f"logits = net(torch.from_numpy(np.load('{path.stem}.npy')))\n"
        f"np.save('{path.stem}.out.npy', logits.detach().numpy())\n"
        "print(json.dumps(collections.Counter(type(m).__name__ for m in net.modules())))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path.parent, capture_output=True, text=True, timeout=300,
        env={"PYTHONPATH": str(path.parent), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.load(path.with_suffix(".out.npy")), json.loads(done.stdout)


def written(model: st.Model, path: Path, raw: bool = False) -> str:
    """Its source, which must be what a person could have written."""
    report = st.export(model, path, "module", raw=raw)
    assert report["check"]["largest_difference"] < 1e-4
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert modules <= {"pathlib", "safetensors.torch", "torch", "torch.nn"}
    assert max(map(len, text.splitlines())) <= WIDTH
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node), node.name
    return text


def same(model: st.Model, path: Path, raw: bool = False) -> None:
    run = targets.get("module").run(path)
    pixels = torch.randint(0, 256, (5, *model.input_shape), dtype=torch.uint8)
    batch = model.normalise(pixels)
    with torch.no_grad():
        expected = model(batch).numpy()
    given = pixels if raw else batch
    np.testing.assert_allclose(run(given.numpy()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_drawn_networks(name, raw, tmp_path):
    for keep in (False, True):
        folder = tmp_path / str(keep)
        folder.mkdir()
        structure = small_structure(name, SHAPE)
        if keep:
            structure = pruned(structure, random_keep(structure, np.random.default_rng(3)))
        tensors = random_tensors(structure, np.random.default_rng(0))
        model = saved(folder, structure, tensors)
        text = written(model, folder / "net.py", raw)
        same(model, folder / "net.py", raw)
        # each layer has the channels of this network
        for tensor, shape in structure.shapes().items():
            if tensor.endswith("conv1.weight") or tensor == "classifier.weight":
                assert str(shape[1]) in text, tensor


def test_alone(tmp_path):
    """Without this package; blocks that are alike are of one class."""
    structure = Structure("resnet", {"depth": 20, "width": 0.5}, SHAPE, 5)
    model = saved(tmp_path, structure, random_tensors(structure, np.random.default_rng(0)))
    written(model, tmp_path / "net.py", raw=True)
    pixels = torch.randint(0, 256, (3, *SHAPE), dtype=torch.uint8)
    logits, used = alone(tmp_path / "net.py", pixels)
    with torch.no_grad():
        np.testing.assert_allclose(
            logits, model(model.normalise(pixels)).numpy(), rtol=1e-4, atol=1e-4
        )
    blocks = {name: n for name, n in used.items() if name.startswith("Block")}
    assert sum(blocks.values()) == 9 and len(blocks) == 2


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(channels, channels)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x):
        return x + self.gamma * F.silu(self.norm(self.conv(x)))


class Own(nn.Module):
    """What people write: lists, shared layers, buffers, splits, writing in place, odd names."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.twice = nn.Conv2d(8, 8, 1)
        self.add_module("if", nn.Conv2d(4, 6, 1, groups=2))
        self.head = nn.Linear(6, 5)
        self.register_buffer("shift", torch.tensor(0.25))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x) + self.shift
        x = torch.tanh(self.twice(self.twice(x)))
        x[:, :2] *= 2
        a, b = x.chunk(2, 1)
        x = getattr(self, "if")(a * torch.sigmoid(b))
        x = F.dropout(x, 0.3, self.training)
        return self.head(x.flatten(2).amax(2))


class Loose(nn.Module):
    """Parameters in a list, positions taken of what layers make, writes through what views show."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.scales = nn.ParameterList([torch.full((8, 1, 1), 0.5), torch.full((8, 1, 1), 2.0)])

    def forward(self, x):
        x = F.channel_shuffle(self.norm(self.conv(x)), 2).flip(1)
        x = x * self.scales[0] + self.scales[1]
        x.flatten(2).mul_(2.0)
        x.unsqueeze(1).add_(1.0)
        return self.head(torch.tanh(x).mean((2, 3)))


STATEMENTS = [
    "x, y = (x * F.adaptive_avg_pool2d(y, [1, 1])).repeat([1, 2, 1, 1]).split([10, 6], 1)",
    "self.parts = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), Act())",
    "x = (x + (y * torch.sigmoid(self.first(x.mean((2, 3), keepdim=True))))) / (x - 1.5)",
    "return torch.cat([torch.cat([first_value, second_value, third_value], 1)], 1), (x.amax(2),)",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_long_statements_stay_what_they_are(statement):
    for depth in (2, 3):
        lines = wrapped(statement, depth)
        assert len(lines) > 1 and max(map(len, lines)) <= WIDTH
        code = "\n".join(["if x:", *lines]).replace("return ", "x = ")
        same = f"if x:\n    {statement}".replace("return ", "x = ")
        assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(same))


def imports() -> dict[str, nn.Module]:
    return {
        "own": Own(),
        "loose": Loose(),
        "chain": nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.Softplus(), nn.AvgPool2d(2), nn.Sequential(nn.Conv2d(6, 5, 1)),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(5, 5),
        ),
    }  # fmt: skip


def check_import(module: nn.Module, folder: Path, shape=SHAPE) -> str:
    """Whole, and half of it."""
    program, tensors = imported(module.eval(), shape)
    full = Structure("import", {"module": f"x:{type(module).__name__}"}, shape, program.classes,
                     program=program)  # fmt: skip
    rng, text = np.random.default_rng(1), ""
    half = {
        name: np.sort(rng.permutation(group.size)[: max(1, group.size // 2)])
        for name, group in program.groups.items()
    }
    for name, keep in (("whole", {}), ("half", half)):
        part = full.with_keep(keep)
        folder = folder.parent / f"{folder.name}-{name}"
        folder.mkdir()
        model = saved(folder, part, sliced(part, Checkpoint("full", tensors, full, {})))
        text = written(model, folder / "net.py")
        same(model, folder / "net.py")
    return text


@pytest.mark.parametrize("name", imports())
def test_imported_networks(name, tmp_path):
    torch.manual_seed(0)
    text = check_import(imports()[name], tmp_path)
    if name == "own":
        assert "nn.ModuleList" in text and "class Block(" in text and "nn.GroupNorm" in text
        assert "F.dropout(" in text and "self.if_" in text
    elif name == "loose":
        assert "self.scales.weight0" in text and "aten.mul_.Tensor(" in text
    else:
        assert "self.layer7 = nn.Linear" in text and "nn.Sequential" in text


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5", "convnext_tiny", "vit"])
def test_torchvisions_networks(name, tmp_path):
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    if name == "vit":
        module = models.VisionTransformer(32, 8, 3, 4, 32, 64, num_classes=5)
    else:
        module = getattr(models, name)(num_classes=5)
    text = check_import(module, tmp_path, (3, 32, 32))
    assert "torch.ops" not in text


def test_it_can_be_trained_on(tmp_path):
    """Its parameters are those of the network, and all get gradients."""
    structure = small_structure("densenet", SHAPE)
    model = saved(tmp_path, structure, random_tensors(structure, np.random.default_rng(0)))
    written(model, tmp_path / "net.py")
    import runpy

    net = runpy.run_path(str(tmp_path / "net.py"))["load"](tmp_path / "net.safetensors").train()
    assert {n for n, _ in net.named_parameters()} == {
        n for n, _ in model.network.named_parameters()
    }
    net(torch.randn(4, *SHAPE)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_names_that_no_module_can_have(tmp_path):
    structure = small_structure("vgg", SHAPE)
    model = saved(tmp_path, structure, random_tensors(structure, np.random.default_rng(0)))
    for name, words in [
        ("resnet-20", "is no name of a module"),
        ("net.v2", "is no name of a module"),
        ("class", "is no name of a module"),
        ("torch", "would hide the module 'torch'"),
        ("json", "would hide the module 'json'"),
    ]:
        with pytest.raises(st.StError, match=rf"^{name}\.py: {words}"):
            st.export(model, tmp_path / f"{name}.py", "module")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    st.export(model, tmp_path / "resnet_20.py", "module")
    for path in tmp_path.iterdir():  # others may read all of them
        assert path.stat().st_mode == (tmp_path / "m.safetensors").stat().st_mode


def test_names_that_code_cannot_have(tmp_path, monkeypatch):
    """A plugin's layers may be called anything."""

    def odd(graph: Graph, *, width: int = 4) -> None:
        x = graph.relu(graph.bn("class.b-n", graph.conv("class.0", graph.input, width)))
        x = graph.relu(graph.conv("F", x, width, prunable=True))
        graph.head(graph.conv("3rd conv", x, width))

    monkeypatch.setitem(architectures._entries, "odd", odd)
    structure = Structure("odd", {}, SHAPE, 5)
    model = saved(tmp_path, structure, random_tensors(structure, np.random.default_rng(0)))
    written(model, tmp_path / "net.py")
    same(model, tmp_path / "net.py")
