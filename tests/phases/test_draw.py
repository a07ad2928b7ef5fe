"""Networks of one's own through all phases: imported, given weights, pruned, trained, evaluated."""

import json
import os
import time

import numpy as np
import pytest
import torch
import yaml
from helpers.images import stripes
from helpers.training import interrupt_after
from safetensors.numpy import load_file, save_file

from st import cli
from st.config.changes import stated
from st.config.check import parse
from st.config.grid import Grid
from st.config.supernets import networks
from st.data.dataset import save_data
from st.networks import network
from st.networks.checkpoint import load_model
from st.networks.structure import load_structure

pytestmark = pytest.mark.slow

NET = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    '''A stem, an inverted residual with squeeze-and-excitation, dropout, stochastic depth.'''

    def __init__(self, num_classes, width=8):
        super().__init__()
        wide = 2 * width
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.Hardswish()
        )
        self.grow = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.SiLU(),
        )
        self.squeeze, self.excite = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.shrink = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(width, wide, 3, padding=1))
        self.fc = nn.Linear(wide, num_classes)

    def forward(self, x):
        x = self.stem(x)
        y = self.grow(x)
        s = F.adaptive_avg_pool2d(y, 1)
        y = self.shrink(y * torch.sigmoid(self.excite(F.relu(self.squeeze(s)))))
        if self.training:
            y = y * (torch.rand(x.shape[0], 1, 1, 1) < 0.8) / 0.8
        x = self.down(x + y).mean((2, 3))
        return self.fc(F.dropout(x, 0.1, self.training))
