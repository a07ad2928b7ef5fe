"""Decoupled knowledge distillation (Zhao et al. 2022)."""

from st.core.registry import losses
from st.training.losses import Temperature, Weight


@losses.register
def dkd(
    student,
    teacher,
    labels,
    *,
    alpha: Weight = 1.0,
    beta: Weight = 8.0,
    temperature: Temperature = 4.0,
):
    """T^2 (alpha TCKD + beta NCKD), mean over the batch; the usual weight is 1.

    TCKD = KL of (p_y, 1 - p_y), the label y's probability against the rest; NCKD = KL of the
    probabilities among the other classes, p_i / (1 - p_y). p = softmax(logits / T), teacher against
    student. kd is the same with alpha 1 and beta 1 - p_y of the teacher. The authors let this loss
    grow over the first 20 epochs; here it is constant.
    """
    import torch
    from torch.nn.functional import kl_div, log_softmax

    classes = student["logits"].shape[1]
    label = labels[:, None]
    other = torch.arange(classes - 1, device=labels.device)
    other = other + (other >= label)  # (n, classes - 1): all classes but the label

    def logarithms(logits):
        logits = logits / temperature
        rest = logits.gather(1, other)
        binary = torch.cat([logits.gather(1, label), rest.logsumexp(1, keepdim=True)], 1)
        return log_softmax(binary, dim=1), log_softmax(rest, dim=1)

    (target, rest), (teacher_target, teacher_rest) = (
        logarithms(outputs["logits"]) for outputs in (student, teacher)
    )
    tckd = kl_div(target, teacher_target, reduction="batchmean", log_target=True)
    nckd = kl_div(rest, teacher_rest, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * tckd + beta * nckd)


dkd.teacher, dkd.taps = True, ("logits",)
dkd.parts = ("alpha", "beta")
