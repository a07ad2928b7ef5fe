"""Models and structures on disk: read back exactly, or refused in one line that names the file."""

import json

import numpy as np
import pytest
import torch
from helpers.networks import SMALL, pruned, random_keep, random_tensors, small_structure
from helpers.params import mutate
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from st.core.errors import StError
from st.core.job import fingerprint
from st.core.tensors import VERSION, checksum, read_kind, read_tensors, write_tensors
from st.networks import network
from st.networks.checkpoint import Checkpoint, load_model, save_model
from st.networks.structure import load_structure


@pytest.fixture
def saved(tmp_path):
    """(path, structure, tensors) of a small model on disk."""
    structure = small_structure("vgg")
    part = pruned(structure, random_keep(structure, np.random.default_rng(4)))
    tensors = random_tensors(part, np.random.default_rng(5))
    save_model(tmp_path / "model.safetensors", part, tensors, epochs=3)
    return tmp_path / "model.safetensors", part, tensors


@pytest.mark.parametrize("name", SMALL)
def test_model_round_trip(name, tmp_path):
    structure = small_structure(name)
    part = pruned(structure, random_keep(structure, np.random.default_rng(6)))
    tensors = random_tensors(part, np.random.default_rng(7))
    save_model(tmp_path / "deep" / "model", part, tensors, epochs=3, job={"seed": 1})
    back = load_model(tmp_path / "deep" / "model")
    assert back.structure.to_json() == part.to_json()
    assert back.facts == {"epochs": 3, "job": {"seed": 1}}
    assert back.tensors.keys() == tensors.keys()
    for key, value in tensors.items():
        assert back.tensors[key].dtype == value.dtype
        np.testing.assert_array_equal(back.tensors[key], value)
    for key, value in network.tensors(network.load(back)).items():
        np.testing.assert_array_equal(value, tensors[key])
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["model"]  # no temporary file


def test_digest_sees_every_weight_and_the_structure(saved):
    path, part, tensors = saved
    digest = load_model(path).digest()
    assert digest == Checkpoint("elsewhere", tensors, part, {}).digest()
    for name in tensors:
        changed = {**tensors, name: tensors[name] + 1}
        assert Checkpoint("", changed, part, {}).digest() != digest
    assert Checkpoint("", tensors, part.full, {}).digest() != digest
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def refused(path, reader, *words):
    """`reader(path)` raises StError, in one line that names the file."""
    with pytest.raises(StError) as caught:
        reader(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(word in message for word in words), message


def test_models_that_do_not_fit_their_structure(saved):
    path, part, tensors = saved
    wrong = {
        "conv2.weight": {**tensors, "conv2.weight": tensors["conv2.weight"][:, :-1]},
        "bn1.bias": {k: v for k, v in tensors.items() if k != "bn1.bias"},
        "extra": {**tensors, "extra": np.zeros(3)},
        "classifier.bias": {**tensors, "classifier.bias": np.zeros((5, 1), np.float32)},
    }
    for name, changed in wrong.items():
        save_model(path, part, changed)
        refused(path, load_model, f"'{name}'", "build it again")


def test_models_that_are_something_else(saved, tmp_path):
    path, part, tensors = saved
    refused(tmp_path / "nothing", load_model, "is missing")
    refused(tmp_path, load_model, "cannot be read (Is a directory)")
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, load_model, "is damaged", "delete it and build it again")
    for content in (
        b"# A text",
        b"junk",
        b"\xff" * 64,
        bytes(64),
        b"\x08" + bytes(7) + b"[1,2,3] ",
    ):
        path.write_bytes(content)
        refused(path, load_model, "is not a search-and-train model; name a file that a run made")
        refused(path, read_kind, "is not a file of a run")
    for header in (None, {"st": "[]"}, {"st": "{}"}, {"st": '{"format": "x"}'}, {"other": "1"}):
        save_file(tensors, path, header)
        refused(path, load_model, "is not a search-and-train model")
    save_file(tensors, path, {"st": "no JSON"})
    refused(path, load_model, "damaged")
    header = {"format": "search-and-train model", "version": VERSION, "structure": None}
    for version in (1, VERSION + 1, None, [9] * 99):
        save_file(tensors, path, {"st": json.dumps({**header, "version": version})})
        refused(path, load_model, "has format version")
    write_tensors(path, tensors, header)
    refused(path, load_model, "is not a structure")
    header["structure"] = part.to_json()
    save_file(tensors, path, {"st": json.dumps(header)})
    refused(path, load_model, "checksum")
    half = {name: torch.zeros(value.shape, dtype=torch.bfloat16) for name, value in tensors.items()}
    save_torch(half, path, {"st": json.dumps(header)})
    refused(path, load_model)
    for name, changed in {
        "bn1.weight": tensors["bn1.weight"].astype(np.float64),
        "bn1.bias": np.full_like(tensors["bn1.bias"], np.nan),
    }.items():
        write_tensors(path, {**tensors, name: changed}, header)
        refused(path, load_model, f"'{name}'")


