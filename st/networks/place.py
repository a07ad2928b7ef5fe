"""Names of torch modules of others."""

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
