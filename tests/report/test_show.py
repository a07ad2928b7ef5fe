"""`st show`: every file of a run, and what is said of others."""

import json

import numpy as np
import pytest
from helpers.images import stripes
from helpers.networks import SMALL, pruned, random_keep, random_tensors, small_structure
from helpers.training import JOB, run

from st import cli
from st.data.dataset import save_data
from st.networks.checkpoint import save_model
from st.networks.structure import save_structure
from st.report.predictions import save_predictions
from st.report.show import describe, text


@pytest.mark.parametrize("name", SMALL)
def test_a_network_layer_by_layer(name, tmp_path):
    """The layers' sizes add up to the network's, apart from what normalises."""
    full = small_structure(name)
    part = pruned(full, random_keep(full, np.random.default_rng(3)))
    save_model(tmp_path / "model", part, random_tensors(part, np.random.default_rng(0)), epochs=7)
    save_structure(tmp_path / "structure.json", part, search={"criterion": "x"}, not_rounded={})
    for path in (tmp_path / "model", tmp_path / "structure.json"):
        found = describe(path)
        layers, (params, macs) = found["layers"], part.cost()
        assert (found["params"], found["macs"]) == (params, macs)
        assert sum(layer["macs"] for layer in layers) == macs
        norms = [n for n in part.graph.nodes if n.op == "bn"]
        scales = sum(2 * part.widths.get(n.group_out, n.channels) for n in norms)
        assert sum(layer["params"] for layer in layers) + scales == params
        for layer in layers:
            assert layer["channels"] == part.shapes()[f"{layer['layer']}.weight"][0]
            assert layer["of"] == full.shapes()[f"{layer['layer']}.weight"][0]
        assert json.loads(json.dumps(found)) == found
        shown = text(found)
        assert layers[0]["layer"] in shown and f"{params:,}" in shown


def test_what_a_training_leaves(tmp_path, capsys):
    save_data(tmp_path / "data", stripes(), {})
    run(tmp_path / "net", JOB)
    (tmp_path / "net/history").rename(tmp_path / "net/history.csv")
    save_predictions(tmp_path / "predictions", np.array([0, 1, 1]), np.array([0, 1, 2]))
    model = describe(tmp_path / "net/model")
    assert model["classes"] == ["class0", "class1", "class2"] and model["epochs"] == 5
    pixels, normal = stripes().train_images / 255, model["normalisation"]
    assert len(normal["mean"]) == 1 and model["seed"] == 0
    assert [*normal["mean"], *normal["std"]] == pytest.approx([pixels.mean(), pixels.std()])
    data = describe(tmp_path / "data")
    assert data["training_images"] == 40
    assert data["normalisation"]["mean"] == pytest.approx([stripes().train_images.mean() / 255])
    assert describe(tmp_path / "predictions")["accuracy"] == pytest.approx(200 / 3)
    history = describe(tmp_path / "net/history.csv")
    assert history["epochs"] == 5
    shown = text(history)
    assert "loss" in shown and f"last {history['columns']['loss'][-1]:.4g}" in shown
    assert cli.main(["show", str(tmp_path / "net/model"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == model["params"]


def test_no_training_is_no_epoch(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss,test_accuracy\n0,,61.5\n")
    assert describe(path)["epochs"] == 0


@pytest.mark.parametrize(
    "name, content, words",
    [
        (
            "metrics.json",
            "[]",
            "is neither a structure nor one network's metrics; st show adds",
        ),
        ("environment.json", '{"data": {}}', "is neither a structure nor one network's metrics"),
        ("table.csv", "dataset,seeds\ndigits,3\n", "is not a training's history; st show adds"),
        ("history.csv", "epoch,loss\n1,x\n", "is not a training's history (could not convert"),
    ],
)
def test_what_a_report_leaves_is_text_already(name, content, words, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    assert cli.main(["show", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert f"{name}: {words}" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "name, content",
    [
        ("none", None),
        ("a.json", b"{}"),
        ("a.json", b"[1]"),
        ("a.json", b"{"),
        ("a.csv", b"x,y\n1,2\n"),
        ("a.csv", b""),
        ("a.csv", b"epoch,loss\n1,2,3\n"),
        ("a.csv", b"epoch,loss\n" + b"1" * 200_000),
        ("a.csv", b"\xff\x00"),
        ("a.safetensors", b"junk"),
        ("a.pth", b"PK\x03\x04"),
    ],
)
def test_other_files_are_refused_in_one_line(name, content, tmp_path, capsys):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["show", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"st: error: {path}: ") and told.count("\n") == 1


@pytest.mark.parametrize(
    "name, program",
    [("table.md", "a text editor"), ("a.png", "a viewer"), ("comparison.html", "a browser")],
)
def test_what_a_run_writes_for_other_programs(name, program, tmp_path, capsys):
    (tmp_path / name).write_text("# A table")
    assert cli.main(["show", str(tmp_path / name)]) == 2
    assert f"{name}: is no file of `st show`; open it with {program}" in capsys.readouterr().err
