"""Evaluate: each network in the precision of its training."""

import json

import numpy as np
import pytest
import torch
from helpers.images import stripes
from helpers.training import JOB, RECIPE, run

from st.core.device import Device
from st.data.dataset import load_data, save_data
from st.data.images import Images
from st.networks import network
from st.networks.checkpoint import load_model
from st.phases import deploy, evaluate
from st.report.predictions import load_predictions
from st.training.accuracy import predictions


def test_accuracy_in_the_precision_of_the_training(tmp_path):
    save_data(tmp_path / "data", stripes(), {}, {"contents": "f0"})
    precisions = ["float32", "bfloat16", "tf32"]
    for name in precisions:
        run(tmp_path / name, {**JOB, "training": {**RECIPE, "epochs": 1, "precision": name}})
    models = [tmp_path / name / "model" for name in precisions]
    job = {
        "dataset": "stripes", "architecture": "vgg", "seed": 0, "latency_batch": 2,
        "latency_rounds": 1, "rows": [{"method": name, "teacher": None} for name in precisions],
    }  # fmt: skip
    files = {
        kind: [tmp_path / name / kind for name in precisions] for kind in ("metrics", "predictions")
    }
    evaluate.run(job, tmp_path / "data", models, **files, device="cpu", threads=1)
    for name, expected in zip(precisions, ["float32", "bfloat16", "float32"], strict=True):
        metrics = json.loads((tmp_path / name / "metrics").read_text())
        assert metrics["trained"]["precision"] == metrics["evaluated"]["precision"] == expected
        where = Device("cpu", expected)
        net = network.load(load_model(tmp_path / name / "model"))
        images = Images(load_data(tmp_path / "data")[0], where)
        found, _ = load_predictions(tmp_path / name / "predictions")
        np.testing.assert_array_equal(found, predictions(where.place(net), images, where))
        labels, classes = stripes().test_labels, stripes().classes
        assert metrics["latency_by_batch"] == {"2": metrics["latency_ms"]}
        assert metrics["class_accuracy"] == pytest.approx(
            {c: 100 * (found[labels == n] == n).mean() for n, c in enumerate(classes)}
        )
        digest = load_data(tmp_path / "data")[1]
        assert metrics["data"] == {"sha256": digest, "fingerprint": "f0", "classes": classes}


def test_the_test_tells_precisions_apart(tmp_path):
    """The same weights give other logits in bfloat16."""
    save_data(tmp_path / "data", stripes(), {})
    run(tmp_path / "net", {**JOB, "training": {**RECIPE, "epochs": 1}})
    net = network.load(load_model(tmp_path / "net" / "model")).eval()
    batch = Images(stripes(), Device("cpu")).normalise(torch.from_numpy(stripes().test_images))
    with torch.inference_mode():
        whole = net(batch)
        with Device("cpu", "bfloat16").autocast():
            assert not torch.equal(net(batch).float(), whole)


@pytest.mark.slow
def test_files_for_other_programs_are_measured_beside_the_networks(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    save_data(tmp_path / "data", stripes(), {})
    run(tmp_path / "net", {**JOB, "training": {**RECIPE, "epochs": 4}})
    model, rows, exports = tmp_path / "net" / "model", [{"method": "net", "teacher": "x"}], []
    for to, raw in (("onnx", True), ("int8", False), ("module", True)):
        suffix = ".py" if to == "module" else ".onnx"
        folder = tmp_path / f"net-{to}"
        files = folder / f"network{suffix}", folder / f"network{suffix}.json", folder / "CARD.md"
        deploy.run({"to": to, "raw": raw}, tmp_path / "data", model, *files)
        assert all(file.is_file() for file in files)
        exports.append(files[0])
        rows.append({"method": f"net-{to}", "teacher": "x", "of": "net", "to": to, "raw": raw})
    job = {
        "dataset": "stripes", "architecture": "vgg", "seed": 0, "latency_batch": 2,
        "latency_rounds": 2, "rows": rows,
    }  # fmt: skip
    names = [row["method"] for row in rows]
    files = {
        kind: [tmp_path / name / kind for name in names] for kind in ("metrics", "predictions")
    }
    evaluate.run(job, tmp_path / "data", [model], **files, device="cpu", threads=1, exports=exports)
    found = [json.loads(path.read_text()) for path in files["metrics"]]
    answers = [load_predictions(path)[0] for path in files["predictions"]]
    assert [row["method"] for row in found] == names
    sizes = [path.stat().st_size for path in (model, *exports)]
    sizes[-1] += (tmp_path / "net-module/network.safetensors").stat().st_size
    assert [row["bytes"] for row in found] == sizes
    np.testing.assert_array_equal(answers[0], answers[1])
    assert found[0]["accuracy"] == found[1]["accuracy"] > 40
    for row, answer in zip(found, answers, strict=True):
        assert row["accuracy"] == pytest.approx(100 * (answer == stripes().test_labels).mean())
        assert row["latency_ms"] > 0 and row["teacher"] == "x"
        assert (row["params"], row["macs"]) == (found[0]["params"], found[0]["macs"])
    report = json.loads((tmp_path / "net-int8/network.onnx.json").read_text())
    assert found[2]["accuracy"] == pytest.approx(report["check"]["accuracy"])
    assert [row["device"] for row in found] == ["CPU"] + 2 * ["CPU (onnxruntime)"] + ["CPU (torch)"]
    precisions = [row["evaluated"]["precision"] for row in found]
    assert precisions == ["float32", "float32", "int8", "float32"]
