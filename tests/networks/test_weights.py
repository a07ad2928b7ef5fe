"""`st convert`: files of torch's as safetensors, or refused in one line that names the file."""

import argparse
import os
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from st import cli
from st.core import tensors
from st.core.errors import StError
from st.networks import weights
from st.networks.weights import convert


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents():
    return {path.name: path.read_bytes() for path in Path().iterdir()}


def refused(capsys, source, target, words):
    """In one line, with nothing written and nothing changed."""
    before = contents()
    assert cli.main(["convert", source, target]) == 2
    told = capsys.readouterr().err
    assert told.startswith("st: error: ") and words in told and told.count("\n") == 1
    assert "\x1b" not in told and "weights_only" not in told
    assert contents() == before


def test_what_was_taken_of_several_is_told():
    state = nn.Linear(2, 3).state_dict()
    torch.save({"epoch": 3, "model": state, "ema": state}, "both.pth")
    told = convert(Path("both.pth"), Path("both.safetensors"))
    assert told == ("2 tensors, of 'model' (left out: epoch, ema); --key takes another part: ema")


LAYER = nn.Linear(2, 3)
STATE = LAYER.state_dict()
OTHER = {name: value + 1 for name, value in STATE.items()}


@pytest.mark.parametrize("key", weights.USUAL)
def test_usual_keys(key):
    torch.save({"epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(2)}}}, key: STATE}, "a.pth")
    told = convert(Path("a.pth"), Path("a.safetensors"))
    assert told == f"2 tensors, of '{key}' (left out: epoch, optimizer)"


@pytest.mark.parametrize(
    "held, key, told, other",
    [
        ({"model": {"state_dict": STATE}}, None, ", of 'model.state_dict'", False),
        ({"generator": STATE}, None, ", of 'generator'", False),
        (
            {"ema": OTHER, "model": STATE}, "ema",
            ", of 'ema' (left out: model); --key takes another part: model", True,
        ),
        (
            {"model": {"ema": OTHER, "state_dict": STATE}}, "model.ema",
            ", of 'model.ema'; --key takes another part: model.state_dict", True,
        ),
        ({"G": OTHER, "D": STATE}, "G", "(left out: D); --key takes another part: D", True),
        (
            {"state_dict": {f"model.{n}": v for n, v in OTHER.items()} | {"loss.weight": STATE}},
            "state_dict.model", ", of 'state_dict.model'", True,
        ),
        ({f"net.{n}": v for n, v in OTHER.items()}, "net", ", of 'net'", True),
        (
            torch.optim.swa_utils.AveragedModel(nn.DataParallel(LAYER)).state_dict(), None,
            "2 tensors\n", False,
        ),
    ],
)  # fmt: skip
def test_the_network_among_others(held, key, told, other, capsys):
    torch.save(held, "a.pth")
    options = ["--key", key] if key else []
    assert cli.main(["convert", "a.pth", "a.safetensors", *options]) == 0
    assert told in capsys.readouterr().out
    found = load_file("a.safetensors")
    assert found.keys() == STATE.keys()
    for name, value in (OTHER if other else STATE).items():
        np.testing.assert_array_equal(found[name], value.numpy())


def test_names_that_begin_alike_among_others_are_told():
    state = {f"model.{n}": v for n, v in STATE.items()} | {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": state, "version": "2.1"}, "lightning.ckpt")
    told = convert(Path("lightning.ckpt"), Path("a.safetensors"))
    assert told == (
        "3 tensors, of 'state_dict' (left out: version); --key takes another part: state_dict.model"
    )


def test_options_paths_and_numbers_beside_the_weights():
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs")), "best": np.float64(0.5),
        "step": np.int64(3), "good": np.bool_(True), "windows": PureWindowsPath("a"),
    }  # fmt: skip
    torch.save({"model": STATE, **beside}, "a.pth")
    told = convert(Path("a.pth"), Path("a.safetensors"))
    assert told == "2 tensors, of 'model' (left out: args, best, step, good, windows)"


def test_which_network_is_not_known(capsys):
    torch.save({"G": STATE, "D": STATE}, "two.pth")
    refused(capsys, "two.pth", "x.safetensors", "holds several networks; choose by --key: G, D")
    torch.save({"epoch": 3, "names": ["a"]}, "none.pth")
    refused(capsys, "none.pth", "x.safetensors", "no tensors by name; its keys are epoch, names")
    with pytest.raises(StError, match="--key 'E': there is no such part; there are G, D"):
        convert(Path("two.pth"), Path("x.safetensors"), "E")


def test_parameters_of_a_compiled_parallel_network():
    """With gradients, in any type, and with the names that wrappers give."""
    layer = nn.Linear(2, 3)
    held = dict(layer.named_parameters())
    torch.save({f"_orig_mod.module.{n}": v for n, v in held.items()}, "outer.pth")
    torch.save({f"module.a._orig_mod.{n}": v.bfloat16() for n, v in held.items()}, "inner.pth")
    assert convert(Path("outer.pth"), Path("outer.safetensors")) == "2 tensors"
    found = load_file("outer.safetensors")
    assert found.keys() == held.keys()
    for name, value in held.items():
        np.testing.assert_array_equal(found[name], value.detach().numpy())
    told = convert(Path("inner.pth"), Path("inner.safetensors"))
    assert told == "2 tensors; all names begin with 'a.'; --key takes another part: a"
    found = load_file("inner.safetensors")
    assert found.keys() == {"a.weight", "a.bias"} and found["a.bias"].dtype == np.float32


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: torch.zeros(2, 2).to_sparse(), "'x' is no array of numbers (torch.float32"),
        (lambda: torch.zeros(2, device="meta"), "on meta); save it as a dense tensor"),
        (lambda: torch.zeros(2, dtype=torch.complex128), "no array of numbers (torch.complex128"),
        (
            lambda: torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8),
            "no array of numbers (torch.qint8",
        ),
    ],
    ids=["sparse", "meta", "complex", "quantised"],
)
def test_tensors_that_are_no_arrays(make, words, capsys):
    torch.save({"x": make()}, "net.pth")
    refused(capsys, "net.pth", "out.safetensors", words)


