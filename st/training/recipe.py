"""The training recipe: its keys in params.yaml, and the learning rate that follows from it."""

import math
from typing import Annotated, Literal

from pydantic import Field, create_model

from st.core.types import Finite, Flag, Fraction, Section, Whole


class Training(Section):
    """A training recipe."""

    epochs: Annotated[Whole, Field(ge=0, le=100_000)] = Field(
        160, description="Epochs; 0: weights are taken as they are."
    )
    batch_size: Annotated[Whole, Field(ge=2, le=65536)] = Field(
        64, description="Images a step; an epoch's incomplete last batch is left out."
    )
    lr: Annotated[float, Finite(gt=0, le=100)] = Field(0.1, description="Highest learning rate.")
    schedule: Literal["step", "cosine", "onecycle", "constant"] = Field(
        "step", description="How the learning rate changes over the training."
    )
    milestones: list[Annotated[float, Finite(gt=0, lt=1)]] = Field(
        [0.5, 0.75],
        description="step: when to multiply by `decay`, as fractions of the training, or of what "
        "`warmup` leaves of it.",
    )
    decay: Fraction = Field(0.1, description="step: the factor at each milestone.")
    warmup: Annotated[float, Finite(ge=0, lt=1)] = Field(
        0.0,
        description="The fraction of the training in which the learning rate rises from 0 to `lr`; "
        "the schedule takes the rest. 0.0164 is 5 of 305 epochs. Not for onecycle, which rises by "
        "itself.",
    )
    optimiser: Literal["sgd", "adamw"] = Field(
        "sgd",
        description="sgd: with momentum. adamw: Loshchilov & Hutter 2019, with torch's betas (0.9 "
        "and 0.999) and epsilon; it takes an `lr` of about 0.001.",
    )
    momentum: Annotated[float, Finite(ge=0, lt=1)] = Field(0.9, description="sgd: momentum.")
    nesterov: Flag = Field(False, description="sgd: Nesterov's momentum.")
    weight_decay: Annotated[float, Finite(ge=0, le=1)] = Field(
        1e-4, description="sgd: L2 penalty. adamw: decoupled decay, times the learning rate."
    )
    label_smoothing: Annotated[float, Finite(ge=0, lt=1)] = Field(
        0.0,
        description="The part of each label that cross-entropy (`ce`) spreads evenly over all "
        "classes; other losses see labels as they are.",
    )
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = Field(
        "auto",
        description="What networks compute in while they train; weights, losses and sums are "
        "float32. auto: bfloat16 on GPUs, float32 on CPUs, of which some have units for bfloat16 "
        "(AVX512-BF16, AMX) and others are slow with it. tf32: GPUs' float32 with 10 bits of "
        "precision in convolutions and products; on a CPU the same as float32.",
    )
    test_every: Annotated[Whole, Field(ge=0)] = Field(
        10,
        description="Epochs between test accuracies in history.csv (0: only after the last). They "
        "are for the curves; nothing is selected by them.",
    )


TrainingChange = create_model(  # type: ignore[call-overload]
    "TrainingChange",
    __base__=Section,
    __doc__="Changes to the training recipe; what is not given stays.",
    **{
        name: (
            field.rebuild_annotation() | None,
            Field(None, description=field.description),
        )
        for name, field in Training.model_fields.items()
    },
)


def learning_rate(recipe: Training, progress: float) -> float:
    """The learning rate when the fraction `progress` (0...1) of the training is done."""
    if recipe.schedule != "onecycle":  # which has a rise of its own
        if progress < recipe.warmup:
            return recipe.lr * progress / recipe.warmup
        progress = (progress - recipe.warmup) / (1 - recipe.warmup)
    if recipe.schedule == "step":
        passed = sum(progress >= milestone for milestone in recipe.milestones)
        return recipe.lr * recipe.decay**passed
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * progress)) / 2
    if recipe.schedule == "onecycle":
        # Smith & Topin 2018, with the usual 30 % rise from lr / 25
        if progress < 0.3:
            low = recipe.lr / 25
            return low + (recipe.lr - low) * (1 - math.cos(math.pi * progress / 0.3)) / 2
        return recipe.lr * (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2
    return recipe.lr
