"""Which files a result depends on."""

import json
from pathlib import Path

import pytest

from st.core.sources import beside, in_project, module_file, sources

PARTS = {
    "owned/__init__.py": "",
    "owned/net.py": "from .deep.blocks import block\nfrom . import sizes\n",
    "owned/sizes.py": "from more_of_it import helper",
    "owned/deep/__init__.py": "",
    "owned/deep/blocks.py": "from ..far import x\nimport torch, json\nfrom ...above import y\n",
    "owned/far.py": "",
    "owned/unused.py": "",
    "more_of_it/helper.py": "def f():\n    import lone_module\n",
    "lone_module.py": "from st.core.seeds import stream",
    "lib/site-packages/foreign.py": "",
}


@pytest.fixture
def parts(tmp_path, monkeypatch):
    for name, text in PARTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


NEEDED = {*PARTS} - {"owned/unused.py", "lib/site-packages/foreign.py"}


def named(found, folder):
    """Those in the folder, and whether st's are among them."""
    paths = [path.resolve() for path in found]
    own = {path.relative_to(folder).as_posix() for path in paths if path.is_relative_to(folder)}
    return own, any(path.name == "seeds.py" for path in paths)


def test_what_a_module_consists_of(parts, monkeypatch):
    """However it is imported: relatively, from packages beside it, with or without __init__.py."""
    monkeypatch.syspath_prepend(parts)
    monkeypatch.syspath_prepend(parts / "lib/site-packages")
    assert named(sources("owned.net"), parts) == (NEEDED, True)
    assert not in_project(module_file("foreign")) and not in_project(Path(json.__file__))
    assert module_file("sys") is None and module_file("nowhere.at.all") is None


def test_what_a_file_consists_of(parts, monkeypatch):
    (parts / "net.py").write_text("from owned import net\nfrom foreign import x")
    assert named(beside(Path("net.py")), parts) == (NEEDED | {"net.py"}, True)
    (parts / "elsewhere").mkdir()
    monkeypatch.chdir(parts / "elsewhere")
    Path("link.py").symlink_to("../net.py")  # run with what lies beside its target
    assert named(beside(Path("link.py")), parts) == (NEEDED | {"net.py"}, True)
