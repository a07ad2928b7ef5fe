"""`st export`: files that other programs run, compared with the network, and their cards."""

import collections
import importlib.util
import inspect
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.images import stripes
from helpers.networks import (
    SMALL,
    masked,
    pruned,
    random_keep,
    random_tensors,
    small_structure,
)
from helpers.training import JOB, RECIPE, run

import st
from st import cli
from st.core.registry import inits, targets
from st.data.dataset import load_data, save_data
from st.deploy.card import wilson
from st.deploy.targets import parts
from st.deploy.targets import torch as torch_target  # noqa: F401 - registered
from st.networks.checkpoint import Checkpoint, save_model

pytestmark = pytest.mark.slow

NORMAL = {"mean": [0.4], "std": [0.25]}


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package)


@pytest.fixture
def onnx():
    needs("onnxscript", "onnxruntime")
    return pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A trained model and its data where a run puts them."""
    folder = tmp_path_factory.mktemp("project")
    place = folder / "results/train/stripes/vgg/seed0/st"
    place.mkdir(parents=True)
    save_data(folder / "results/train/stripes/vgg/seed0/data", stripes(), {"source": "stripes"})
    run(place, {**JOB, "training": {**RECIPE, "epochs": 8}})
    (place / "model").rename(place / "model.safetensors")
    data = folder / "results/prepare/stripes/data.safetensors"
    data.parent.mkdir(parents=True)
    save_data(data, stripes(), {"source": "stripes"})
    return place / "model.safetensors", data


def random_model(folder: Path, name: str, shape=(1, 12, 12)) -> Path:
    full = small_structure(name, shape)
    part = pruned(full, random_keep(full, np.random.default_rng(3)))
    path = folder / f"{name}.safetensors"
    tensors = random_tensors(part, np.random.default_rng(0))
    normal = {"mean": NORMAL["mean"] * shape[0], "std": NORMAL["std"] * shape[0]}
    save_model(path, part, tensors, classes=list("abcde"), normalisation=normal)
    return path


def operators(path: Path, onnx) -> collections.Counter:
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert {entry.domain for entry in proto.opset_import} == {""} and not proto.functions
    assert not any(node.domain for node in proto.graph.node)
    return collections.Counter(node.op_type for node in proto.graph.node)


@pytest.mark.parametrize("name", SMALL)
def test_onnx_computes_the_same_with_standard_operators(name, tmp_path, onnx):
    """For any number of images, which the export has not seen; each selection is one gather."""
    import onnxruntime

    path = random_model(tmp_path, name, (3, 12, 10))
    model = st.load(path)
    out = tmp_path / "x.onnx"
    st.export(path, out)
    selections = [
        group
        for group in model.structure.graph.groups.values()
        if group.kind == "selection" and len(model.structure.kept(group.name)) < group.size
    ]
    found = operators(out, onnx)
    assert found["Gather"] == len(selections)
    assert not {"Transpose", "GatherElements", "Shape", "Expand", "Cast"} & found.keys()
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape[1:]) == ("images", [3, 12, 10]) and given.name == "logits"
    assert type(taken.shape[0]) is str  # any
    for count in (1, 3, 7):
        batch = torch.randn(count, 3, 12, 10)
        with torch.no_grad():
            expected = model(batch).numpy()
        (logits,) = session.run(None, {"images": batch.numpy()})
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_whole_stream_is_gathered_by_nobody(tmp_path, onnx):
    full = small_structure("densenet", (1, 12, 12))
    save_model(
        tmp_path / "m", full, random_tensors(full, np.random.default_rng(0)), normalisation=NORMAL
    )
    st.export(tmp_path / "m", tmp_path / "x.onnx")
    assert "Gather" not in operators(tmp_path / "x.onnx", onnx)


def test_selected_channels_are_those_of_the_whole_network(tmp_path, onnx):
    """The exported subnet computes what the supernet does whose other channels are zero."""
    import onnxruntime

    full = small_structure("densenet", (1, 12, 12))
    part = pruned(full, random_keep(full, np.random.default_rng(3)))
    tensors = masked(part, random_tensors(full, np.random.default_rng(0)))
    kept = inits.get("inherit")(part, Checkpoint("full", tensors, full, {}), 0)
    for name, structure, weights in (("full", full, tensors), ("part", part, kept)):
        save_model(tmp_path / name, structure, weights, normalisation=NORMAL)
        (tmp_path / f"{name}.d").mkdir()
        st.export(tmp_path / name, tmp_path / f"{name}.d" / "x.onnx")
    batch = np.random.default_rng(1).standard_normal((4, 1, 12, 12)).astype(np.float32)
    logits = [
        onnxruntime.InferenceSession(tmp_path / f"{name}.d/x.onnx").run(None, {"images": batch})[0]
        for name in ("full", "part")
    ]
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("to", ["onnx", "torch", "int8", "module"])
@pytest.mark.parametrize("raw", [False, True])
def test_a_checked_file(project, to, raw, tmp_path, capsys):
    """What is printed and stored is what running the file gives."""
    kind = targets.get(to)
    needs(*kind.packages)
    model, data = project
    out = tmp_path / "new" / f"net{kind.suffix}"
    arguments = ["export", str(model), str(out), "--to", to, *(["--raw"] if raw else [])]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    report = json.loads((out.parent / f"{out.name}.json").read_text())
    files = parts(kind, out)
    assert {f.name for f in out.parent.iterdir()} == {
        *(file.name for file in files), f"{out.name}.json", "MODEL_CARD.md",
    }  # fmt: skip
    found, _ = load_data(data)
    loaded = st.load(model)
    images = torch.from_numpy(found.test_images.copy())
    batch = images if raw else loaded.normalise(images)
    logits = kind.run(out)(batch.numpy())
    with torch.no_grad():
        expected = loaded(loaded.normalise(images)).numpy()
    right = 100 * np.mean(logits.argmax(1) == found.test_labels)
    check = report["check"]
    assert check["accuracy"] == pytest.approx(right) and check["images"] == "test images"
    assert check["accuracy_torch"] == pytest.approx(
        100 * np.mean(expected.argmax(1) == found.test_labels)
    )
    assert check["largest_difference"] == pytest.approx(np.abs(logits - expected).max(), abs=1e-6)
    assert f"accuracy {check['accuracy']:.2f} %" in printed and "in torch" in printed
    assert (
        report["bytes"] == sum(file.stat().st_size for file in files)
        and f"{report['bytes']:,} bytes" in printed
    )
    assert report["input"] == {
        "name": "pixels" if raw else "images", "shape": ["batch", 1, 8, 8],
        "type": "uint8" if raw else "float32",
    }  # fmt: skip
    if to == "int8":
        assert 0 < check["largest_difference"] < 0.2 * check["largest_logit"]
        assert abs(check["accuracy"] - check["accuracy_torch"]) < 10
        assert report["calibrated_on"] == 40
    else:
        assert check["largest_difference"] < 1e-4


def test_int8_holds_integers_and_standard_operators(tmp_path, onnx):
    """A larger network's file is about a quarter of the size."""
    full = small_structure("vgg", (1, 8, 8), 3)
    wide = type(full)("vgg", {"layers": [64, "M", 128]}, (1, 8, 8), 3)
    tensors = random_tensors(wide, np.random.default_rng(0))
    classes = stripes().classes
    save_model(tmp_path / "m", wide, tensors, classes=classes, normalisation=NORMAL)
    save_data(tmp_path / "data", stripes(), {})
    sizes = {}
    for to in ("onnx", "int8"):
        out = tmp_path / f"{to}.onnx"
        sizes[to] = st.export(tmp_path / "m", out, to, data=tmp_path / "data")["bytes"]
    found = operators(tmp_path / "int8.onnx", onnx)
    assert found["QuantizeLinear"] and found["DequantizeLinear"]
    weights = [t for t in onnx.load(tmp_path / "int8.onnx").graph.initializer if len(t.dims) == 4]
    assert {t.data_type for t in weights} == {onnx.TensorProto.INT8} and len(weights) == 2
    assert 0.2 < sizes["int8"] / sizes["onnx"] < 0.4


