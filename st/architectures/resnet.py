"""CIFAR ResNet with basic blocks and parameter-free shortcuts (He et al. 2016)."""

from st.architectures import Positive, Width, scaled
from st.graph import Graph
from st.registry import architectures


@architectures.register
def resnet(graph: Graph, *, depth: Positive = 56, width: Width = 1.0) -> None:
    """Three stages of 16, 32, 64 channels; depth 6n+2 (20, 32, 44, 56, 110, ...).

    The residual stream keeps its width, so the first convolution of each block is prunable, as in
    Li et al. 2017.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"option 'depth' must be 6n+2 (8, 14, 20, 32, 44, 56, 110), not {depth}")
    x = graph.conv("conv1", graph.input, scaled(16, width))
    x = graph.relu(graph.bn("bn1", x))
    for stage in (1, 2, 3):
        channels = scaled(16 * 2 ** (stage - 1), width)
        for block in range(1, (depth - 2) // 6 + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}.block{block}"
            y = graph.conv(f"{name}.conv1", x, channels, stride=stride, prunable=True)
            y = graph.relu(graph.bn(f"{name}.bn1", y))
            y = graph.bn(f"{name}.bn2", graph.conv(f"{name}.conv2", y, channels))
            if stride != 1:
                x = graph.shortcut(x, channels, stride)
            x = graph.relu(graph.add(y, x))
        graph.tap(f"stage{stage}", x)
    graph.head(x)
