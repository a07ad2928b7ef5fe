"""First-order Taylor expansion at BatchNorm gates (Molchanov et al. 2019)."""

from typing import Annotated

import numpy as np
from pydantic import Field

from st.core.registry import criteria
from st.pruning.criteria import Scores, Subject, rows_of


@criteria.register
def taylor(
    subject: Subject,
    *,
    images: Annotated[int, Field(ge=1, strict=True)] = 1024,
    batch_size: Annotated[int, Field(ge=1, le=65536, strict=True)] = 64,
) -> Scores:
    """(gamma dL/dgamma + beta dL/dbeta)^2, averaged over batches of training images.

    The inner term is dL/dz of a gate z = 1 that multiplies the channel's normalised output: to
    first order, what removing the channel changes the loss by. Where no batch normalisation
    follows, the gate multiplies what the layer makes, so that its weights take the place of gamma.
    L is the cross-entropy; a batch's gradient is squared as a whole, as in the paper, so the scores
    depend on `batch_size`.
    """
    from torch.autograd import grad
    from torch.nn import functional as F

    from st.pruning.scoring import batches, build

    network, where = build(subject)
    graph, extents = subject.graph, subject.graph.extents()
    gated: dict[str, list[tuple[str, int]]] = {}
    for name, group in graph.groups.items():
        scales = [(norm, 0) for norm in group.norms] or group.members
        biases = {f"{scale.removesuffix('weight')}bias" for scale, _ in scales}
        # a layer that only reads the channels has a bias of others
        own = {
            tensor.name for tensor in graph.tensors()
            if len(tensor.axes) == 1 and tensor.axes[0] is not None
            and name in extents[tensor.axes[0]].groups
        }  # fmt: skip
        gated[name] = [*scales, *((bias, 0) for bias in sorted(biases & own))]
    totals = {name: np.zeros(width) for name, width in subject.widths.items()}
    wanted = {tensor for tensors in gated.values() for tensor, _ in tensors}
    # those that the module's maker froze are buffers
    held = [*network.named_parameters(), *network.named_buffers()]
    weights = {name: value.requires_grad_() for name, value in held if name in wanted}
    number = 0
    for batch, labels in batches(subject, where, images, batch_size):
        loss = F.cross_entropy(network(batch), labels)
        slopes = grad(loss, list(weights.values()), allow_unused=True)
        products = {
            name: (weight.detach() * slope).cpu().numpy()
            for (name, weight), slope in zip(weights.items(), slopes, strict=True)
            if slope is not None
        }
        for name, tensors in gated.items():
            used = [(tensor, axis) for tensor, axis in tensors if tensor in products]
            gates = [
                rows.sum(axis=1, dtype=np.float64)
                for rows in rows_of(subject, name, used, products)
            ]
            totals[name] += np.square(sum(gates))
        number += 1
    return {name: total / number for name, total in totals.items()}


taylor.data = True
