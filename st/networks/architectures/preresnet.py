"""Pre-activation ResNet (He et al. 2016b) with channel selection, as in network slimming."""

from st.core.registry import architectures
from st.core.types import Flag
from st.networks.architectures import Positive, Width, scaled
from st.networks.graph import Graph


@architectures.register
def preresnet(
    graph: Graph, *, depth: Positive = 164, width: Width = 1.0, bottleneck: Flag = True
) -> None:
    """Three stages of 16, 32, 64 channels (x4 with bottlenecks); depth 9n+2, or 6n+2 without.

    The residual stream keeps its width. Each block, and the classifier, selects its own channels
    of it; the convolutions inside a block are prunable except the last.
    """
    per_block = 9 if bottleneck else 6
    if depth <= 2 or (depth - 2) % per_block:
        kind = "with" if bottleneck else "without"
        raise ValueError(f"option 'depth' must be {per_block}n+2 {kind} bottlenecks, not {depth}")
    expansion = 4 if bottleneck else 1
    x = graph.conv("conv1", graph.input, scaled(16, width))
    for stage in (1, 2, 3):
        channels = scaled(16 * 2 ** (stage - 1), width)
        for block in range(1, (depth - 2) // per_block + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}.block{block}"
            y = graph.select(f"{name}.select", x)
            y = graph.relu(graph.bn(f"{name}.bn1", y))
            if bottleneck:
                y = graph.conv(f"{name}.conv1", y, channels, kernel=1, prunable=True)
                y = graph.relu(graph.bn(f"{name}.bn2", y))
                y = graph.conv(f"{name}.conv2", y, channels, stride=stride, prunable=True)
                y = graph.relu(graph.bn(f"{name}.bn3", y))
                y = graph.conv(f"{name}.conv3", y, channels * expansion, kernel=1)
            else:
                y = graph.conv(f"{name}.conv1", y, channels, stride=stride, prunable=True)
                y = graph.relu(graph.bn(f"{name}.bn2", y))
                y = graph.conv(f"{name}.conv2", y, channels)
            if stride != 1 or x.channels != y.channels:
                x = graph.conv(f"{name}.shortcut", x, y.channels, kernel=1, stride=stride)
            x = graph.add(y, x)
        graph.tap(f"stage{stage}", x)
    x = graph.select("select", x)
    graph.head(graph.relu(graph.bn("bn", x)))
