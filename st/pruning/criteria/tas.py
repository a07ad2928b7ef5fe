"""Transformable Architecture Search (Dong & Yang 2019): widths and depths by gradient descent."""

from typing import Annotated

from pydantic import Field

from st.core.errors import StError
from st.core.progress import say
from st.core.registry import criteria
from st.core.types import Finite, Flag, Fraction, Whole
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.selection import Budget
from st.pruning.tas.space import check_limits, likeliest, read, shaped

WIDTHS = [0.3, 0.5, 0.7, 0.8, 0.9, 1.0]
TEMPERATURES = [5.0, 0.1]  # the first epoch's, and what the last ones come near


@criteria.register
def tas(
    subject: Subject,
    *,
    epochs: Annotated[Whole, Field(ge=1, le=100_000)] = 100,
    batch_size: Annotated[Whole, Field(ge=2, le=65536)] = 64,
    lr: Annotated[float, Finite(gt=0, le=100)] = 0.1,
    weight_decay: Annotated[float, Finite(ge=0, le=1)] = 5e-4,
    crop: Annotated[Whole, Field(ge=0, le=64)] = 0,
    flip: Flag = False,
    widths: Annotated[list[Fraction], Field(min_length=1, max_length=64)] = WIDTHS,
    temperature: Annotated[
        list[Annotated[float, Finite(gt=0, le=1000)]], Field(min_length=2, max_length=2)
    ] = TEMPERATURES,
    architecture_lr: Annotated[float, Finite(gt=0, le=10)] = 1e-3,
    architecture_weight_decay: Annotated[float, Finite(ge=0, le=1)] = 1e-3,
    macs_weight: Annotated[float, Finite(ge=0, le=1000)] = 2.0,
) -> Structure:
    """The likeliest widths and depths with 95 to 100 % of the MACs that the budget allows.

    Every convolution of C channels may have `widths` x C of them, and a stage of residual blocks
    may end after any of its candidate depths. The probabilities p = softmax(a) of all candidates
    are learned with the weights of a network that holds them all:

    - A step draws two widths of every layer without replacement, by the Gumbel-softmax of a at a
      `temperature` that falls by a cosine over the epochs. The layer's output is the sum of its
      outputs at these widths, aligned by channel-wise interpolation (adaptive average pooling over
      channels) and weighted by their renormalised probabilities. A stage's output is that of all
      its candidate depths, weighted by their Gumbel-softmax.
    - One half of the training images trains the weights (SGD with Nesterov's momentum, cosine
      schedule), in turns with the other half, which trains the a (Adam). It minimises
      cross-entropy + `macs_weight` x cost, where cost is log E[MACs] while the likeliest network
      has more MACs than the target, -log E[MACs] while it has less than 95 % of it, else 0.
    - At the end, of all choices with 95 to 100 % of the target's MACs the most probable is taken:
      the likeliest of all, if it is one of them.

    The supernet of the search is only read for its architecture: this network has its own weights,
    which are thrown away. `crop` and `flip` augment as a data set's settings do.

    Differences from the paper: the target is an upper bound, not the middle of +-5 %, and the
    penalty changes sign there, as in the authors' code; its zone without a penalty is 5 % of the
    target wide, as in the paper (the authors' script makes it 5 % of the whole network's MACs, so
    wider). The expected MACs are exact, where the authors' code leaves out that
    a stage's depth changes the width that the next one reads. Every block's last convolution is
    searched, as theirs is, so the residual stream's width changes; their shortcuts then have 1x1
    convolutions, these have no parameters: channels are padded with zeros or dropped. The candidate
    depths, a batch normalisation for each width, and Adam's betas are those of the authors' code.
    They search for 600 epochs of batches of 256; small data sets need a higher `architecture_lr`.
    They then train the found network by the recipe `epochs: 305, warmup: 0.0164, schedule: cosine,
    batch_size: 256, weight_decay: 5.0e-4, nesterov: true`.

    Raises StError if the family can't be searched, the budget has no MACs or can't be met, or the
    found network exceeds the budget's parameters.
    """
    options = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay,
        "crop": crop, "flip": flip, "temperature": temperature, "macs_weight": macs_weight,
        "architecture_lr": architecture_lr, "architecture_weight_decay": architecture_weight_decay,
    }  # fmt: skip
    full = subject.structure
    suits(full, subject.budget, widths=widths, temperature=temperature)
    space = read(full, widths)
    max_params, target, _ = subject.budget.limits(full.graph)
    if subject.data is None:
        raise StError("criterion 'tas' needs the prepared data; give --data")
    from st.pruning.tas.loop import search

    probabilities = search(
        full, space, target, options, subject.data, subject.seed,
        subject.device, subject.threads, subject.state,
    )  # fmt: skip
    free = [int(row.argmax()) for row in probabilities]
    choice = likeliest(space, probabilities, target)
    found = shaped(full, space, choice)
    params, macs = found.cost()
    say(
        f"the likeliest network has {space.chosen_macs(free) / target:.1%} of the target's MACs, "
        f"the likeliest that meets it {macs / target:.1%}"
    )
    if params > max_params:
        raise StError(
            f"criterion 'tas': the found network has {params:,} parameters, the budget allows "
            f"{max_params:,.0f}; it searches by MACs only: raise the budget's params or drop them"
        )
    return found


def suits(
    full: Structure, budget: Budget, *, widths: list[float], temperature: list[float], **options
) -> None:
    """Raise StError if the search can't succeed whatever the data."""
    if budget.macs is None:
        raise StError("criterion 'tas': needs the budget's macs")
    for bound, why in (("channels", "does not count channels"), ("latency", "measures nothing")):
        if getattr(budget, bound) is not None:
            raise StError(f"criterion 'tas': {why}; leave out the budget's {bound}")
    if temperature[0] < temperature[1]:
        raise StError(f"criterion 'tas': temperature: must fall, not rise as {temperature} does")
    check_limits(full, read(full, widths), budget.limits(full.graph)[:2])


tas.ranks = False
tas.drawn = True
tas.inherits = False
tas.data = True
tas.suits = suits
