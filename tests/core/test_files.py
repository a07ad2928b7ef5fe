"""Files appear whole or not at all."""

import json

import pytest

from st.core.errors import StError
from st.core.files import read_json, whole, write_csv, write_json, write_text


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    path = tmp_path / "deep" / "file"
    write_text(path, "old")
    with open(path) as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), whole(path) as temporary:
        temporary.write_text("ne")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x", tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(StError, match="cannot be written") as caught:
            write_text(path, "text")
        assert str(caught.value).startswith(f"{path}: ")
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["file", "folder"]


def test_names_of_files_that_are_no_text(tmp_path):
    """For people they are escaped, for programs they are what they are."""
    write_text(tmp_path / "a", "caf\udce9")
    assert (tmp_path / "a").read_bytes() == b"caf\\udce9"
    write_csv(tmp_path / "b", [{"file": "caf\udce9"}])
    assert (tmp_path / "b").read_bytes() == b"file\ncaf\xe9\n"


def test_json_and_csv(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None, "é"]})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None, "é"]}
    assert (tmp_path / "a.json").read_text().endswith("}\n")
    assert json.loads((tmp_path / "a.json").read_bytes())["b"][3] == "é"
    (tmp_path / "b.json").write_bytes(b"\x80 somebody's")
    with pytest.raises(StError, match=r"b\.json: is not JSON .*; if a run made it, delete it"):
        read_json(tmp_path / "b.json")
    write_csv(tmp_path / "a.csv", [{"x": 1, "y": 1 / 3}, {"x": 2, "y": None}])
    assert (tmp_path / "a.csv").read_bytes() == b"x,y\n1,0.333333\n2,\n"
