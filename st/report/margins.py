"""How much more accurate one method is than another, and how surely: paired by seed and by image.

Two things are samples: the seeds, of all trainings there could be, and the test images, of all
images there could be. With D[s, i] in {-1, 0, 1} the difference of the two methods' answers to
image i at seed s, the mean over both has the variance of a crossed two-way layout,

    var_seed / S + var_image / N + var_rest / (S N),

estimated from the means of rows, the means of columns and what is left (as an analysis of variance
does). An interval adds the two parts' half-widths in quadrature, Student's t with S - 1 degrees of
freedom for the part that S seeds tell of, the normal distribution for the part that N images do
(the MOVER of Zou & Donner 2008). So one seed gives no interval, and many seeds one that still holds
the sampling of the images.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from st.data.split import TESTED

CONFIDENCE = 0.95
# Test images that a verdict needs: of fewer, not even differences all of one sign would exclude
# chance at 95 % (2 * 0.5^5 > 0.05, McNemar's exact test).
LEAST_IMAGES = 6
MOST_SEEDS = 1000  # that `seeds_needed` looks at


@dataclass(frozen=True, eq=False)
class Margin:
    """Accuracy of one method minus another's, in points.

    `one`, `other`: whether each test image was classified correctly, bool (seeds, images); the same
    seeds and images in both. `split`: what these images are called.
    """

    one: np.ndarray
    other: np.ndarray
    split: str = TESTED

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.one)

    @property
    def images(self) -> int:
        """Number of test images."""
        return self.one.shape[1]

    @cached_property
    def by_seed(self) -> np.ndarray:
        """Points, (seeds,)."""
        # counts first: equal numbers of errors are no margin, not a rounding error of one
        return 100 * (self.one.sum(1) - self.other.sum(1)) / self.images

    @property
    def mean(self) -> float:
        """Mean over the seeds, in points."""
        return float(self.by_seed.mean())

    @property
    def wins(self) -> int:
        """Seeds in which the first is better."""
        return int((self.by_seed > 0).sum())

    @property
    def ties(self) -> int:
        """Seeds in which both classify the same number of images correctly."""
        return int((self.by_seed == 0).sum())

    @property
    def mcnemar(self) -> list[tuple[int, int]]:
        """By seed: images that only `one` classified correctly, and only `other`."""
        only_one, only_other = self.one & ~self.other, self.other & ~self.one
        return [(int(a), int(b)) for a, b in zip(only_one.sum(1), only_other.sum(1), strict=True)]

    @cached_property
    def variances(self) -> tuple[float, float]:
        """(of a seed's margin, of the mean over seeds due to the images), in squared points.

        The first has the images' part that changes from seed to seed in it, the second only what
        all seeds share. Undefined for one seed.
        """
        count, images = self.one.shape
        points = 100 * (self.one.astype(np.int8) - self.other.astype(np.int8))
        rows, columns = points.mean(1), points.mean(0)
        # sum of squares about rows and columns, without a float copy of all points
        total = float(np.square(points, dtype=np.float64).sum()) - count * images * self.mean**2
        between_rows = images * float(np.square(rows - self.mean).sum())
        between_columns = count * float(np.square(columns - self.mean).sum())
        rest = max(total - between_rows - between_columns, 0) / ((count - 1) * max(images - 1, 1))
        of_columns = between_columns / count / max(images - 1, 1)
        # A seed's margin varies at least as much as its own images make it, however equal a few
        # seeds happen to be.
        of_seed = max(between_rows / images / (count - 1), rest / images)
        return of_seed, max(of_columns - rest / count, 0) / images

    def half_width(self, confidence: float = CONFIDENCE, seeds: int | None = None) -> float:
        """Of the interval in points; infinite for one seed, or less than LEAST_IMAGES. `seeds`: if
        there were so many."""
        if self.seeds < 2 or self.images < LEAST_IMAGES:
            return np.inf
        from scipy.special import ndtri, stdtrit  # scipy.stats takes a second to import

        count, upper = seeds or self.seeds, (1 + confidence) / 2
        of_seed, of_images = self.variances
        return float(
            np.hypot(
                stdtrit(count - 1, upper) * np.sqrt(of_seed / count),
                ndtri(upper) * np.sqrt(of_images),
            )
        )

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Of the margin in points, None where its width is infinite. No margin is above 100."""
        half = self.half_width(confidence)
        if not np.isfinite(half):
            return None
        return max(self.mean - half, -100.0), min(self.mean + half, 100.0)

    def sign(self, confidence: float = CONFIDENCE) -> int:
        """1 or -1 where the interval excludes zero, otherwise 0: it is not decided."""
        if abs(self.mean) <= self.half_width(confidence):
            return 0
        return 1 if self.mean > 0 else -1

    def p_value(self) -> float:
        """The smallest level (1 - confidence) whose interval excludes zero, to 1e-9."""
        low, high = 0.0, 1.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (low, middle) if self.sign(1 - middle) else (middle, high)
        return high

    def seeds_needed(self, confidence: float = CONFIDENCE) -> int | None:
        """How many seeds would exclude zero, if margin and spread stayed as they are; None where
        these do, where there is but one to judge by, and where not even MOST_SEEDS would, because
        there are too few images."""
        if self.seeds < 2 or self.sign(confidence):
            return None
        for count in range(self.seeds + 1, MOST_SEEDS + 1):
            if self.half_width(confidence, count) < abs(self.mean):
                return count
        return None

    def why_undecided(self, confidence: float = CONFIDENCE) -> str:
        """Why it is not decided at this confidence, and what would decide it."""
        if self.seeds == 1:
            return "one seed has no spread to judge it by; three or more would"
        if self.images < LEAST_IMAGES:
            return f"{self.images} {self.split} are too few to decide anything"
        if (self.one == self.other).all():
            return "both classify the same images correctly"
        if self.mean == 0:
            return "the margin is zero in these seeds, which does not say how many would decide it"
        needed = self.seeds_needed(confidence)
        which = "corrected interval" if confidence > CONFIDENCE + 1e-9 else "interval"
        if needed is None:
            return (
                f"the {which} contains zero, and the {self.images:,} {self.split} are too few to "
                "decide so small a difference with any number of seeds"
            )
        return (
            f"the {which} contains zero; about {needed} seeds would decide it, if margin and "
            "spread stay as they are"
        )

    def __str__(self) -> str:
        text = f"{signed(self.mean)} points"
        found = self.interval()
        if found:
            text += f", {100 * CONFIDENCE:.0f} % interval {between(found)}"
        text += f", better in {self.wins} of {self.seeds} seed{'s' * (self.seeds > 1)}"
        return text + (f" and equal in {self.ties}" if self.ties else "")


def signed(number: float) -> str:
    """Two decimals, always with a sign; -0.00 is 0.00."""
    text = f"{number:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def between(interval: tuple[float, float]) -> str:
    """An interval's two ends, in points."""
    return f"{signed(interval[0])} to {signed(interval[1])}"
