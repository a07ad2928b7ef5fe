"""Similarity preserving (Tung & Mori 2019)."""

from st.core.registry import losses
from st.training.losses import last_stage


@losses.register
def sp(student, teacher, labels):
    """||G(student) - G(teacher)||_F^2 / n^2 at the last stage.

    G (n, n) are the inner products of the batch's maps, flattened to vectors, each row divided by
    its L2 norm. The maps' channels and sizes may differ. The usual weight is 3000.
    """
    from torch.nn.functional import normalize

    def similarities(maps):
        flat = maps.flatten(1)
        return normalize(flat @ flat.T, dim=1)

    (stage,) = student
    return (similarities(student[stage]) - similarities(teacher[stage])).square().mean()


sp.teacher, sp.taps = True, last_stage
sp.soft = True
