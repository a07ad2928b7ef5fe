"""Correlation congruence (Peng et al. 2019, CCKD)."""

from math import exp, factorial
from typing import Annotated

from pydantic import Field

from st.core.registry import losses
from st.core.types import Finite


@losses.register
def cc(
    student,
    teacher,
    labels,
    *,
    gamma: Annotated[float, Finite(gt=0, le=100)] = 0.4,
    order: Annotated[int, Field(ge=1, le=10, strict=True)] = 2,
):
    """Squared distance of the two batches' correlation matrices, over n^2.

    Correlations are a Gaussian kernel of the normalised features, expanded to a Taylor series:
    K(x, y) = sum_{p=0}^{order} exp(-2 gamma) (2 gamma)^p / p! (x.y)^p. Features may have different
    widths: only (n, n) matrices are compared.
    """
    from torch.nn.functional import normalize

    def correlation(features):
        unit = normalize(features.float(), dim=1)
        cosine = unit @ unit.T
        return sum(
            exp(-2 * gamma) * (2 * gamma) ** p / factorial(p) * cosine**p for p in range(order + 1)
        )

    difference = correlation(teacher["features"]) - correlation(student["features"])
    return difference.square().mean()


cc.teacher, cc.taps = True, ("features",)
cc.soft = True
