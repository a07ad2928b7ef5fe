"""Attention transfer (Zagoruyko & Komodakis 2017)."""

from st.core.registry import losses
from st.training.losses import same_size, stages


@losses.register
def at(student, teacher, labels):
    """sum over stages of mean (q(student) - q(teacher))^2, mean over batch and positions.

    q, shape (n, height * width), is the attention map: the mean over channels of the squared
    activations, divided by its L2 norm. So channels may differ in number; where sizes differ, the
    larger maps are averaged down first. The scale is RepDistiller's (Tian et al. 2020): the usual
    weight is 1000.
    """
    from torch.nn.functional import normalize

    def attention(maps):
        return normalize(maps.square().mean(1).flatten(1), dim=1)

    total = 0
    for stage in student:
        ours, theirs = same_size(student[stage], teacher[stage])
        total = total + (attention(ours) - attention(theirs)).square().mean()
    return total


at.teacher, at.taps = True, stages
at.soft = True
