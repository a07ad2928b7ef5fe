"""The public API: names and signatures as tests/api/public.txt lists them; light to import."""

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import st

LIST = Path(__file__).with_name("public.txt")
CHANGED = (
    "the public API is not what tests/api/public.txt says, on which others' code relies. If that "
    "is meant, say it in CHANGELOG.md and docs/api.md, and write the list anew:\n"
    "    python tests/api/test_public.py"
)
TYPES = ("Data", "Model", "Prediction", "Structure")
MEMBERS = {  # what docs/api.md and docs/deploy.md promise of them
    "Model": (
        "classes", "forward", "history", "input_shape", "network", "normalisation", "normalise",
        "predict", "preprocess", "provenance", "resize", "structure",
    ),
    "Structure": ("cost", "full", "input_shape", "classes", "keep", "kept", "label", "widths"),
    "Data": ("classes", "holdout", "input_shape", "test_images", "test_labels", "train_images",
             "train_labels"),
    "Prediction": ("label", "probabilities", "probability"),
}  # fmt: skip


def told(value: object) -> str:
    """A signature in one line, a registry's or error's type."""
    if inspect.isfunction(value):
        return str(inspect.signature(value)).replace("typing.", "").replace("collections.abc.", "")
    return f": {value.__name__ if isinstance(value, type) else type(value).__name__}"


def public() -> str:
    """The whole of it, a line each."""
    lines = [f"{name}{told(getattr(st, name))}" for name in sorted(st.__all__)]
    for kind, names in sorted(MEMBERS.items()):
        for name in names:
            member = inspect.getattr_static(getattr(st, kind), name, None)
            lines.append(f"{kind}.{name}{told(member) if inspect.isfunction(member) else ''}")
    return "\n".join(lines) + "\n"


def test_the_public_api_is_what_it_was():
    assert public() == LIST.read_text(), CHANGED


def test_a_change_would_be_seen(monkeypatch):
    def search(network, budget=None): ...

    monkeypatch.setattr(st, "search", search, raising=False)
    assert public() != LIST.read_text()


@pytest.mark.parametrize("name", [name for name in st.__all__ if name != "__version__"])
def test_what_is_public_is_typed_and_documented(name):
    value = getattr(st, name)
    assert name in dir(st) and value.__doc__
    if inspect.isfunction(value):
        parameters = inspect.signature(value).parameters
        assert set(typing.get_type_hints(value)) == {*parameters, "return"}
        assert "Raises StError" in value.__doc__
        for parameter in parameters:
            assert f"`{parameter}`" in value.__doc__ or parameter in ("path", "network")


def test_members_of_types_are_there():
    for kind, names in MEMBERS.items():
        described = (
            f"{getattr(st, kind).__doc__} {getattr(getattr(st, kind), '__annotations__', '')}"
        )
        for name in names:
            assert hasattr(getattr(st, kind), name) or name in described


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        st.laod  # noqa: B018


def test_importing_st_is_light():
    def modules(code: str) -> list[str]:
        command = [sys.executable, "-c", f"import st, sys; {code}; print(*sys.modules)"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    found = modules("st.__all__; dir(st)")
    assert not {"torch", "numpy", "pydantic", "PIL", "st.core.errors"} & {*found}
    # registries list their names without torch, as the workflow does
    found = modules("assert 'torch' not in sys.modules if st.losses.names() else 0; st.load")
    assert "torch" in found


if __name__ == "__main__":
    LIST.write_text(public())