"""
PARAMS = {
    "seeds": [0],
    "datasets": {"striped": {"source": "digits"}},  # what is prepared is written by the tests
    "architectures": {"mine": {"family": "import", "options": {"module": "net.py:Net"}}},
    "training": {
        "epochs": 4, "batch_size": 8, "lr": 0.05, "schedule": "onecycle", "test_every": 2,
    },
    "supernets": {"plain": {"rewind_epoch": 1}},
    "searches": {
        "l1": {
            "supernet": "plain", "criterion": "l1_norm", "ranking": "normalized",
            "budget": {"params": 0.5, "macs": 0.5},
        },
        "slim": {
            "supernet": "plain", "criterion": "bn_scale", "options": {"members": "max"},
            "budget": {"macs": 0.7},
        },
    },
    "methods": {
        "st": {"search": "l1", "objective": {"ce": 0.5, "kd": 0.5, "at": 10, "cc": 1}},
        "tuned": {"search": "slim", "init": "inherit"},
        "ticket": {"search": "l1", "init": "rewind"},
        "shot": {"search": "l1", "init": "inherit", "training": {"epochs": 0}},
    },
    "evaluation": {"latency_rounds": 2},
}  # fmt: skip
RUN = "striped/mine/seed0"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the network and the params, and prepared images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    write(PARAMS)
    job = stated(Grid(parse(PARAMS)).prepare("striped"))
    save_data(tmp_path / "results/prepare/striped/data.safetensors", stripes(), job)
    return tmp_path


def write(params: dict) -> None:
    with open("params.yaml", "w") as file:
        yaml.safe_dump(params, file)


def st(phase: str, experiment: str) -> int:
    on_cpu = () if phase in ("draw", "initialize") else ("--device", "cpu", "--threads", "1")
    return cli.main([phase, experiment, *on_cpu])


def made(phase: str, name: str, file: str):
    return f"results/{phase}/{RUN}/{name}/{file}"


def test_all_phases(project):
    assert st("draw", "striped/mine") == 0
    drawing = load_model("results/prepare/striped/mine/drawing.safetensors")
    assert drawing.structure.graph.taps.keys() >= {"stage1", "stage2", "features", "logits"}
    assert st("pretrain", f"{RUN}/plain") == 0
    for search in ("l1", "slim"):
        assert st("search", f"{RUN}/{search}") == 0
    part = load_structure(made("search", "l1", "structure.json"))
    cost, full = part.cost(), part.full.cost()
    assert cost[0] <= 0.5 * full[0] and cost[1] <= 0.5 * full[1]
    slim = load_structure(made("search", "slim", "structure.json"))
    assert "squeeze" not in slim.keep or len(slim.keep["squeeze"]) == 4  # has no scale: stays
    for method in ("st", "tuned", "ticket", "shot"):
        assert st("initialize", f"{RUN}/{method}") == 0
        assert st("train", f"{RUN}/{method}") == 0
    assert st("evaluate", RUN) == 0
    rows = {
        name: json.loads((project / made("evaluate", name, "metrics.json")).read_text())
        for name in ("supernet", "st", "tuned", "ticket", "shot")
    }
    assert (rows["st"]["params"], rows["st"]["macs"]) == cost
    assert rows["supernet"]["accuracy"] > 80 and rows["shot"]["epochs"] == 0
    init = load_model(made("initialize", "shot", "init.safetensors"))
    shot = load_model(made("train", "shot", "model.safetensors"))
    assert all(np.array_equal(value, init.tensors[name]) for name, value in shot.tensors.items())
    # without the module's code
    (project / "net.py").unlink()
    net = network.load(load_model(made("train", "st", "model.safetensors"))).eval()
    assert net(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_an_interrupted_training_resumes_exactly(project, monkeypatch):
    """Dropout and stochastic depth too."""
    st("draw", "striped/mine")
    assert st("pretrain", f"{RUN}/plain") == 0
    path = project / made("pretrain", "plain", "model.safetensors")
    whole = path.read_bytes()
    path.unlink()
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert st("pretrain", f"{RUN}/plain") == 2
    assert not path.exists()
    assert st("pretrain", f"{RUN}/plain") == 0
    assert path.read_bytes() == whole


def test_a_fresh_network_starts_from_no_weights_of_the_module(project):
    st("draw", "striped/mine")
    own = load_model("results/prepare/striped/mine/drawing.safetensors").tensors
    params = {**PARAMS, "supernets": {"plain": {"rewind_epoch": 0}}}
    write(params)
    assert st("pretrain", f"{RUN}/plain") == 0
    fresh = load_model(made("pretrain", "plain", "rewind.safetensors")).tensors
    for name in ("stem.0.weight", "grow.3.weight", "down.1.weight"):
        assert abs(np.corrcoef(own[name].ravel(), fresh[name].ravel())[0, 1]) < 0.4
        assert fresh[name].std() > 0.01


def test_given_weights_are_taken_as_they_are(project):
    st("draw", "striped/mine")
    own = load_model("results/prepare/striped/mine/drawing.safetensors").tensors
    # as torch saved them, by way of st convert
    torch.save(
        {"state_dict": {f"module.{n}": torch.from_numpy(v.copy()) for n, v in own.items()}},
        "trained.pth",
    )
    assert cli.main(["convert", "trained.pth", "trained.safetensors"]) == 0
    assert load_file("trained.safetensors").keys() == own.keys()
    for weights in ("own", "{architecture}.safetensors"):
        (project / "mine.safetensors").write_bytes((project / "trained.safetensors").read_bytes())
        given = {"weights": weights, "training": {"epochs": 0}}
        methods = {"shot": PARAMS["methods"]["shot"]}  # there is nothing to rewind to
        write({**PARAMS, "supernets": {"plain": given}, "methods": methods})
        assert st("pretrain", f"{RUN}/plain") == 0
        found = load_model(made("pretrain", "plain", "model.safetensors")).tensors
        assert all(np.array_equal(value, own[name]) for name, value in found.items())
        _, row = (project / made("pretrain", "plain", "history.csv")).read_text().split()
        assert row.startswith("0,,,,") and 0 <= float(row.split(",")[-1]) <= 100


@pytest.mark.parametrize(
    "change, words",
    [
        ({"supernets": {"plain": {"weights": "no.safetensors"}}}, "'no.safetensors' is missing"),
        ({"supernets": {"plain": {"training": {"epochs": 0}}}}, "0 for mine: needs weights"),
        (
            {"methods": {"st": {"search": "l1", "training": {"epochs": 0}}}},
            "methods.st.training.epochs: 0 for mine with init 'random' leaves the network",
        ),
        (
            {"architectures": {"mine": {"family": "import", "options": {"module": "no.py:Net"}}}},
            "architectures.mine: 'no.py' is missing",
        ),
        (
            {"architectures": {"mine": {"family": "import", "options": {"module": "net"}}}},
            "must be FILE.py:NAME",
        ),
        (
            {"architectures": {"mine": {"family": "import", "options": {}}}},
            "option 'module' is missing",
        ),
    ],
)
def test_what_the_params_say_wrongly(project, change, words, capsys):
    write({**PARAMS, **change})
    assert cli.main(["params"]) == 2
    assert words in capsys.readouterr().err


def test_budgets_and_losses_are_checked_once_it_is_drawn(project, capsys):
    impossible = {**PARAMS["searches"]["l1"], "budget": {"params": 0.001}}
    objective = {"ce": 1, "fitnet": {"weight": 1, "stage": 9}}
    write(
        {
            **PARAMS,
            "searches": {**PARAMS["searches"], "l1": impossible},
            "methods": {"st": {"search": "l1", "objective": objective}},
        }
    )
    assert cli.main(["params"]) == 0
    assert st("draw", "striped/mine") == 0
    capsys.readouterr()
    assert cli.main(["params"]) == 2
    said = capsys.readouterr().err
    assert "searches.l1.budget: mine on striped: the budget (params: 0.001) cannot be met" in said
    assert "the network has no 'stage9'" in said


def test_an_edited_module_is_no_longer_what_was_drawn(project):
    """Or checks would be about the former one, and the job that draws anew could never run."""
    params = parse(PARAMS)
    assert not networks(params)[1]
    assert st("draw", "striped/mine") == 0
    assert ("striped", "mine") in networks(params)[1]
    os.utime(project / "net.py", (time.time() + 60,) * 2)
    assert not networks(params)[1]


def test_an_architecture_takes_weights_for_other_classes(project, capsys):
    st("draw", "striped/mine")
    given = load_model("results/prepare/striped/mine/drawing.safetensors").tensors
    given = {name: np.asarray(value + 1) for name, value in given.items()}
    given["fc.weight"] = np.zeros((7, 16), np.float32)
    given["fc.bias"] = np.zeros(7, np.float32)
    save_file(given, "seven.safetensors")
    options = {"module": "net.py:Net", "weights": "seven.safetensors"}
    write({**PARAMS, "architectures": {"mine": {"family": "import", "options": options}}})
    capsys.readouterr()
    assert st("draw", "striped/mine") == 0
    assert "left out, for other classes: fc.weight, fc.bias" in "".join(capsys.readouterr())
    drawing = load_model("results/prepare/striped/mine/drawing.safetensors")
    assert any("fc.weight, fc.bias" in note for note in drawing.facts["notes"])
    for name, value in drawing.tensors.items():
        assert np.array_equal(value, given[name]) == (not name.startswith("fc.")), name


def test_foreign_weights_are_named(project, capsys):
    st("draw", "striped/mine")
    save_file({"fc.weight": np.zeros((3, 16), np.float32)}, "other.safetensors")
    write({**PARAMS, "supernets": {"plain": {"weights": "other.safetensors"}}})
    capsys.readouterr()
    assert st("pretrain", f"{RUN}/plain") == 2
    assert "does not fit the network: it lacks 'stem.0.weight'" in capsys.readouterr().err


def test_convert_reads_weights_only(project, capsys):
    class Module(torch.nn.Linear):
        pass

    for name, held in (("module.pth", torch.nn.Linear(2, 2)), ("none.pth", {"epoch": 3})):
        torch.save(held, name)
        assert cli.main(["convert", name, "out.safetensors"]) == 2
        assert not (project / "out.safetensors").exists()
    said = capsys.readouterr().err
    assert "module.pth: cannot be read without running it" in said
    assert "none.pth: holds no tensors by name" in said
    assert cli.main(["convert", "missing.pth", "out.safetensors"]) == 2
