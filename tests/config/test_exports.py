"""`exports` in params.yaml: rows as files for other programs."""

import importlib.util

import pytest

from st.config.check import parse
from st.core.errors import StError


@pytest.fixture
def packages(monkeypatch):
    """Which of the packages are there, whatever is installed."""
    there, installed = importlib.util.find_spec, {"onnx", "onnxscript", "onnxruntime"}
    known = frozenset(installed)

    def find_spec(name, *more):
        return (name in installed or None) if name in known else there(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return installed


@pytest.mark.parametrize(
    "exports, words",
    [
        ({"stt": {}}, "exports.stt: unknown row of the table 'stt'; did you mean 'st'?"),
        ({"sparse": {}}, "exports.sparse: unknown row of the table 'sparse'"),
        ({"st": {"to": []}}, "exports.st.to: must not be empty"),
        ({"st": {"to": ["onxx"]}}, "exports.st.to: unknown target 'onxx'; did you mean 'onnx'?"),
        ({"st": {"to": [1]}}, "exports.st.to.0: "),
        ({"st": {"to": "onnx"}}, "exports.st.to: "),
        ({"st": {"too": ["onnx"]}}, "exports.st.too: unknown key; did you mean 'to'?"),
        ({"st": {"raw": 1}}, "exports.st.raw: "),
        ({"st": {"to": ["onnx", "onnx"]}}, "exports.st.to: should name 'onnx' once"),
        ({"st": ["onnx"]}, "exports.st: must be a mapping"),
        ([], "exports: "),
    ],
)
def test_mistakes(tiny, packages, exports, words):
    with pytest.raises(StError) as caught:
        parse({**tiny, "exports": exports})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"params.yaml: {words}")


def test_a_method_may_not_have_a_files_name(tiny, packages):
    tiny["methods"]["st-int8"] = tiny["methods"]["st"]
    parse({**tiny, "exports": {"st": {"to": ["onnx"]}}})
    with pytest.raises(StError, match=r"exports\.st\.to: 'st-int8' is a row already"):
        parse({**tiny, "exports": {"st": {"to": ["int8"]}}})


def test_packages_are_asked_for_before_any_job(tiny, packages):
    params = {**tiny, "exports": {"supernet": {}, "st": {"to": ["int8"], "raw": True}}}
    assert parse(params).exports["supernet"].to == ["onnx"]
    packages.remove("onnxruntime")
    with pytest.raises(StError) as caught:
        parse(params)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all("needs onnxruntime; install the extra" in line for line in lines)
