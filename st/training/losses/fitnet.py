"""FitNets' hints (Romero et al. 2015)."""

from typing import Annotated

from pydantic import Field

from st.core.registry import losses
from st.training.losses import same_size, stages

Stage = Annotated[int, Field(ge=1, le=1000, strict=True)] | None


def hinted(available, stage=None):
    """The stage whose maps are compared."""
    known = stages(available)
    return (known[(len(known) - 1) // 2] if stage is None else f"stage{stage}",)


@losses.register
def fitnet(student, teacher, labels, adapter, *, stage: Stage = None):
    """mean (r(student) - teacher)^2 over the maps (n, channels, height, width) of one stage.

    r, the adapter, is learned along: a 1x1 convolution from the student's channels to the
    teacher's, then batch normalisation. `stage`: its number; by default the middle one, the lower
    of two. The authors train on hints first and on the labels afterwards; here, as in RepDistiller
    (Tian et al. 2020), the hint is a term of the objective. The usual weight is 100.
    """
    from torch.nn.functional import mse_loss

    (tap,) = student
    return mse_loss(*same_size(adapter(student[tap]), teacher[tap]))


def regressor(student, teacher, stage=None):
    """RepDistiller's, without its ReLU: not all families' stages end in one. With the convolution
    alone most trainings diverge at the usual weight, because maps may be of any scale."""
    from torch import nn

    (tap,) = student
    channels = teacher[tap].shape[1]
    return nn.Sequential(
        nn.Conv2d(student[tap].shape[1], channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels),
    )


fitnet.teacher, fitnet.taps, fitnet.adapter = True, hinted, regressor
fitnet.soft = True
