"""`st profile`: where the time of networks goes, and what reports say of it."""

import json
import time

import numpy as np
import pytest
import torch
from helpers.networks import pruned, random_keep, random_tensors, small_structure
from helpers.synthetic import make_job, place, write_results

from st import cli
from st.config.layout import METRICS
from st.core.device import choose
from st.networks import network
from st.networks import profile as module
from st.networks.checkpoint import save_model
from st.networks.kinds import OTHER
from st.networks.profile import by_kind, profile
from st.report.speed import not_faster

NORMAL = {"mean": [0.4], "std": [0.25]}


@pytest.mark.parametrize("name", ["vgg", "resnet", "preresnet", "densenet"])
def test_all_operators_and_macs_are_found(name):
    """Each layer's once, with the MACs of the drawing; selections and sums beside them."""
    structure = small_structure(name, (1, 12, 12))
    structure = pruned(structure, random_keep(structure, np.random.default_rng(3)))
    net = network.build(structure, random_tensors(structure, np.random.default_rng(0))).eval()
    found = profile(net, torch.randn(2, 1, 12, 12), 2, choose("cpu", 0))
    assert sum(operator.macs for operator in found) == structure.cost()[1]
    layers = {operator.layer for operator in found if not operator.layer.startswith("(")}
    assert layers == net.st_layers.keys()
    kinds = by_kind(found)
    selections = [n for n, m in net.st_layers.items() if type(m).__name__ == "Selection"]
    assert kinds.get("selection of channels", {"operators": 0})["operators"] == len(selections)
    assert kinds.get(OTHER, {"operators": 0})["operators"] == 3 * len(selections) + 2 * (
        name == "resnet"
    )
    assert ("concatenation" in kinds) == (name == "densenet")
    assert kinds["normalisation"]["operators"] == sum(
        isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in net.modules()
    )
    assert all(operator.seconds > 0 for operator in found)


def test_time_lies_where_it_is_spent(monkeypatch):
    """An operator that sleeps is what takes the time."""
    structure = small_structure("vgg", (1, 12, 12))
    net = network.build(structure, random_tensors(structure, np.random.default_rng(0))).eval()
    calls = []
    real = torch.ops.aten.max_pool2d.default

    class Slow:
        def __call__(self, *arguments, **options):
            calls.append(1)
            time.sleep(0.005)
            return real(*arguments, **options)

        def __str__(self):
            return str(real)

    recorded = module._recorded

    def replaced(*arguments):
        return [(n, Slow() if "max_pool" in str(f) else f, a) for n, f, a in recorded(*arguments)]

    monkeypatch.setattr(module, "_recorded", replaced)
    found = by_kind(profile(net, torch.randn(1, 1, 12, 12), 3, choose("cpu", 0)))
    pools = calls and found["pooling"]["operators"] - 1
    assert pools and next(iter(found)) == "pooling" and found["pooling"]["ms"] >= 5 * pools


def saved(folder, name):
    full = small_structure("densenet", (1, 12, 12))
    keep = random_keep(full, np.random.default_rng(3)) if name == "part" else {}
    part = pruned(full, keep)
    tensors = random_tensors(part, np.random.default_rng(0))
    save_model(folder / name, part, tensors, normalisation=NORMAL)
    return str(folder / name), part.cost()[1]


def test_the_command(tmp_path, capsys):
    (whole, macs), (part, fewer) = saved(tmp_path, "whole"), saved(tmp_path, "part")
    assert cli.main(["profile", whole, part, "--rounds", "2", "--batch", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["macs"] for entry in found] == [macs, fewer]
    for entry in found:
        assert sum(layer["macs"] for layer in entry["layers"]) == entry["macs"]
        assert sum(layer["ms"] for layer in entry["layers"]) == pytest.approx(entry["operators_ms"])
    assert cli.main(["profile", whole, part, "--rounds", "2"]) == 0
    told = capsys.readouterr().out
    assert "stage1.layer1.conv1" in told and "(cat)" in told
    assert f"the second network has {100 * fewer / macs:.0f} % of the first's MACs" in told
    assert cli.main(["profile", whole, whole, part]) == 2
    assert "takes one model or two" in capsys.readouterr().err
    (tmp_path / "junk").write_bytes(b"junk")
    for name in ("junk", "none"):
        assert cli.main(["profile", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


PARTS = {
    "supernet": {"convolution": (15, 0.2), "normalisation": (15, 0.1)},
    "st": {
        "convolution": (15, 0.18), "normalisation": (15, 0.1), "selection of channels": (14, 0.22),
    },
}  # fmt: skip


def measured(folder, job, latency):
    """Results whose networks take these ms, with PARTS as their operators."""
    write_results(folder, job)
    for entry in job["rows"]["net"]:
        for seed in job["seeds"]:
            path = place(METRICS, folder, seed=seed,
                         method=entry["method"])  # fmt: skip
            kinds = PARTS["st" if "search" in entry else "supernet"]
            parts = {kind: {"operators": n, "ms": ms} for kind, (n, ms) in kinds.items()}
            changed = {"latency_ms": latency[entry["method"]], "operators": parts}
            path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_reports_say_where_fewer_macs_are_not_faster(tmp_path):
    job = make_job()
    taken = {"supernet": 0.4, "supernet-sparse": 0.4, "st": 0.44, "scratch-b": 0.48,
             "kd-uniform": 0.2}  # fmt: skip
    measured(tmp_path, job, taken)
    (line,) = not_faster(job, tmp_path)
    assert line.startswith("st, scratch-b of net on toy: not faster with fewer MACs. ")
    assert "25 % of the supernet's MACs take 110 to 120 % of its time" in line
    assert "What multiplies takes 90 % of what it takes in the supernet" in line
    assert "64 % of the network's time are other operators (selection of channels 44 %," in line
    assert "It has 44 operators, the supernet 30: more for selection of channels." in line
    assert "Its operators take 11.4 µs each on average" in line
    measured(tmp_path, job, {**taken, "st": 0.2, "scratch-b": 0.2})
    assert not list(not_faster(job, tmp_path))


def test_networks_are_compared_on_the_machine_of_their_seed(tmp_path):
    job = make_job()
    taken = {"supernet": (1, 2, 30), "supernet-sparse": (1, 2, 30), "st": (1.2, 1, 36),
             "scratch-b": (0.5, 2.4, 15), "kd-uniform": (0.5, 1, 15)}  # fmt: skip
    measured(tmp_path, job, {name: times[0] for name, times in taken.items()})
    for name, times in taken.items():
        for seed, latency in zip(job["seeds"], times, strict=True):
            path = place(METRICS, tmp_path, seed=seed, method=name)
            changed = {"latency_ms": latency}
            path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    (line,) = not_faster(job, tmp_path)
    assert line.startswith("st of net on toy: not faster with fewer MACs. ")
    assert "take 120 % of its time" in line