def test_the_same_again_gives_the_same_onnx(project, tmp_path, onnx):
    for to in ("onnx", "int8"):
        for name in ("a", "b"):
            st.export(project[0], tmp_path / name / f"{to}.onnx", to)
        assert (tmp_path / f"a/{to}.onnx").read_bytes() == (tmp_path / f"b/{to}.onnx").read_bytes()


def test_files_say_what_they_are(project, tmp_path, onnx):
    model = st.load(project[0])
    for to in ("onnx", "int8"):
        st.export(model, tmp_path / f"{to}.onnx", to, raw=True)
        proto = onnx.load(tmp_path / f"{to}.onnx")
        told = {entry.key: entry.value for entry in proto.metadata_props}
        assert told["format"] == f"search-and-train export, st {st.__version__}"
        assert json.loads(told["classes"]) == model.classes
        assert json.loads(told["provenance"]) == model.provenance
        assert json.loads(told["structure"]) == model.structure.to_json()
        taken = json.loads(told["input"])
        assert taken["name"] == "pixels" and taken["mean"] == model.normalise.given["mean"]
        # nothing of the machine that wrote it
        assert str(Path(st.__file__).parent).encode() not in proto.SerializeToString()
    st.export(model, tmp_path / "x.pt2", "torch")
    extra = {"metadata.json": ""}
    torch.export.load(tmp_path / "x.pt2", extra_files=extra)
    assert json.loads(json.loads(extra["metadata.json"])["classes"]) == model.classes


