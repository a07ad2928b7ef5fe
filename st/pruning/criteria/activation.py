"""How strongly, or how often, a channel responds to images."""

from typing import Annotated, Any, Literal

from pydantic import Field

from st.core.errors import StError
from st.core.registry import criteria
from st.networks.graph import Graph
from st.pruning.criteria import Scores, Subject

BATCH = 32  # all layers' outputs are held at once


@criteria.register
def activation(
    subject: Subject,
    *,
    kind: Literal["mean", "apoz"] = "mean",
    images: Annotated[int, Field(ge=1, strict=True)] = 1024,
) -> Scores:
    """Over training images and positions, after the channel's ReLU: `mean`, its mean value
    (Molchanov et al. 2017); `apoz`, the fraction of values that are not zero, one minus the average
    percentage of zeros (Hu et al. 2016).
    """
    import torch

    from st.pruning.scoring import batches, build

    nodes = rectifiers(subject.graph)
    network, where = build(subject, nodes)
    totals: dict[str, Any] = dict.fromkeys(nodes, 0)
    count = 0
    with torch.inference_mode():
        for batch, _ in batches(subject, where, images, BATCH):
            for name, values in network(batch, tuple(nodes)).items():
                values = values > 0 if kind == "apoz" else values
                # positions first, so that the sum over all images is the only long one
                each = values.double().flatten(2).mean(2) if values.ndim > 2 else values.double()
                totals[name] += each.sum(0).cpu()
            count += len(batch)
    return {name: (total / count).numpy() for name, total in totals.items()}


activation.data = True
# a fraction is one in every layer; mean values have each layer's own scale
activation.comparable = lambda kind, **options: kind == "apoz"


def rectifiers(graph: Graph) -> dict[str, int]:
    """Per group, the number of the ReLU that follows its batch normalisation."""
    found: dict[str, int] = {}
    for name, group in graph.groups.items():
        for number, node in enumerate(graph.nodes):
            if node.op == "relu" and graph.nodes[node.inputs[0]].name in group.norms:
                found.setdefault(name, number)
        if name not in found:
            raise StError(f"criterion 'activation': no ReLU follows the normalisation of '{name}'")
    return found
