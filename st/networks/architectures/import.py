"""Networks of one's own: any torch module, drawn by the phase `draw`."""

from typing import Any, Literal

from st.core.registry import architectures
from st.core.types import Several
from st.networks.graph import Graph


@architectures.register
def import_(
    graph: Graph,
    *,
    module: str,
    arguments: dict[str, Any] | None = None,
    weights: str | None = None,
    stages: Several[str] | None = None,
    streams: Literal["prune", "keep"] = "prune",
) -> None:
    """A module that is made by a class or function of one's own, of torchvision's or timm's.

    `module`: `torchvision.models:resnet18`, `timm:resnet18`, `my_file.py:Net`, or any importable
    `package.module:name`. `arguments`: what it is called with; the number of classes is given by
    itself. `weights`: a safetensors file for it (`st convert` makes one of a .pth file). `stages`:
    names of its parts whose results losses compare, by default the last map of each size.
    `streams`: keep, so that channels which several layers make, as those of residual streams, stay.
    """
    raise ValueError("is drawn by the phase 'draw'")


import_.imported = True
