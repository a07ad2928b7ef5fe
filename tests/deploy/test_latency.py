"""`st latency`: networks and files side by side."""

import json

import numpy as np
import pytest
import torch
from helpers.networks import random_tensors, small_structure

import st
from st import cli
from st.networks.checkpoint import save_model

NORMAL = {"mean": [0.4], "std": [0.25]}


def a_model(path, shape=(1, 12, 12)):
    full = small_structure("resnet", shape)
    tensors = random_tensors(full, np.random.default_rng(0))
    save_model(path, full, tensors, normalisation=NORMAL)
    return path


def test_every_file_with_every_batch_and_number_of_threads(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    model = a_model(tmp_path / "m.safetensors")
    files = [model, tmp_path / "net.pt2"]
    st.export(model, files[1], "torch", raw=True)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401

        files.append(tmp_path / "net.onnx")
        st.export(model, files[2], "onnx")
    except ImportError:
        pass
    before = torch.get_num_threads()
    arguments = ["latency", *map(str, files), "--batch", "1", "3", "--rounds", "5"]
    assert cli.main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert torch.get_num_threads() == before
    keys = [(row["threads"], row["batch"], row["file"]) for row in rows]
    assert keys == [(t, b, str(f)) for t in (1, 2) for b in (1, 3) for f in files]
    for row in rows:
        assert 0 < row["p5_ms"] <= row["median_ms"] <= row["p95_ms"]
    assert {row["file"]: row["bytes"] for row in rows} == {
        str(file): file.stat().st_size for file in files
    }
    kinds = {row["runtime"] for row in rows}
    assert kinds == {"torch", "torch.export", *(["onnxruntime"] if len(files) == 3 else [])}
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rows) and lines[0].split()[:3] == ["batch", "threads", "median"]


def test_what_cannot_be_measured(tmp_path, capsys):
    a_model(tmp_path / "a.safetensors")
    a_model(tmp_path / "b.safetensors", (1, 16, 16))
    (tmp_path / "junk.pt2").write_bytes(b"junk")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for names, words in [
        (["none.pt2"], "none.pt2: is missing"),
        (["junk.pt2"], "junk.pt2: cannot be run"),
        (["junk.safetensors"], "junk.safetensors: is damaged"),
        (["a.safetensors", "b.safetensors"], "images of 1x12x12 and 1x16x16 cannot be compared"),
    ]:
        assert cli.main(["latency", *(str(tmp_path / name) for name in names)]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1
    pytest.importorskip("onnxruntime")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    assert cli.main(["latency", str(tmp_path / "junk.onnx")]) == 2
    told = capsys.readouterr().err
    assert "junk.onnx: " in told and told.count("\n") == 1
