"""Knowledge distillation (Hinton et al. 2015)."""

from st.core.registry import losses
from st.training.losses import Temperature


@losses.register
def kd(student, teacher, labels, *, temperature: Temperature = 4.0):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    T^2 keeps the gradients' size when the temperature changes.
    """
    from torch.nn.functional import kl_div, log_softmax

    log_student = log_softmax(student["logits"] / temperature, dim=1)
    log_teacher = log_softmax(teacher["logits"] / temperature, dim=1)
    divergence = kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


kd.teacher, kd.taps = True, ("logits",)
kd.soft = True
