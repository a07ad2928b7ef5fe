"""The objective of a training: a weighted sum of losses, and the weights that losses have."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from st.core import registry
from st.core.device import Device
from st.core.errors import StError
from st.core.seeds import derive
from st.training.losses import taps_of
from st.training.recipe import Training

Outputs = dict[str, Tensor]  # by tap


@dataclass
class Term:
    """A registered loss with its weight and options, and the taps that it reads."""

    loss: Any  # a function with attributes
    weight: float
    options: dict[str, Any]
    taps: tuple[str, ...]

    def read(self, outputs: Outputs | None) -> Outputs | None:
        """Those of a network's outputs that the loss reads; None stays None."""
        return outputs and {tap: outputs[tap] for tap in self.taps}


class Objective:
    """A weighted sum of registered losses.

    `spec`: as `st.config.params.objective` returns it. `available`: the taps of the network that is
    trained, from its input to its output; all networks have the default's. `recipe`: the
    training's, for losses that look at it.
    """

    def __init__(
        self,
        spec: dict[str, dict[str, Any]],
        available: Iterable[str] = ("features", "logits"),
        recipe: Training | None = None,
    ):
        available = tuple(available)
        self.terms: dict[str, Term] = {}
        for name, given in spec.items():
            options = {k: v for k, v in given.items() if k != "weight"}
            taps = taps_of(name, options, available)
            loss = registry.losses.get(name)
            for key in loss.recipe:
                options[key] = getattr(recipe or Training(), key)
            self.terms[name] = Term(loss, given["weight"], options, taps)
        read = {tap for term in self.terms.values() for tap in term.taps}
        self.taps = tuple(sorted(read | {"logits"}))  # the training accuracy needs them
        # the one through which the gradients of all terms go
        self.first = min(self.taps, key=list(available).index)
        self.teacher = any(term.loss.teacher for term in self.terms.values())
        self.adaptive = any(term.loss.adapter for term in self.terms.values())
        self.adapters = nn.ModuleDict()  # by loss

    def adapt(self, student: Outputs, teacher: Outputs | None, seed: int, device: Device) -> None:
        """Make the adapters, for networks with outputs like these. Of shapes, not of values: what
        they start from depends on `seed` alone."""
        for name, term in self.terms.items():
            if term.loss.adapter:
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(derive(seed, "adapter", name))
                    module = term.loss.adapter(
                        term.read(student), term.read(teacher), **term.options
                    )
                self.adapters[name] = device.place(module)

    def __call__(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> Outputs:
        """The unweighted terms by name, and their weighted sum as `loss`."""
        values = {}
        for name, term in self.terms.items():
            adapter = (self.adapters[name],) if name in self.adapters else ()
            values[name] = term.loss(
                term.read(student), term.read(teacher), labels, *adapter, **term.options
            )
            if not isinstance(values[name], Tensor) or values[name].ndim:
                raise StError(f"loss '{name}': must return a scalar tensor, the mean over a batch")
        return {"loss": sum(self.weighted(values).values()), **values}

    def weighted(self, values: Outputs) -> Outputs:
        """The terms as they are in the sum."""
        return {name: term.weight * values[name] for name, term in self.terms.items()}
