"""`st.load`: a model file as a torch module that knows how it is used; `st predict`."""

import csv
import inspect
import json
import os
import shutil
import subprocess
import sys
import typing

import numpy as np
import pytest
import torch
from helpers.images import stripes
from helpers.networks import pruned, random_keep, random_tensors, small_structure
from helpers.project import ROOT
from helpers.training import JOB, RECIPE, run
from PIL import Image

import st
from st import cli
from st.core.device import Device
from st.core.tensors import write_tensors
from st.data.dataset import load_data, save_data
from st.data.datasets.imagefolder import imagefolder
from st.data.images import Images
from st.networks.checkpoint import load_model, save_model

NORMAL = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The model of a training on stripes, and the data."""
    folder = tmp_path_factory.mktemp("trained")
    save_data(folder / "data", stripes(), {})
    run(folder / "net", {**JOB, "training": {**RECIPE, "epochs": 8}})
    return folder / "net" / "model", folder / "data"


def colour_model(folder, shape=(3, 16, 12), **facts):
    structure = small_structure("vgg", shape, 4)
    path = folder / "colour.safetensors"
    facts = {"classes": list("abcd"), "normalisation": NORMAL, **facts}
    save_model(path, structure, random_tensors(structure, np.random.default_rng(0)), **facts)
    return path


# What users may rely on; the functions are in tests/api/public.txt.
MODEL = {
    "forward": "(self, batch: torch.Tensor) -> torch.Tensor",
    "preprocess": "(self, images: Any) -> torch.Tensor",
    "predict": "(self, images: Any) -> list[st.deploy.model.Prediction]",
    "classes": "list[str]",
    "structure": "Structure",
    "provenance": "dict[str, Any]",
    "input_shape": "property",
    "normalisation": "property",
    "normalise": "property",
}


def test_types_of_the_public_api(trained):
    model = st.load(trained[0])
    assert isinstance(model, torch.nn.Module) and isinstance(model, st.Model)
    for name, told in MODEL.items():
        member = inspect.getattr_static(st.Model, name, None)
        if inspect.isfunction(member):
            assert str(inspect.signature(member)).replace("typing.", "") == told
            assert member.__doc__
            assert set(typing.get_type_hints(member)) >= {"return"}
        elif told == "property":
            assert isinstance(member, property) and member.__doc__
        else:
            assert hasattr(model, name) and f"`{name}`" in (st.Model.__doc__ or "")


def test_it_is_the_network_in_evaluation(trained):
    """The same logits as the pipeline's own network, on the pipeline's own test images."""
    path, data = trained
    model, (found, _) = st.load(path), load_data(data)
    assert model.classes == found.classes and model.input_shape == found.input_shape
    assert not model.training
    images = Images(found, Device("cpu"))
    raw = torch.from_numpy(found.test_images.copy())
    torch.testing.assert_close(model.normalise(raw), images.normalise(raw), rtol=0, atol=0)
    pictures = [Image.fromarray(image[0]) for image in found.test_images]
    batch = model.preprocess(pictures)
    assert torch.equal(batch, images.normalise(raw))
    with torch.no_grad():
        logits = model(batch)
    answers = model.predict(pictures)
    assert [a.label for a in answers] == [found.classes[i] for i in logits.argmax(1)]
    for answer, row in zip(answers, logits.softmax(1).numpy(), strict=True):
        np.testing.assert_allclose(answer.probabilities, row, rtol=1e-5)
        assert answer.probability == max(answer.probabilities)
    right = np.mean([found.classes.index(a.label) for a in answers] == found.test_labels)
    assert right > 0.5  # it has learnt something: three classes


def test_what_it_says_of_itself(trained):
    model, checkpoint = st.load(str(trained[0])), load_model(trained[0])
    assert model.structure.to_json() == checkpoint.structure.to_json()
    assert model.provenance["job"]["seed"] == JOB["seed"]
    assert model.provenance["weights"] == checkpoint.digest()
    assert model.provenance["epochs"] == 8 and "torch" in model.provenance["environment"]
    assert not {"classes", "normalisation", "resize"} & model.provenance.keys()
    json.dumps(model.provenance)
    assert f"{model.structure.cost()[0]:,} parameters" in repr(model)


@pytest.mark.parametrize("name", ["densenet", "preresnet", "resnet"])
def test_an_ordinary_module(name, tmp_path):
    """It can be trained on, copied by its state, and moved."""
    full = small_structure(name, (1, 12, 12))
    part = pruned(full, random_keep(full, np.random.default_rng(1)))
    tensors = random_tensors(part, np.random.default_rng(0))
    save_model(tmp_path / "m", part, tensors, normalisation={"mean": [0.5], "std": [0.5]})
    one, other = st.load(tmp_path / "m"), st.load(tmp_path / "m")
    assert one.classes == ["0", "1", "2", "3", "4"]
    batch = torch.randn(4, 1, 12, 12)
    with torch.no_grad():
        before = one(batch)
    one.train()
    loss = torch.nn.functional.cross_entropy(one(batch), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert all(p.grad is not None for p in one.parameters())
    one.load_state_dict(other.state_dict())
    assert one.training
    assert len(one.predict(np.zeros((12, 12), np.uint8))) == 1 and one.training
    with torch.no_grad():
        assert torch.equal(one.eval()(batch), before)
    assert one.double().preprocess(np.zeros((12, 12), np.uint8)).shape == (1, 1, 12, 12)


def test_pictures_of_every_kind_are_the_same(tmp_path):
    model = st.load(colour_model(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 23, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    expected = model.preprocess(image)
    assert expected.shape == (1, 3, 16, 12) and expected.dtype == torch.float32
    for same in (
        tmp_path / "a.png", str(tmp_path / "a.png"), pixels, pixels[None], [image], [pixels],
        torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(pixels).permute(2, 0, 1)[None],
        image.convert("RGBA"), (path for path in [tmp_path / "a.png"]),
    ):  # fmt: skip
        assert torch.equal(model.preprocess(same), expected)
    mixed = model.preprocess([image, tmp_path / "a.png", pixels])
    assert torch.equal(mixed, expected.expand(3, -1, -1, -1))
    gray = model.preprocess(pixels[:, :, 0])
    assert torch.equal(gray, model.preprocess(pixels[:, :, :1]))


def test_pictures_are_prepared_as_the_data_set_was(tmp_path):
    """Scaled, cropped and converted as prepare does it, from nothing but the model file."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(12):
                pixels = rng.integers(0, 256, (31, 45, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"images/{part}/{name}/{number:02}.png")
    data = imagefolder(root=str(tmp_path / "images"), size=16, test_resize=20, grayscale=True)
    (tmp_path / "net").mkdir()
    save_data(tmp_path / "data", data, {})
    run(tmp_path / "net", {**JOB, "training": {**RECIPE, "epochs": 1}})
    model = st.load(tmp_path / "net" / "model")
    found = model.preprocess(tmp_path / "images" / "test")
    images = Images(load_data(tmp_path / "data")[0], Device("cpu"))
    assert torch.equal(found, images.normalise(images.test_images[:]))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (
            np.full((8, 8), 2.5),
            "2.5 to 2.5; give integers of 0 to 255 or floats of 0 to 1",
        ),
        (np.zeros((8, 8, 2), np.uint8), "1 or 3 channels"),
        (np.zeros((0, 8), np.uint8), "must be"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), "must be"),
        (torch.full((3, 8, 8), -1.0), "float32 of -1 to -1"),
        (np.zeros((8, 8), bool), "numbers, not bool"),
        (torch.zeros(8, 8, 5, dtype=torch.uint8), "(channels, height, width)"),
        (Image.new("I", (8, 8)), "more than 8 bits"),
        ([None], "not NoneType"),
        (7, "not int"),
        ([], "no images"),
        ("none.png", "none.png: is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_picture(wrong, words, tmp_path):
    model = st.load(colour_model(tmp_path))
    with pytest.raises(st.StError) as caught:
        model.preprocess(wrong)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_arrays_of_three_may_be_one_picture_in_colour(tmp_path):
    """For a network of gray images."""
    structure = small_structure("vgg")
    assert structure.input_shape[0] == 1
    save_model(
        tmp_path / "m.safetensors",
        structure,
        random_tensors(structure, np.random.default_rng(0)),
        classes=list("abcde"),
        normalisation={"mean": [0.5], "std": [0.5]},
    )
    model = st.load(tmp_path / "m.safetensors")
    for count in (1, 2, 4, 5):
        assert len(model.predict(np.zeros((count, 8, 8), np.uint8))) == count
    with pytest.raises(
        st.StError, match=r"three gray images or one in colour; give \(3, 1, 8, 8\)"
    ):
        model.predict(np.zeros((3, 8, 8), np.uint8))
    assert len(model.predict(np.zeros((3, 1, 8, 8), np.uint8))) == 3
    assert len(model.predict(np.zeros((1, 3, 8, 8), np.uint8))) == 1


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"classes": ["a"]}, "'classes' must be 4 names"),
        ({"classes": "abcd"}, "'classes' must be 4 names"),
        ({"classes": [1, 2, 3, 4]}, "'classes' must be 4 names"),
        ({"normalisation": {"mean": [0.5], "std": [0.5]}}, "'normalisation' must"),
        ({"normalisation": {"mean": [0, 0, 0], "std": [1, 1, 0]}}, "'normalisation' must"),
        ({"normalisation": {"mean": [0, 0, None], "std": [1, 1, 1]}}, "'normalisation' must"),
        ({"normalisation": [1]}, "'normalisation' must"),
        ({"resize": "large"}, "'resize' must"),
        ({"resize": True}, "'resize' must"),
    ],
)
def test_facts_that_a_foreign_file_may_have(facts, words, tmp_path):
    with pytest.raises(st.StError, match=words):
        st.load(colour_model(tmp_path, **facts))


