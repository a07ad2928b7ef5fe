"""VGG with batch normalisation for small images (Simonyan & Zisserman 2015)."""

from typing import Any, Literal

from st.core.registry import architectures
from st.networks.architectures import Positive, Width, scaled
from st.networks.graph import Graph

LAYERS = {
    11: "64 M 128 M 256 256 M 512 512 M 512 512",
    13: "64 64 M 128 128 M 256 256 M 512 512 M 512 512",
    16: "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512",
    19: "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512",
}


def steps(depth: int) -> list[int | str]:
    """The layers of a depth, as the option `layers` has them."""
    return [int(step) if step != "M" else step for step in LAYERS[depth].split()]


@architectures.register
def vgg(
    graph: Graph,
    *,
    depth: Literal[11, 13, 16, 19] = 16,
    width: Width = 1.0,
    layers: list[Positive | Literal["M"]] | None = None,
    hidden: Positive | None = None,
) -> None:
    """Convolutions (all prunable) between max-poolings M, then one linear layer.

    `layers` replaces the depth's list by one's own; `hidden` inserts a hidden linear layer with
    batch normalisation, as the VGG-16 of the filter-pruning papers has it.
    """
    plan = steps(depth) if layers is None else layers
    if not plan or plan[0] == "M":
        raise ValueError("option 'layers' must begin with a convolution")
    x, number, stage = graph.input, 0, 1
    for step in plan:
        if isinstance(step, str):  # "M"
            x = graph.max_pool(graph.tap(f"stage{stage}", x))
            stage += 1
        else:
            number += 1
            x = graph.conv(f"conv{number}", x, scaled(step, width), prunable=True)
            x = graph.relu(graph.bn(f"bn{number}", x))
    x = graph.tap(f"stage{stage}", x)
    if hidden:
        x = graph.linear("hidden", graph.global_pool(x), hidden)
        x = graph.relu(graph.bn("hidden_bn", x))
    graph.head(x)


def reshaped(options: dict[str, Any], channels: list[int], blocks: list[int]) -> dict[str, Any]:
    """Options of the same network with these widths, in the order of its convolutions."""
    widths = iter(channels)
    layers = options["layers"] or steps(options["depth"])
    layers = [step if step == "M" else next(widths) for step in layers]
    return {**options, "width": 1.0, "layers": layers}


vgg.reshaped = reshaped
