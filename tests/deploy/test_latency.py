"""`st latency`: networks and files side by side."""

import json

import numpy as np
import pytest
import torch
from helpers.networks import random_tensors, small_structure

import st
from st import cli
from st.deploy.memory import peaks
from st.networks.checkpoint import save_model
from st.networks.structure import Structure

NORMAL = {"mean": [0.4], "std": [0.25]}


def a_model(path, shape=(1, 12, 12)):
    full = small_structure("resnet", shape)
    tensors = random_tensors(full, np.random.default_rng(0))
    save_model(path, full, tensors, normalisation=NORMAL)
    return path


@pytest.mark.slow
def test_every_file_with_every_batch_and_number_of_threads(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("st.deploy.latency.peaks", lambda path, *_: {1: 1000, 3: 2000})
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    model = a_model(tmp_path / "m.safetensors")
    files = [model, tmp_path / "net.pt2", tmp_path / "own.py"]
    st.export(model, files[1], "torch", raw=True)
    st.export(model, files[2], "module")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401

        files.append(tmp_path / "net.onnx")
        st.export(model, files[3], "onnx")
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
        assert row["peak_bytes"] == {1: 1000, 3: 2000}[row["batch"]]
    sizes = {str(file): file.stat().st_size for file in files}
    sizes[str(files[2])] += files[2].with_suffix(".safetensors").stat().st_size
    assert {row["file"]: row["bytes"] for row in rows} == sizes
    assert {row["precision"] for row in rows} == {"float32"}
    kinds = {row["runtime"] for row in rows}
    assert kinds == {"torch", "torch.export", *(["onnxruntime"] if len(files) == 4 else [])}
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rows) and lines[0].split()[:3] == ["batch", "threads", "median"]


@pytest.mark.slow
def test_memory_is_what_the_network_takes(tmp_path):
    """More for more images and for more channels, and not what the libraries take."""
    found = {}
    for width in (8, 512):
        structure = Structure("vgg", {"layers": [width, width]}, (1, 16, 16), 5)
        tensors = random_tensors(structure, np.random.default_rng(0))
        path = tmp_path / f"{width}.safetensors"
        save_model(path, structure, tensors, normalisation=NORMAL)
        found[width] = peaks(path, [64, 1])
    weights = 4 * 512 * 512 * 9
    maps = 4 * 64 * 512 * 16 * 16  # bytes of one, of 64 images
    assert found[8][1] < 20e6 and found[8][1] <= found[8][64]
    assert found[512][1] > weights and maps < found[512][64] < 10 * maps


def test_what_cannot_be_measured(tmp_path, capsys):
    a_model(tmp_path / "a.safetensors")
    a_model(tmp_path / "b.safetensors", (1, 16, 16))
    (tmp_path / "junk.pt2").write_bytes(b"junk")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for name in ("gone", "junk"):
        (tmp_path / f"{name}.py").write_text("load = None")
    for names, words in [
        (["none.pt2"], "none.pt2: is not a file"),
        (["junk.pt2"], "junk.pt2: cannot be run"),
        (["gone.py"], "gone.safetensors: is missing; it belongs to"),
        (["junk.py"], "junk.py: cannot be run"),
        (["junk.safetensors"], "junk.safetensors: is not a search-and-train model; name"),
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
