"""DenseNet for small images (Huang et al. 2017) with channel selection, as in network slimming."""

from typing import Annotated

from st.core.registry import architectures
from st.core.types import Finite, Flag
from st.networks.architectures import Positive, Width, scaled
from st.networks.graph import Graph


@architectures.register
def densenet(
    graph: Graph,
    *,
    depth: Positive = 40,
    growth: Positive = 12,
    width: Width = 1.0,
    bottleneck: Flag = False,
    compression: Annotated[float, Finite(gt=0, le=1)] = 1.0,
    initial: Positive | None = None,
) -> None:
    """Three dense blocks of (depth - 4) / 3 layers, half as many with bottlenecks.

    `initial`: channels before the first block (default: two growth rates); `compression`: what a
    transition keeps (0.5 with bottlenecks is DenseNet-BC). The dense stream keeps its width; each
    consumer selects its own channels of it.
    """
    per_layer = 2 if bottleneck else 1
    if depth < 7 or (depth - 4) % (3 * per_layer):
        raise ValueError(f"option 'depth' must be {3 * per_layer}n+4, not {depth}")
    rate = scaled(growth, width)
    x = graph.conv("conv1", graph.input, scaled(initial or 2 * growth, width))

    def normalised(name, x, number=1):
        return graph.relu(graph.bn(f"{name}.bn{number}", graph.select(f"{name}.select", x)))

    for stage in (1, 2, 3):
        for layer in range(1, (depth - 4) // (3 * per_layer) + 1):
            name = f"stage{stage}.layer{layer}"
            y = normalised(name, x)
            if bottleneck:
                y = graph.conv(f"{name}.conv1", y, 4 * rate, kernel=1, prunable=True)
                y = graph.relu(graph.bn(f"{name}.bn2", y))
            y = graph.conv(f"{name}.conv{per_layer}", y, rate)
            x = graph.concat([x, y])
        graph.tap(f"stage{stage}", x)
        if stage < 3:
            y = normalised(f"transition{stage}", x)
            y = graph.conv(
                f"transition{stage}.conv1", y, max(1, int(x.channels * compression)), kernel=1
            )
            x = graph.avg_pool(y)
    graph.head(graph.relu(graph.bn("bn", graph.select("select", x))))
