"""bfloat16 copies of a network's weights, for its training."""

import torch
from torch import Tensor, nn

from st.networks.layers import Executable
from st.training.objective import Outputs


class Copies:
    """A network that computes in bfloat16, with copies of its weights in that format.

    autocast casts each weight in every step, and each gradient back: two kernels a layer, where
    here are three for all. Values are the same.
    """

    def __init__(self, network: Executable):
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        found = {id(w) for layer in layers for w in layer.parameters()}
        named = {n: w for n, w in network.named_parameters() if id(w) in found}
        self._network = network
        self._weights: list[Tensor] = list(named.values())
        self._copies = {n: w.detach().bfloat16().requires_grad_() for n, w in named.items()}
        self._gradients = [torch.zeros_like(weight) for weight in self._weights]

    def __call__(self, batch: Tensor, taps: tuple[str, ...]) -> Outputs:
        """The network's outputs by tap."""
        for copy in self._copies.values():  # a capture that failed leaves some behind
            copy.grad = None
        return torch.func.functional_call(self._network, self._copies, (batch, taps))

    def hand_over(self) -> None:
        """Give the weights the gradients of their copies."""
        pairs = zip(self._weights, self._gradients, self._copies.values(), strict=True)
        # a layer that no loss depends on has none
        used = [(w, own, c.grad) for w, own, c in pairs if c.grad is not None]
        torch._foreach_copy_([own for _, own, _ in used], [gradient for *_, gradient in used])
        for weight, own, _ in used:
            weight.grad = own

    def refresh(self) -> None:
        """Take over the weights' values."""
        with torch.no_grad():
            torch._foreach_copy_(list(self._copies.values()), self._weights)
