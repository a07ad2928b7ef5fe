"""Snakemake's records, packed beside the results and unpacked elsewhere."""

import gzip
import json
import shutil
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from st.core import records
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


@pytest.mark.parametrize(
    "text",
    [
        None, "nonsense", "[]", '{"QQ==": 1}',
        *(
            json.dumps({"QQ==": "y", name: "x"})
            for name in ("../outside", "@a/b", "/tmp/outside", "!!", "x")
        ),
    ],
)  # fmt: skip
def test_a_damaged_archive_is_named(project, text):
    """Or a hostile one: nothing is written, in its folder or elsewhere."""
    content = b"nonsense" if text is None else gzip.compress(text.encode())
    before = tree()
    with pytest.raises(StError, match=r"provenance\.json\.gz, which was packed: is damaged"):
        records.merge(content, set())
    records.ARCHIVE.parent.mkdir(exist_ok=True)
    records.ARCHIVE.write_bytes(content)
    with pytest.raises(StError, match=r"provenance\.json\.gz: is damaged"):
        records.unpack()
    assert tree() == before and not (RECORDS.parent / "outside").exists()


def test_without_results_there_is_nothing_to_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StError, match="nothing to record"):
        records.record()
    assert not list(tmp_path.iterdir())


def test_within_dvc_only_the_archive_is_written(project, monkeypatch):
    Path(".dvc").mkdir()
    monkeypatch.setenv("DVC_STAGE", "report")
    records.record()
    assert records.ARCHIVE.exists()
