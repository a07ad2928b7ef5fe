"""Cross-entropy with the labels."""

from st.core.registry import losses


@losses.register
def ce(student, teacher, labels, label_smoothing=0.0):
    """Mean over the batch. `label_smoothing`: the recipe's, as torch's."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(student["logits"], labels, label_smoothing=label_smoothing)


ce.teacher, ce.taps, ce.recipe = False, ("logits",), ("label_smoothing",)
ce.soft = True
