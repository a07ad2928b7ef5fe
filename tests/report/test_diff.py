"""`st diff`: two models or structures side by side."""

import json

import numpy as np
import pytest
from helpers.networks import SMALL, pruned, random_keep, random_tensors, small_structure

from st import cli
from st.networks.checkpoint import save_model
from st.networks.structure import Structure, save_structure
from st.report.diff import compare, text


@pytest.mark.parametrize("name", SMALL)
def test_channels_sizes_and_what_both_keep(name, tmp_path):
    full = small_structure(name)
    parts = [pruned(full, random_keep(full, np.random.default_rng(seed))) for seed in (1, 2)]
    save_structure(tmp_path / "a.json", parts[0])
    save_model(tmp_path / "b", parts[1], random_tensors(parts[1], np.random.default_rng(0)))
    found = compare(tmp_path / "a.json", tmp_path / "b")
    costs = [part.cost() for part in parts]
    assert found["totals"] == {"params": [c[0] for c in costs], "macs": [c[1] for c in costs]}
    for number in (0, 1):
        assert sum(layer["macs"][number] for layer in found["layers"]) == costs[number][1]
    groups = full.graph.groups
    layers = {layer["layer"]: layer for layer in found["layers"]}
    assert groups.keys() <= layers.keys()
    for group in groups:
        kept = [set(part.kept(group).tolist()) for part in parts]
        assert layers[group]["channels"] == [len(kept[0]), len(kept[1])]
        assert layers[group]["common"] == len(kept[0] & kept[1])
    assert not found["same_structure"] and "weights" not in found
    shown = text(found)
    assert all(f"{c[0]:,}" in shown for c in costs)


def test_the_same_structure_with_other_channels_is_another(tmp_path):
    """As many channels, but not the same ones."""
    full = small_structure("vgg")
    for name, kept in (("a", [0, 1]), ("b", [1, 2])):
        save_structure(tmp_path / f"{name}.json", pruned(full, {"conv1": np.array(kept)}))
    found = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert not found["same_structure"]
    shown = text(found).splitlines()
    (line,) = [line.split() for line in shown if line.split()[:1] == ["conv1"]]
    assert line[:4] == ["conv1", "2", "2", "1"] and "1 of 5 layers differ" in text(found)


def test_weights_and_settings(tmp_path, capsys):
    full = small_structure("vgg")
    tensors = random_tensors(full, np.random.default_rng(0))
    save_model(tmp_path / "a", full, tensors, epochs=2, job={"seed": 0, "lr": 0.1})
    changed = {**tensors, "conv2.weight": tensors["conv2.weight"] + np.float32(0.25)}
    save_model(tmp_path / "b", full, changed, epochs=2, job={"seed": 1, "lr": 0.1, "x": {"y": 3}})
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found["same_structure"] and found["weights"] == {
        "conv2.weight": pytest.approx(0.25, abs=1e-6)
    }
    assert found["settings"] == {"job.seed": [0, 1], "job.x.y": [None, 3]}
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out
    assert "the same structure" in shown and "1 tensors differ, by at most 0.25" in shown
    assert "job.seed  0 | 1" in shown and "job.x.y   - | 3" in shown
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert "the same weights" in text(compare(tmp_path / "a", tmp_path / "a"))


def test_networks_of_two_kinds(tmp_path):
    one = Structure("vgg", {"layers": [6, "M", 8]}, (1, 8, 8), 3)
    other = small_structure("resnet")
    for name, structure in (("a", one), ("b", other)):
        save_structure(tmp_path / f"{name}.json", structure)
    found = compare(tmp_path / "a.json", tmp_path / "b.json")
    layers = {layer["layer"]: layer for layer in found["layers"]}
    assert layers["conv2"]["channels"] == [8, None] and "common" not in layers["conv1"]
    assert found["settings"]["architecture"] == ["vgg", "resnet"]
    assert " - " in text(found)


@pytest.mark.parametrize(
    "name, content",
    [
        ("none", None),
        ("a.json", b"{}"),
        ("a.json", b"[1]"),
        ("a.json", b"{"),
        ("metrics.json", b'{"accuracy": 1}'),
        ("a.safetensors", b"junk"),
        ("history.csv", b"epoch,loss\n1,2\n"),
    ],
)
def test_other_files_are_refused_in_one_line(name, content, tmp_path, capsys):
    save_structure(tmp_path / "good.json", small_structure("vgg"))
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for pair in ((path, tmp_path / "good.json"), (tmp_path / "good.json", path)):
        assert cli.main(["diff", *map(str, pair)]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"st: error: {path}: ") and told.count("\n") == 1
