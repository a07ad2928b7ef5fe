"""CIFAR ResNet with basic blocks and parameter-free shortcuts (He et al. 2016)."""

from typing import Annotated, Any

from pydantic import Field

from st.core.registry import architectures
from st.networks.architectures import Positive, Width, scaled
from st.networks.graph import Graph


@architectures.register
def resnet(
    graph: Graph,
    *,
    depth: Positive = 56,
    width: Width = 1.0,
    blocks: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = None,
    channels: list[Positive] | None = None,
) -> None:
    """Three stages of 16, 32, 64 channels; depth 6n+2 (20, 32, 44, 56, 110, ...).

    The residual stream keeps its width, so the first convolution of each block is prunable, as in
    Li et al. 2017.

    `blocks` replaces the depth's n blocks a stage by one's own numbers. `channels` replaces the
    stages' widths by one for each convolution: conv1, then two a block. The stream then has the
    width of each block's second convolution, and shortcuts pad or drop channels to match it.
    """
    if blocks is None and (depth < 8 or (depth - 2) % 6):
        raise ValueError(f"option 'depth' must be 6n+2 (8, 14, 20, 32, 44, 56, 110), not {depth}")
    blocks = blocks or [(depth - 2) // 6] * 3
    if channels is None:
        stages = zip(blocks, (16, 32, 64), strict=True)
        channels = [16] + [size for count, size in stages for _ in range(2 * count)]
    elif len(channels) != 1 + 2 * sum(blocks):
        raise ValueError(
            f"option 'channels' needs {1 + 2 * sum(blocks)} widths, conv1's and two for each of "
            f"the {sum(blocks)} blocks, not {len(channels)}"
        )
    widths = iter(scaled(size, width) for size in channels)
    x = graph.conv("conv1", graph.input, next(widths))
    x = graph.relu(graph.bn("bn1", x))
    for stage, count in enumerate(blocks, start=1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}.block{block}"
            y = graph.conv(f"{name}.conv1", x, next(widths), stride=stride, prunable=True)
            y = graph.relu(graph.bn(f"{name}.bn1", y))
            y = graph.bn(f"{name}.bn2", graph.conv(f"{name}.conv2", y, next(widths)))
            if stride != 1 or x.channels != y.channels:
                x = graph.shortcut(x, y.channels, stride)
            x = graph.relu(graph.add(y, x))
        graph.tap(f"stage{stage}", x)
    graph.head(x)


def reshaped(options: dict[str, Any], channels: list[int], blocks: list[int]) -> dict[str, Any]:
    """Options of the same network with these widths, in the order of its convolutions, and so many
    blocks a stage."""
    return {**options, "width": 1.0, "blocks": blocks, "channels": channels}


resnet.reshaped = reshaped
