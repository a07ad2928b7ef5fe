"""`st convert`: files of torch's as safetensors, or refused in one line that names the file."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from st import cli
from st.core import tensors
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
    assert told == "2 tensors, of 'model' (left out: epoch, ema)"


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
    assert told == "2 tensors; all names begin with 'a.'"
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
