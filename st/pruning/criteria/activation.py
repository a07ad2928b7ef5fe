"""How strongly, or how often, a channel responds to images."""

from typing import Annotated, Any, Literal

from pydantic import Field

from st.core.errors import StError
from st.core.registry import criteria
from st.networks.drawing import Axis, Drawing
from st.networks.program import Program
from st.pruning.criteria import Scores, Subject

BATCH = 32  # all layers' outputs are held at once
ACTIVATIONS = (
    "relu",
    "relu6",
    "hardtanh",
    "hardswish",
    "silu",
    "gelu",
    "elu",
    "leaky_relu",
    "mish",
)


@criteria.register
def activation(
    subject: Subject,
    *,
    kind: Literal["mean", "apoz"] = "mean",
    images: Annotated[int, Field(ge=1, strict=True)] = 1024,
) -> Scores:
    """Over training images and positions, after the channel's ReLU: `mean`, its mean value
    (Molchanov et al. 2017); `apoz`, the fraction of values above zero, after a ReLU one minus the
    average percentage of zeros (Hu et al. 2016). Channels without have no scores and stay.
    """
    import torch

    from st.pruning.scoring import batches, build

    nodes = rectifiers(subject.graph)
    network, where = build(subject, {name: tap for name, (tap, _) in nodes.items()})
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
    graph, keep = subject.graph, subject.structure.keep
    return {
        name: (total / count).numpy()[graph.places(nodes[name][1], name, keep)].mean(axis=1)
        for name, total in totals.items()
    }


activation.data = True
activation.suits = lambda full, budget, **options: rectifiers(full.graph) and None
# a fraction is one in every layer; mean values have each layer's own scale
activation.comparable = lambda kind, **options: kind == "apoz"


def rectifiers(graph: Drawing) -> dict[str, tuple[Any, Axis]]:
    """Per group, the tap of the activation that follows, and what its channels are an axis of."""
    found = _imported(graph) if isinstance(graph, Program) else _drawn(graph)
    if graph.groups and not found:
        raise StError(
            "criterion 'activation': no ReLU or the like follows the channels that can be removed; "
            "use a criterion that looks at weights, such as l1_norm"
        )
    return {name: found[name] for name in graph.groups if name in found}


def _drawn(graph: Any) -> dict[str, tuple[Any, Axis]]:
    found: dict[str, tuple[Any, Axis]] = {}
    for name, group in graph.groups.items():
        for number, node in enumerate(graph.nodes):
            before = f"{graph.nodes[node.inputs[0]].name}.weight" if node.op == "relu" else None
            if before in group.norms or (before, 0) in group.members:
                found.setdefault(name, (number, name))
    return found


def _imported(program: Program) -> dict[str, tuple[Any, Axis]]:
    """The first activation of maps or vectors with the group's channels."""
    extents = program.extents()
    found: dict[str, tuple[Any, Axis]] = {}
    for number, node in enumerate(program.forms["eval"]):
        axis = node.layouts[0][1] if node.layouts and len(node.layouts[0]) in (2, 4) else None
        if node.name in ACTIVATIONS and axis is not None:
            for name in extents[axis].groups:
                found.setdefault(name, ({"eval": number}, axis))
    return found