def test_files_that_hold_more_or_less(capsys):
    torch.save(nn.Linear(2, 2), "whole.pth")
    refused(capsys, "whole.pth", "x.safetensors", "it holds torch.nn.modules.linear.Linear; save")
    torch.save([torch.zeros(2)], "list.pth")
    refused(capsys, "list.pth", "x.safetensors", "list.pth: holds no tensors by name")
    whole = Path("whole.pth").read_bytes()
    for content in (b"", b"# A text\n", whole[: len(whole) // 2]):
        Path("other.pth").write_bytes(content)
        refused(capsys, "other.pth", "x.safetensors", "other.pth: is not what torch.save wrote")


def test_targets_that_would_be_lost(capsys):
    torch.save(nn.Linear(2, 2).state_dict(), "net.pth")
    Path("notes.txt").write_text("mine")
    refused(capsys, "net.pth", "net.pth", "net.pth: must end in .safetensors")
    refused(capsys, "net.pth", "notes.txt", "notes.txt: must end in .safetensors")
    os.rename("net.pth", "net.safetensors")
    os.symlink("net.safetensors", "link.safetensors")
    for source, target in [
        ("net.safetensors", "net.safetensors"),
        ("net.safetensors", os.path.abspath("net.safetensors")),
        ("net.safetensors", "link.safetensors"),
        ("link.safetensors", "./net.safetensors"),
    ]:
        refused(capsys, source, target, f"{os.path.normpath(target)}: is an input itself; write to")


def test_a_full_disk(capsys, monkeypatch):
    torch.save(nn.Linear(2, 2).state_dict(), "net.pth")

    def full(*_):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    refused(capsys, "net.pth", "x.safetensors", "x.safetensors: cannot be written (I/O error")


def test_others_may_read_the_result(folder):
    torch.save(nn.Linear(2, 2).state_dict(), "net.pth")
    (folder / "new").touch()
    convert(folder / "net.pth", folder / "net.safetensors")
    assert (folder / "net.safetensors").stat().st_mode == (folder / "new").stat().st_mode