def test_first_weights_do_not_say_how_images_are_prepared(tmp_path):
    model = st.load(colour_model(tmp_path, normalisation=None))
    assert model(torch.zeros(2, 3, 16, 12)).shape == (2, 4)
    with pytest.raises(st.StError, match="does not say how images are normalised"):
        model.preprocess(np.zeros((16, 12, 3), np.uint8))


@pytest.fixture
def folder(tmp_path, trained):
    """A folder of three images and a text file, and the model that knows them."""
    data, _ = load_data(trained[1])
    (tmp_path / "images/inner").mkdir(parents=True)
    shutil.copy(trained[0], tmp_path / "model.safetensors")
    for number, name in enumerate(["a.png", "b.bmp", "inner/c d.png"]):
        Image.fromarray(data.test_images[number, 0]).save(tmp_path / "images" / name)
    (tmp_path / "images/notes.txt").write_text("none")
    return tmp_path


def predict(folder, *arguments) -> int:
    return cli.main(["predict", str(folder / "model.safetensors"), *map(str, arguments)])


def test_predicting_from_the_command_line(folder, trained, capsys):
    assert predict(folder, folder / "images", "--device", "cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    data, _ = load_data(trained[1])
    names = ["a.png", "b.bmp", "inner/c d.png"]
    assert len(lines) == 3
    model = st.load(trained[0])
    for line, name, image in zip(lines, names, data.test_images, strict=False):
        answer = model.predict(Image.fromarray(image[0]))[0]
        expected = f"{100 * answer.probability:5.1f} %  {answer.label}  {folder / 'images' / name}"
        assert line == expected
    out = folder / "new" / "out.csv"
    assert predict(folder, folder / "images/b.bmp", folder / "images", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: 3 images\n"
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [
        str(folder / "images" / name) for name in ["b.bmp", "a.png", "inner/c d.png"]
    ]
    assert {row["class"] for row in rows} <= set(data.classes)
    assert all(0.3 < float(row["probability"]) <= 1 for row in rows)


def test_what_cannot_be_predicted(folder, capsys):
    (folder / "empty").mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG junk")
    (folder / "images/notes.txt").unlink()
    save_data(folder / "data", stripes(), {})
    write_tensors(folder / "foreign", {"x": np.zeros(3, np.float32)}, {"format": "x"})
    good = str(folder / "images")
    model = str(folder / "model.safetensors")
    for arguments, words in [
        ([str(folder / "none"), good], "none: is missing; name a model.safetensors"),
        ([str(folder / "data"), good], "data: is not a search-and-train model"),
        ([str(folder / "foreign"), good], "foreign: is not a search-and-train model"),
        ([str(folder / "broken.png"), good], "broken.png: is not a search-and-train model; name"),
        ([str(folder), good], "is a folder; name the model"),
        ([model, str(folder / "empty")], "empty: has no images"),
        ([model, str(folder / "none.png")], "none.png: is missing"),
        ([model, good, str(folder / "broken.png")], "broken.png: is not a readable image"),
        ([model, good, "--device", "cudda"], "device cudda"),
        ([model, good, "--plugin", "nothing"], "'nothing' cannot be imported"),
        ([model, good, "--out", f"{folder}/images/a.png/x.csv"], "x.csv: cannot be written"),
    ]:
        assert cli.main(["predict", *arguments]) == 2, arguments
        told = capsys.readouterr().err
        assert told.startswith("st: error: ") and words in told and told.count("\n") == 1


def test_what_cannot_be_read_loses_no_other_image(folder, capsys, caplog, monkeypatch):
    """And is told: files left out of a folder, and damaged ones, which have a row all the same."""
    monkeypatch.setattr("st.deploy.model.AT_ONCE", 2)  # a batch of damaged ones alone
    images, out = folder / "images", folder / "out.csv"
    for name in ("aa.png", "ab.png", "ac.png", "z.jpg"):
        (images / name).write_bytes(b"\x89PNG junk")
    for name in ("1.HEIC", "2.heic", ".DS_Store"):
        (images / name).write_bytes(b"x")
    assert predict(folder, images, images / "../images/a.png", "--out", out) == 2
    told = capsys.readouterr()
    (error,), (left_out,) = told.err.splitlines(), caplog.messages
    assert f"{images}: 3 left out: 2 .heic, 1 .txt, the first: {images}/1.HEIC" in left_out
    assert "4 of 7 images have no class, the first: " in error and "aa.png: is not a" in error
    assert told.out == f"{out}: 7 images\n"
    with open(out, newline="") as file:
        rows = {os.path.basename(row.pop("file")): row for row in csv.DictReader(file)}
    assert list(rows) == ["a.png", "aa.png", "ab.png", "ac.png", "b.bmp", "c d.png", "z.jpg"]
    for name, row in rows.items():
        damaged = name in ("aa.png", "ab.png", "ac.png", "z.jpg")
        assert bool(row["class"]) == bool(row["probability"]) == (not damaged)
        assert bool(row["error"]) == damaged
    assert predict(folder, images) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and lines[1].startswith(f"    - %  {images}/aa.png: is not a readable")
    model = st.load(folder / "model.safetensors")
    with pytest.raises(st.StError, match=r"aa\.png: is not a readable image"):
        model.predict(images)
    (folder / "telephone").mkdir()
    (images / "1.HEIC").rename(folder / "telephone/1.HEIC")
    with pytest.raises(st.StError, match=r"has no images; .*; 1 left out: 1 \.heic"):
        model.predict(folder / "telephone")


def test_predictions_replace_no_input(folder, capsys):
    """By whatever name."""
    shutil.copy(folder / "model.safetensors", folder / "model.csv")
    (folder / "images/a.png").rename(folder / "a.csv")
    (folder / "link.csv").symlink_to("a.csv")
    for model, images, out, words in [
        ("model.csv", "images", "model.safetensors", "model.safetensors: must end in .csv"),
        ("model.csv", "images", "images/b.bmp", "b.bmp: must end in .csv"),
        ("model.csv", "images", "model.csv", "model.csv: is an input itself; write to another"),
        ("model.csv", "a.csv", "images/../a.csv", "a.csv: is an input itself"),
        ("model.csv", "a.csv", "link.csv", "link.csv: is an input itself"),
        ("model.csv", "link.csv", "a.csv", "a.csv: is an input itself"),
    ]:
        before = {path: path.read_bytes() for path in folder.rglob("*.*")}
        given = [str(folder / name) for name in (model, images)]
        assert cli.main(["predict", *given, "--out", str(folder / out)]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1
        assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


@pytest.mark.skipif(sys.platform == "darwin", reason="its names are always UTF-8")
def test_names_of_images_that_are_no_text(folder, capfdbinary):
    """The table has a file's name as it is; a terminal gets something in its place."""
    odd = os.fsencode(folder) + b"/images/caf\xe9.png"
    shutil.copy(folder / "images/a.png", odd)
    out = folder / "out.csv"
    (folder / "images/notes.txt").unlink()
    assert predict(folder, folder / "images", "--out", out) == 0
    assert odd in out.read_bytes()
    command = [sys.executable, "-m", "st", "predict", folder / "model.safetensors", odd]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and b"/images/caf\\udce9.png" in done.stdout, done.stderr
    os.rename(odd, folder / "images/two\nlines.png")
    (folder / "images/two\nlines.png").write_bytes(b"junk")
    capfdbinary.readouterr()
    assert predict(folder, folder / "images") == 2
    told = capfdbinary.readouterr().err
    assert rb"two\nlines.png: is not a readable image" in told and told.count(b"\n") == 1
