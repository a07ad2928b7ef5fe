"""First-order Taylor expansion at BatchNorm gates (Molchanov et al. 2019)."""

from typing import Annotated, Any

from pydantic import Field

from st.core.registry import criteria
from st.pruning.criteria import Scores, Subject


@criteria.register
def taylor(
    subject: Subject,
    *,
    images: Annotated[int, Field(ge=1, strict=True)] = 1024,
    batch_size: Annotated[int, Field(ge=1, le=65536, strict=True)] = 64,
) -> Scores:
    """(gamma dL/dgamma + beta dL/dbeta)^2, averaged over batches of training images.

    The inner term is dL/dz of a gate z = 1 that multiplies the channel's normalised output: to
    first order, what removing the channel changes the loss by. L is the cross-entropy; a batch's
    gradient is squared as a whole, as in the paper, so the scores depend on `batch_size`.
    """
    import torch
    from torch.nn import functional as F

    from st.pruning.scoring import batches, build

    network, where = build(subject)
    norms: dict[str, list[Any]] = {
        name: [network.get_submodule(norm) for norm in group.norms]
        for name, group in subject.graph.groups.items()
    }
    totals = {
        name: torch.zeros(width, dtype=torch.float64) for name, width in subject.widths.items()
    }
    number = 0
    for batch, labels in batches(subject, where, images, batch_size):
        network.zero_grad()
        F.cross_entropy(network(batch), labels).backward()
        for name, layers in norms.items():
            gate: Any = sum(
                norm.weight.detach() * norm.weight.grad + norm.bias.detach() * norm.bias.grad
                for norm in layers
            )
            totals[name] += gate.double().square().cpu()
        number += 1
    return {name: (total / number).numpy() for name, total in totals.items()}


taylor.data = True
