"""Snakemake's records, packed beside the results and unpacked elsewhere."""

import gzip
import json
import shutil
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from st.core import records, versions
from st.core.errors import StError
from st.core.snakemake_internals import RECORDS, record_path

SHORT, LONG = "results/a.csv", f"results/{'long/' * 60}b.csv"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a record of a short and of a long path."""
    monkeypatch.chdir(tmp_path)
    for name in (SHORT, LONG):
        write(name, f"about {name}")
    return tmp_path


def write(name: str, text: str) -> Path:
    RECORDS.mkdir(parents=True, exist_ok=True)
    path = record_path(urlsafe_b64encode(name.encode()).decode())
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def tree() -> dict[str, str]:
    files = (path for path in RECORDS.rglob("*") if path.is_file())
    return {str(path.relative_to(RECORDS)): path.read_text() for path in files}


def test_long_paths_are_packed_and_unpacked(project):
    before = tree()
    assert len(before) == 2 and any(name.startswith("@") for name in before)
    assert records.outputs() == {SHORT, LONG}
    records.pack()
    packed = records.ARCHIVE.read_bytes()
    shutil.rmtree(".snakemake")
    RECORDS.parent.mkdir()
    records.unpack()
    assert tree() == before
    records.pack()
    assert records.ARCHIVE.read_bytes() == packed


def test_long_paths_are_merged(project, tmp_path_factory, monkeypatch):
    records.pack()
    archive = records.ARCHIVE.read_bytes()
    monkeypatch.chdir(tmp_path_factory.mktemp("other"))
    write("results/other.csv", "about other")
    records.merge(archive, {SHORT, LONG})
    assert records.outputs() == {SHORT, LONG, "results/other.csv"}


def test_what_is_no_record_stays_behind(project):
    """A system's own file among the records, or names that lead elsewhere: the rest is taken."""
    (RECORDS / ".DS_Store").write_text("x")
    records.pack()
    found = json.loads(gzip.decompress(records.ARCHIVE.read_bytes()))
    shutil.rmtree(".snakemake")
    RECORDS.mkdir(parents=True)
    names = ("../outside", "@a/b", "/tmp/outside", "!!", "x")
    found |= dict.fromkeys(names, "x")
    records.ARCHIVE.write_bytes(gzip.compress(json.dumps(found).encode()))
    records.unpack()
    assert records.outputs() == {SHORT, LONG}
    assert not (RECORDS.parent / "outside").exists()


@pytest.mark.parametrize("text", [None, b"", "nonsense", "[]", '{"QQ==": 1}'])
def test_a_damaged_archive_is_named(project, text):
    content = gzip.compress((text or "{}").encode()) if isinstance(text, str) else b"nonsense"
    if text == b"":  # damaged within
        content = bytearray(gzip.compress(b"some text" * 50))
        content[10] ^= 0xFF
        content = bytes(content)
    before = tree()
    with pytest.raises(StError, match=r"provenance\.json\.gz, which was packed: is damaged"):
        records.merge(content, set())
    records.ARCHIVE.parent.mkdir(exist_ok=True)
    records.ARCHIVE.write_bytes(content)
    with pytest.raises(StError, match=r"provenance\.json\.gz: is damaged"):
        records.unpack()
    assert tree() == before


def test_without_results_there_is_nothing_to_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StError, match="nothing to record"):
        versions.record()
    assert not list(tmp_path.iterdir())


def test_within_dvc_only_the_archive_is_written(project, monkeypatch):
    Path(".dvc").mkdir()
    monkeypatch.setenv("DVC_STAGE", "report")
    versions.record()
    assert records.ARCHIVE.exists()
