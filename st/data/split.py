"""What the images are called that accuracies are of: the same words in all messages and figures."""

from collections.abc import Mapping
from typing import Any

TESTED = "test images"  # where nothing is in their place


def held_out(share: float, options: Mapping[str, Any]) -> str:
    """What is evaluated in place of the test part, '' if nothing is. `share`: the data set's
    `holdout`; `options`: the source's."""
    if share:
        return "held-out images"
    return "val images" if options.get("val") == "holdout" else ""


def evaluated(job: Mapping[str, Any]) -> str:
    """What accuracies are of, in messages: test images, or what `held_out` says. `job`: of the
    prepared data."""
    return held_out(job.get("holdout") or 0, job.get("options") or {}) or TESTED
