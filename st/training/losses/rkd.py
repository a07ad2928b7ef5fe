"""Relational knowledge distillation (Park et al. 2019)."""

from st.core.registry import losses
from st.training.losses import Weight


@losses.register
def rkd(student, teacher, labels, *, distance: Weight = 25.0, angle: Weight = 50.0):
    """distance * Huber(d) + angle * Huber(cos), of student against teacher; the usual weight is 1.

    d_ij = |f_i - f_j| / mean over i != j, shape (n, n); cos_ijk is the cosine of the angle at f_i
    between f_j and f_k, shape (n, n, n). Both of the features f (n, channels), whose number may
    differ. Huber: x^2 / 2 up to 1, |x| - 1/2 beyond, mean over all pairs or triples (those with
    i = j or i = k add nothing). Time and memory grow with n^3.
    """
    from torch.nn.functional import normalize, smooth_l1_loss

    def differences(features):
        return features[None] - features[:, None]

    def distances(difference):
        norms = difference.norm(dim=2)
        pairs = max(1, len(norms) * (len(norms) - 1))
        # bounded: the features of a network that has collapsed are all the same
        return norms / (norms.sum() / pairs).clamp_min(1e-12)

    def cosines(difference):
        unit = normalize(difference, dim=2)
        return unit @ unit.transpose(1, 2)

    ours, theirs = differences(student["features"]), differences(teacher["features"])
    loss = distance * smooth_l1_loss(distances(ours), distances(theirs))
    if angle:
        loss = loss + angle * smooth_l1_loss(cosines(ours), cosines(theirs))
    return loss


rkd.teacher, rkd.taps = True, ("features",)
rkd.soft = True
rkd.parts = ("distance", "angle")