def isolated(code: str, folder: Path, refused=("st",)) -> subprocess.CompletedProcess:
    """Run without this package: python refuses to import it."""
    guard = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in REFUSED: raise ImportError('refused: ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", guard.replace("REFUSED", repr(refused)) + code],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_pt2_runs_without_this_package(project, tmp_path):
    model = st.load(project[0])
    st.export(model, tmp_path / "net.pt2", "torch")
    batch = torch.randn(5, 1, 8, 8)
    np.save(tmp_path / "batch.npy", batch.numpy())
    code = (
        "import numpy as np, torch\n"
        "net = torch.export.load('net.pt2').module()\n"
        "logits = net(torch.from_numpy(np.load('batch.npy')))\n"
        "np.save('logits.npy', logits.detach().numpy())\n"
        "assert 'st' not in sys.modules\n"
    )
    done = isolated(code, tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        np.testing.assert_allclose(
            np.load(tmp_path / "logits.npy"), model(batch), rtol=1e-5, atol=1e-5
        )


def test_without_data_random_images_check_it(tmp_path):
    path = random_model(tmp_path, "resnet")
    report = st.export(path, tmp_path / "x.pt2", "torch")
    assert report["check"]["images"] == "random images" and "accuracy" not in report["check"]
    assert report["data"] is None and report["check"]["largest_difference"] < 1e-4
    text = (tmp_path / "MODEL_CARD.md").read_text()
    assert "Not measured" in text and "model-index" not in text


@pytest.mark.parametrize("to", ["onnx", "torch", "module"])
def test_a_file_that_computes_something_else_is_not_written(project, to, tmp_path, monkeypatch):
    kind = targets.get(to)
    needs(*kind.packages)
    run_it = kind.run
    monkeypatch.setattr(kind, "run", lambda path: lambda batch: run_it(path)(batch) + 0.1)
    with pytest.raises(st.StError, match=r"differ from the network's by 0\.1"):
        st.export(project[0], tmp_path / "new" / f"x{kind.suffix}", to)
    assert not list((tmp_path / "new").iterdir())


def test_the_card(project, tmp_path):
    model, data = project
    st.export(model, tmp_path / "a.pt2", "torch")
    st.export(model, tmp_path / "b.pt2", "torch", raw=True)
    text = (tmp_path / "MODEL_CARD.md").read_text()
    _, front, body = text.split("---\n", 2)
    head = yaml.safe_load(front)
    loaded, (found, digest) = st.load(model), load_data(data)
    assert head["license"] == "unknown" and head["pipeline_tag"] == "image-classification"
    assert head["weights"] == loaded.provenance["weights"]
    (entry,) = head["model-index"]
    values = [result["metrics"][0]["value"] for result in entry["results"]]
    report = json.loads((tmp_path / "a.pt2.json").read_text())["check"]
    assert values == [pytest.approx(report["accuracy"] / 100, abs=1e-6)] * 2
    assert {result["dataset"]["name"] for result in entry["results"]} == {"stripes"}
    low, high = wilson(report["correct"], 40)
    assert f"{low:.2f} to {high:.2f}" in body and digest in body
    params, macs = loaded.structure.cost()
    # no depth beside the layers that replace it
    layers = loaded.structure.options["layers"]
    assert f"An image classifier: vgg (layers {layers}), for" in body
    for words in (
        "## Licence", "To be filled in", "## Limits", "## How to load it", f"{params:,}",
        f"{macs:,}", "batches of 8 images", "seed: 0", "lr: 0.05", *found.classes, "a.pt2", "b.pt2",
    ):  # fmt: skip
        assert words in body, words
    for name, share in report["class_accuracy"].items():
        assert (
            f"| {name} | {(found.test_labels == found.classes.index(name)).sum()} | {share:.1f}"
            in body
        )


def test_the_code_of_the_card_runs(project, tmp_path):
    """As it stands there, but for the package."""
    model = st.load(project[0])
    kinds = {"torch": 'n"et.pt2', "module": "own.py"}
    if all(
        __import__("importlib.util").util.find_spec(name) for name in targets.get("onnx").packages
    ):
        kinds |= {"onnx": "net.onnx", "int8": "net.int8.onnx"}
    for to, name in kinds.items():
        st.export(model, tmp_path / name, to)
    batch = model.normalise(torch.from_numpy(stripes().test_images[:6]))
    np.save(tmp_path / "batch.npy", batch.numpy())
    text = (tmp_path / "MODEL_CARD.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == len(kinds)
    with torch.no_grad():
        expected = [model.classes[n] for n in model(batch).argmax(1)]
    for block in blocks:
        wrapped = (
            "torch.from_numpy(np.load('batch.npy'))"
            if "onnx" not in block
            else "np.load('batch.npy')"
        )
        code = f"import numpy as np, torch\nbatch = {wrapped}\n{block}\nprint(classes)"
        done = isolated(code, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(expected) or "int8" in block


def test_wilsons_interval():
    """Of Wilson's formula, evaluated by hand: 9 of 10."""
    low, high = wilson(9, 10)
    assert (low, high) == (pytest.approx(59.585, abs=1e-3), pytest.approx(98.212, abs=1e-3))
    assert wilson(0, 5)[0] == pytest.approx(0) and wilson(5, 5)[1] == pytest.approx(100)


def test_cards_of_others_are_left_alone(project, tmp_path, capsys):
    st.export(project[0], tmp_path / "a.pt2", "torch")
    before = (tmp_path / "MODEL_CARD.md").read_bytes()
    other = random_model(tmp_path, "vgg")
    arguments = ["export", str(other), str(tmp_path / "b.pt2"), "--to", "torch"]
    assert cli.main(arguments) == 2
    assert "MODEL_CARD.md: is about another network" in capsys.readouterr().err
    assert (tmp_path / "MODEL_CARD.md").read_bytes() == before
    assert not (tmp_path / "b.pt2").exists()
    for own in ("# My card", "---\n- a\n---\n", "---\n: : {\n---\n", ""):
        (tmp_path / "MODEL_CARD.md").write_text(own)
        assert cli.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert (tmp_path / "MODEL_CARD.md").read_text() == own


def test_what_cannot_be_exported(project, tmp_path, capsys):
    model, data = project
    other = random_model(tmp_path, "vgg")
    raw = tmp_path / "init.safetensors"
    full = small_structure("vgg")
    save_model(raw, full, random_tensors(full, np.random.default_rng(0)))
    (tmp_path / "junk").write_bytes(b"junk")
    pth, exported = tmp_path / "net.pth", tmp_path / "net.onnx"
    pth.write_bytes(b"junk")
    exported.write_bytes(b"junk")
    out = tmp_path / "out"
    for source, name, *more, words in [
        (model, "x.onnx", "--to", "onxx", "unknown target 'onxx'; did you mean 'onnx'?"),
        (model, "x.tflite", "--to", "torch", "x.tflite: a file of the target 'torch' must end"),
        (model, "x", "--to", "torch", "must end in .pt2"),
        (tmp_path / "none", "x.pt2", "--to", "torch", "none: is missing; name a model"),
        (tmp_path / "junk", "x.pt2", "--to", "torch", "junk: is not a search-and-train model"),
        (data, "x.pt2", "--to", "torch", "is not a search-and-train model"),
        (raw, "x.pt2", "--to", "torch", "does not say how images are normalised"),
        (other, "x.pt2", "--to", "torch", "--data", data, "are not those of"),
        (
            model,
            "x.pt2",
            "--to",
            "torch",
            "--data",
            tmp_path / "none",
            "is missing; name a prepared",
        ),
        (model, "x.pt2", "--to", "torch", "--data", model, "is not a search-and-train data"),
        (model, "x.pt2", "--to", "torch", "--plugin", "nothing", "'nothing' cannot be imported"),
        (model, "x.safetensors", "--to", "module", "must end in .py"),
        (model.parent, "x.pt2", "--to", "torch", "is a folder; name the model.safetensors in it"),
        (pth, "x.onnx", "--to", "torch", "is a file of torch's; `st convert` makes"),
        (exported, "x.pt2", "--to", "torch", "is a file for other programs; name the model"),
    ]:
        arguments = ["export", str(source), str(out / name), *map(str, more)]
        assert cli.main(arguments) == 2, arguments
        told = capsys.readouterr().err
        assert told.startswith("st: error: ") and words in told and told.count("\n") == 1, told
        assert not out.exists() or not list(out.iterdir())


def test_where_nothing_can_be_written(project, tmp_path, capsys):
    model = tmp_path / "net.safetensors"
    model.write_bytes(project[0].read_bytes())
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.py").mkdir()
    for out, words in [
        (tmp_path / "file/x.py", "x.py: cannot be written"),
        (tmp_path / "folder.py", "there is a folder of this name"),
        ("", "is no name of a file; an example: out/net.py"),
        (f"{tmp_path}/..", "is no name of a file"),
        (tmp_path / "net.py", "net.safetensors: is an input itself"),  # whose weights lie beside
    ]:
        assert cli.main(["export", str(model), str(out), "--to", "module"]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"file", "folder.py", "net.safetensors"}
    assert model.read_bytes() == project[0].read_bytes()


def test_no_input_is_replaced(project, tmp_path, capsys):
    """By whatever name: neither by the file, nor by those beside it."""
    model, data = tmp_path / "x.pt2.json", tmp_path / "y.pt2"
    model.write_bytes(project[0].read_bytes())
    data.write_bytes(project[1].read_bytes())
    (tmp_path / "link.pt2").symlink_to("y.pt2")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, replaced in [("x.pt2", "x.pt2.json"), ("y.pt2", "y.pt2"), ("link.pt2", "link.pt2")]:
        arguments = ["export", str(model), str(tmp_path / name), "--data", str(data)]
        assert cli.main([*arguments, "--to", "torch"]) == 2
        assert f"{tmp_path / replaced}: is an input itself" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_export_leaves_nothing(number, status, project, tmp_path):
    """Whatever was there before is still there."""
    code = (
        "import os, sys\n"
        "from st import cli\n"
        "from st.core.registry import targets\n"
        "kind = targets.get('module')\n"
        "def run(path, threads=0):\n"
        f"    assert path.is_file()\n    os.kill(os.getpid(), {number:d})\n"
        "kind.run = run\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    (tmp_path / "net.py").write_text("before")
    arguments = ["export", str(project[0]), str(tmp_path / "net.py"), "--to", "module"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], timeout=300, check=False)
    assert done.returncode == status
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "before"


def test_what_a_killed_export_left_goes_with_the_next(project, tmp_path):
    left = tmp_path / ".net.pt2.999999999.tmp"
    left.mkdir()
    (left / "net.pt2").write_text("half")
    st.export(project[0], tmp_path / "net.pt2", "torch")
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"net.pt2", "net.pt2.json", "MODEL_CARD.md"}


def test_int8_needs_images(tmp_path, onnx):
    model = random_model(tmp_path, "vgg")
    with pytest.raises(
        st.StError, match=r"give as 'data' \(--data\) the file .*, or in Python what"
    ):
        st.export(model, tmp_path / "x.onnx", "int8")
    with pytest.raises(st.StError, match=r"data: must be the file of .*, not tuple"):
        st.export(model, tmp_path / "x.onnx", "int8", data=(1, 2))
    with pytest.raises(st.StError, match="data: its images or classes are not those of"):
        st.export(model, tmp_path / "x.onnx", "int8", data=stripes())
    assert not (tmp_path / "x.onnx").exists()


def test_data_of_python_are_as_their_file(project, tmp_path, onnx):
    model, file = project
    images = stripes()
    data = st.dataset(
        (images.train_images, images.train_labels), (images.test_images, images.test_labels),
        classes=images.classes,
    )  # fmt: skip
    reports = [
        st.export(model, tmp_path / name / "x.onnx", "int8", data=given)
        for name, given in (("python", data), ("file", file))
    ]
    assert [report["data"].pop("name") for report in reports] == ["", "stripes"]
    assert [report["data"].pop("source") for report in reports] == [None, "stripes"]
    assert reports[0] == reports[1] and reports[0]["calibrated_on"] == 40
    card = (tmp_path / "python/MODEL_CARD.md").read_text()
    assert "\nData: 40 training images, 40 images in the evaluation" in card


def test_a_missing_package_is_named(project, tmp_path, monkeypatch, capsys):

    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name in ("onnx", "onnxruntime") else there(name, *more),
    )
    for to in ("onnx", "int8"):
        arguments = ["export", str(project[0]), str(tmp_path / "new/x.onnx"), "--to", to]
        assert cli.main(arguments) == 2
        told = capsys.readouterr().err
        assert "needs onnx, onnxruntime" in told.replace("onnxscript, ", "")
        assert "search-and-train[export]" in told and told.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_the_extra_lists_what_targets_need():
    import tomllib

    from helpers.project import ROOT

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {entry.partition(">")[0] for entry in extras["optional-dependencies"]["export"]}
    assert listed == {package for name in targets.names() for package in targets.get(name).packages}
    assert not listed & {entry.partition(">")[0] for entry in extras["dependencies"]}


@pytest.mark.parametrize("name", targets.names())
def test_targets_are_complete(name):
    kind = targets.get(name)
    assert kind.__doc__ and kind.suffix.startswith(".") and callable(kind.run)
    assert list(inspect.signature(kind).parameters) == ["model", "path", "raw", "calibration"]
    assert type(kind.calibrated) is type(kind.exact) is bool


def test_a_network_that_fails_in_export_is_one_line(project, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: 1 / 0)
    with pytest.raises(st.StError, match=r"cannot be exported to torch \(ZeroDivisionError"):
        st.export(project[0], tmp_path / "x.pt2", "torch")
    assert not list(tmp_path.iterdir())


def test_the_script_of_the_page_runs_without_torch(project, tmp_path, onnx):
    """docs/deploy.md's, with images as files, as st predict classifies them."""
    from helpers.project import ROOT
    from PIL import Image

    blocks = (ROOT / "docs/deploy.md").read_text().split("```python\n")[1:]
    (script,) = [b.partition("```")[0] for b in blocks if "# classify.py" in b]
    model = st.load(project[0])
    st.export(model, tmp_path / "net.onnx", raw=True)
    names = []
    for number, pixels in enumerate(stripes().test_images[:4]):
        names.append(f"{number}.png")
        Image.fromarray(pixels[0]).resize((17, 11)).save(tmp_path / names[-1])
    code = f"sys.argv = ['classify.py', 'net.onnx', *{names}]\n{script}"
    done = isolated(code, tmp_path, ("st", "torch"))
    assert done.returncode == 0, done.stderr
    expected = [
        f"{100 * answer.probability:5.1f} %  {answer.label}  {name}"
        for name, answer in zip(names, model.predict([tmp_path / n for n in names]), strict=True)
    ]
    assert done.stdout.splitlines() == expected


def test_cards_show_names_as_they_are(project, tmp_path):
    """Which are no markup; and one epoch is one."""
    model, names = st.load(project[0]), ["<script>a|b", "[x](y) _c_", "`d`"]
    model.classes, model.provenance["epochs"] = names, 1
    data = replace(stripes(), classes=names)
    st.export(model, tmp_path / "x.pt2", "torch", data=data)
    text = (tmp_path / "MODEL_CARD.md").read_text().partition("## How to load")[0]
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert r"outputs: \<script\>a\|b, \[x\](y) \_c\_, \`d\`." in text
    assert r"| \<script\>a\|b | 14 |" in text and "Trained for 1 epoch in" in text


@pytest.mark.parametrize(
    "job, split",
    [
        ({}, "test images"),
        ({"holdout": 0.2, "options": {}}, "held-out images"),
        ({"holdout": 0.0, "options": {"val": "holdout"}}, "val images"),
        ({"options": {"val": "test"}}, "test images"),
    ],
)
def test_cards_name_the_images_that_were_evaluated(project, tmp_path, job, split):
    data = tmp_path / "stripes" / "data.safetensors"
    save_data(data, stripes(), {"source": "stripes", **job})
    report = st.export(project[0], tmp_path / "net.pt2", "torch", data=data)
    assert report["data"]["split"] == split
    assert f"split: {split}" in (tmp_path / "MODEL_CARD.md").read_text()
