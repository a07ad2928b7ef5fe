"""Which files a result depends on."""

import json
from pathlib import Path

import pytest

from st.core.sources import beside, in_project, module_file, sources

PARTS = {
    "own/__init__.py": "", "own/net.py": "from .deep.blocks import block\nfrom . import sizes\n",
    "own/sizes.py": "from other import helper", "own/deep/__init__.py": "",
    "own/deep/blocks.py": "from ..far import x\nimport torch, json\nfrom ...above import y\n",
    "own/far.py": "", "own/unused.py": "", "other/helper.py": "def f():\n    import aside\n",
    "aside.py": "from st.core.seeds import stream", "lib/site-packages/foreign.py": "",
}  # fmt: skip


@pytest.fixture
def parts(tmp_path, monkeypatch):
    for name, text in PARTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


NEEDED = {
    "own/__init__.py", "own/net.py", "own/sizes.py", "own/deep/__init__.py", "own/deep/blocks.py",
    "own/far.py", "other/helper.py", "aside.py",
}  # fmt: skip


def named(found, folder):
    """Those in the folder, and whether st's are among them."""
    paths = [path.resolve() for path in found]
    own = {path.relative_to(folder).as_posix() for path in paths if path.is_relative_to(folder)}
    return own, any(path.name == "seeds.py" for path in paths)


def test_what_a_module_consists_of(parts, monkeypatch):
    """However it is imported: relatively, from packages beside it, with or without __init__.py."""
    monkeypatch.syspath_prepend(parts)
    monkeypatch.syspath_prepend(parts / "lib/site-packages")
    assert named(sources("own.net"), parts) == (NEEDED, True)
    assert not in_project(module_file("foreign")) and not in_project(Path(json.__file__))
    assert module_file("sys") is None and module_file("nowhere.at.all") is None


def test_what_a_file_consists_of(parts, monkeypatch):
    (parts / "net.py").write_text("from own import net\nfrom foreign import x")
    assert named(beside(Path("net.py")), parts) == (NEEDED | {"net.py"}, True)
    (parts / "elsewhere").mkdir()
    monkeypatch.chdir(parts / "elsewhere")
    Path("link.py").symlink_to("../net.py")  # run with what lies beside its target
    assert named(beside(Path("link.py")), parts) == (NEEDED | {"net.py"}, True)
