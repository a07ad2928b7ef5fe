"""Built-in architectures: each module draws one family on a `st.networks.graph.Graph`."""

from typing import Annotated

from pydantic import Field

from st.core.types import Finite

Width = Annotated[float, Finite(gt=0, le=64)]
Positive = Annotated[int, Field(ge=1, le=65536, strict=True)]


def scaled(channels: int, width: float) -> int:
    """A layer's channels under a width multiplier, at least one."""
    return max(1, round(channels * width))
