"""Probabilistic knowledge transfer (Passalis & Tefas 2018)."""

from st.core.registry import losses

EPSILON = 1e-7  # the authors'; a probability is 0 where two features are opposite


@losses.register
def pkt(student, teacher, labels):
    """mean_ij p_ij log(p_ij / q_ij), p the teacher's and q the student's probabilities (n, n).

    p_ij = k_ij / sum_j k_ij with the kernel k_ij = (1 + cos(f_i, f_j)) / 2 of the features f
    (n, channels), whose number may differ. The authors' program is followed, where pairs i = j
    count and the mean is over all n^2: the usual weight is 3e4.
    """
    from torch.nn.functional import normalize

    def probabilities(features):
        unit = normalize(features, dim=1)
        kernel = (1 + unit @ unit.T) / 2
        return kernel / kernel.sum(1, keepdim=True)

    p, q = probabilities(teacher["features"]), probabilities(student["features"])
    return (p * ((p + EPSILON) / (q + EPSILON)).log()).mean()


pkt.teacher, pkt.taps = True, ("features",)
pkt.soft = True
