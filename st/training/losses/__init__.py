"""Losses: what a network is trained towards. An objective is a weighted sum of them.

A loss is called with the student's outputs, the teacher's (None without a teacher) and the labels
(n,), and returns a scalar. Outputs are dicts of tensors by tap, of the loss's taps in their order:
`logits` (n, classes), `features` (n, channels: what the classifier reads), `stage1`...
(n, channels, height, width). Its attributes say what it needs:

- `teacher`: a teacher at all.
- `taps`: their names; or, where they depend on the network, a function of all taps that it has and
  of the loss's options.
- `soft`, True if labels may be probabilities (n, classes), as those of mixed images are, or if the
  loss does not look at labels. Others are refused where images are mixed.
- `parts`: options that are weights of what it consists of; not all may be 0.
- `recipe`, only where a loss looks at the training's recipe: the keys that it is called with.
- `adapter`, only where a loss has weights of its own: a function of a sample of the student's and
  the teacher's outputs, and of the options, that returns an nn.Module. It may use torch's random
  numbers, which are seeded for it. The loss gets the module as its fourth argument; it is trained
  like the student and is in no model file.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from st.core import registry
from st.core.errors import StError
from st.core.registry import closest
from st.core.types import Finite

Weight = Annotated[float, Finite(ge=0, le=1e6)]  # of a part of a loss
Temperature = Annotated[float, Finite(gt=0, le=1000)]


def taps_of(name: str, options: Mapping[str, Any], available: Iterable[str]) -> tuple[str, ...]:
    """What the loss `name` reads of a network that has the taps in `available`.

    Raises StError if one is missing.
    """
    available = tuple(available)
    try:
        wanted = registry.losses.ask(name, "taps", available, **options)
        for tap in wanted:
            if tap not in available:
                raise StError(f"the network has no '{tap}'; {closest(tap, available)}")
    except StError as error:
        raise StError(f"loss '{name}': {error}") from error
    return tuple(wanted)


def stages(available: Iterable[str], **options: Any) -> tuple[str, ...]:
    """All stages that a network has, in its order; as a loss's `taps`."""
    found = tuple(tap for tap in available if tap.startswith("stage"))
    if not found:
        raise StError(f"the network has no stages; known: {', '.join(available)}")
    return found


def last_stage(available: Iterable[str], **options: Any) -> tuple[str, ...]:
    """The network's last stage; as a loss's `taps`."""
    return stages(available)[-1:]


def same_size(x, y):
    """Maps (n, channels, height, width) averaged to the smaller height and width of the two."""
    from torch.nn.functional import adaptive_avg_pool2d

    size = tuple(min(a, b) for a, b in zip(x.shape[2:], y.shape[2:], strict=True))
    # untouched where the size is right: that is the rule, and pooling costs time
    return (m if m.shape[2:] == size else adaptive_avg_pool2d(m, size) for m in (x, y))
