"""Names of torch modules of others."""

from importlib.util import find_spec

from st.core.errors import StError


def parted(name: str) -> tuple[str, str]:
    """(FILE.py, a package's module or timm; what to call of it) of an option `module`; raises
    StError if it is no such name."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise StError(
            f"module '{name}': must be FILE.py:NAME, PACKAGE.MODULE:NAME or timm:NAME, such as "
            "torchvision.models:resnet18"
        )
    return place, attribute


def installed(name: str) -> None:
    """Raise StError if the package of an option `module` is not there. Nothing is imported."""
    place, _ = parted(name)
    package = place.partition(".")[0]
    try:
        found = place.endswith(".py") or find_spec(package) is not None
    except ValueError:  # made by a program, such as a notebook's
        found = True
    if not found:
        raise StError(f"module '{name}': {package} is missing; pip install {package}")