def test_a_checksum_knows_names_types_and_shapes():
    values = np.arange(6, dtype=np.int32)
    told = [
        {"a": values.reshape(2, 3)}, {"a": values.reshape(3, 2)}, {"b": values.reshape(2, 3)},
        {"a": values.reshape(2, 3).view(np.float32)}, {"a": values.reshape(2, 3), "b": values[:0]},
    ]  # fmt: skip
    found = {checksum(tensors, "text") for tensors in told}
    assert len(found) == len(told) and checksum(told[0], "other") not in found


def test_flipped_bits_in_the_tensors(saved):
    """Each of them is noticed, though the file is as well-formed as before."""
    path, *_ = saved
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for place in np.random.default_rng(3).integers(start, len(content), 100):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        refused(path, load_model, "checksum")


def test_truncated_models(saved):
    path, *_ = saved
    content = path.read_bytes()
    for length in [*range(0, 64, 3), *range(64, len(content), len(content) // 40)]:
        path.write_bytes(content[:length])
        refused(path, load_model)


def test_flipped_bits_in_the_header(saved):
    """Refused with StError, or read as what they still are; nothing else escapes."""
    path, *_ = saved
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    rng, damaged = np.random.default_rng(8), 0
    for _ in range(500):
        changed = bytearray(content)
        changed[rng.integers(end)] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            network.load(load_model(path))
        except StError as error:
            damaged += 1
            assert str(error).startswith(f"{path}: ")
    assert damaged > 300


def test_read_tensors_requires_the_right_kind(saved):
    path, *_ = saved
    refused(path, lambda p: read_tensors(p, "search-and-train data"), "not a search-and-train data")


@pytest.mark.slow
def test_structures_that_are_refused(saved, tmp_path):
    good, path = saved[1].to_json(), tmp_path / "structure.json"
    load = load_structure
    refused(path, load, "cannot be read")
    for text in ("", "{", "[1, 2", "\x00", '{"format": '):
        path.write_text(text)
        refused(path, load, "is not JSON")
    path.write_bytes(b"\xff\xfe")
    refused(path, load, "is not JSON")
    path.write_text("[" * 100_000)
    refused(path, load, "is not JSON")
    path.write_text(" " * (64 * 2**20 + 1))
    refused(path, load, "more than")
    group = "conv1"
    for change, words in [
        ({"format": "x"}, "is not a structure"),
        ({"version": 2}, "version 2"),
        ({"architecture": {"family": "vgg"}}, "options"),
        ({"architecture": {"family": "vvg", "options": {}}}, "did you mean 'vgg'"),
        ({"architecture": {"family": "vgg", "options": {"depht": 16}}}, "depht"),
        ({"input_shape": [1, 8]}, "input_shape"),
        ({"input_shape": [1, 8, 0]}, "input_shape"),
        ({"classes": 0}, "classes"),
        ({"classes": True}, "classes"),
        ({"keep": None}, "keep"),
        ({"keep": {"conv99": [0]}}, "conv99"),
        ({"keep": {group: []}}, group),
        ({"keep": {group: [1, 0]}}, group),
        ({"keep": {group: [0, 0]}}, group),
        ({"keep": {group: [-1, 0]}}, group),
        ({"keep": {group: [0, 6]}}, group),
        ({"keep": {group: [0.0]}}, group),
        ({"keep": {group: [False]}}, group),
        ({"keep": {group: "0"}}, group),
        ({"keep": {"a\nb" * 999: [0]}}, "names 'a ba b"),
        # what would exhaust the memory of whoever builds it
        ({"architecture": {"family": "vgg", "options": {"layers": [65536] * 9}}}, "parameters"),
        ({"supernet_options": {"layers": [65536] * 9}}, "parameters"),
        ({"architecture": {"family": "densenet", "options": {"depth": 65533}}}, "operations"),
        (
            {"architecture": {"family": "resnet", "options": {"blocks": [65536] * 3}}},
            "operations",
        ),
    ]:
        path.write_text(json.dumps({**good, **change}))
        refused(path, load, words)


@pytest.mark.parametrize("name", SMALL)
def test_mutated_structures(name, tmp_path):
    """A file is refused with StError, or describes a network that can be built and counted."""
    rng, path = np.random.default_rng(9), tmp_path / "structure.json"
    structure = small_structure(name)
    good, bad = pruned(structure, random_keep(structure, rng)).to_json(), 0
    for _ in range(150):
        path.write_text(json.dumps(mutate(good, rng)))
        try:
            found = load_structure(path)
        except StError as error:
            bad += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            assert min(found.cost()) > 0
    assert bad > 50
