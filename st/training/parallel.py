"""One training by several processes, with the result of one.

Each process holds the whole data set and draws the same order and views of it, so nothing is sent
but what follows from the images: every process passes its part of a batch through the networks,
and then

- batch normalisation takes mean and variance over all parts,
- the outputs of all parts are gathered, and every process computes the objective of the whole
  batch, because losses may relate any two of its images. Its gradient goes on to the own part only,
- the gradients of the network's weights, each process having its part's, are added up.

So what the processes have, and what one process has, differs by rounding alone. Gradients travel
as one tensor in one call: torch's DistributedDataParallel would average what is to be added, and
overlap sending with a backward pass that waits for batch normalisation at every layer anyway.
"""

import atexit
import os
import socket
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from st.core.device import Device
from st.core.errors import StError
from st.training.launch import Abandoned, Member

TIMEOUT = timedelta(minutes=30)  # for a process that neither goes on nor ends


class Group:
    """The processes of a training. All of them must call the same methods in the same order.

    Methods raise Abandoned if a process is gone.
    """

    def __init__(self, member: Member, device: Device):
        self.rank, self.size, self._device = member.rank, member.processes, device
        # They meet in a file, and talk through loopback and the GPUs' own links.
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
        os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
        if device.is_cuda:
            torch.cuda.set_device(device.name)
        self._call(
            distributed.init_process_group,
            "nccl" if device.is_cuda else "gloo",
            init_method=f"file://{member.folder}/store",
            rank=self.rank,
            world_size=self.size,
            timeout=TIMEOUT,
        )
        # its threads must end before the interpreter does, also after an error
        atexit.register(distributed.destroy_process_group)

    def parts(self, images: int) -> list[int]:
        """How many of a batch's images each process takes: they differ by one at most."""
        if images < self.size:
            raise StError(
                f"{self.size} processes cannot share batches of {images} images; use fewer "
                "processes or a larger training.batch_size"
            )
        return [len(range(rank, images, self.size)) for rank in range(self.size)]

    def part(self, images: int) -> slice:
        """The images of a batch that this process takes."""
        parts = self.parts(images)
        start = sum(parts[: self.rank])
        return slice(start, start + parts[self.rank])

    def gather(self, outputs: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """A network's outputs by tap for all of a batch's `images`, from those for the parts."""
        flat = torch.cat([value.flatten(1) for value in outputs.values()], 1)
        columns = [value[0].numel() for value in outputs.values()]
        pieces = _Gather.apply(flat, self, images).split(columns, 1)
        return {
            tap: piece.unflatten(1, value.shape[1:])
            for (tap, value), piece in zip(outputs.items(), pieces, strict=True)
        }

    def add_gradients(self, weights: Iterable[Tensor], whole: Iterable[Tensor]) -> None:
        """Add up the gradients of `weights` over the processes. Those of `whole`, some of them,
        are of the whole batch in each process already: the leader's are taken."""
        for weight in whole if self.rank else ():
            if weight.grad is not None:
                weight.grad.zero_()
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        total = self.add(torch.cat([gradient.flatten() for gradient in gradients]))
        pieces = total.split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def add(self, value: Tensor) -> Tensor:
        """The sum of all processes' values, in place: to the bit the same in each."""
        self._call(distributed.all_reduce, value)
        return value

    def collect(self, value: Tensor) -> list[Tensor]:
        """All processes' values, of one shape."""
        values = [torch.empty_like(value) for _ in range(self.size)]
        self._call(distributed.all_gather, values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. None returns before all have asked."""
        return bool(self.add(torch.tensor(float(flag), device=self._device.name)))

    def verify(self, state: str, modules: Iterable[nn.Module]) -> None:
        """Raise StError unless all processes are in the same state and have the same weights."""
        digest = sha256(state.encode())
        for module in modules:
            for value in module.state_dict().values():
                digest.update(value.cpu().contiguous().numpy().tobytes())
        own = torch.tensor(list(digest.digest()), device=self._device.name)
        if self.any(bool((self.collect(own)[0] != own).any())):
            raise StError("the processes read different files: did one change? Run it again")

    def normalise_together(self, network: nn.Module) -> None:
        """Let all batch normalisations of `network` use the statistics of all processes."""
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.forward = partial(_normalised, module, self)  # type: ignore[method-assign]

    @staticmethod
    def _call(function: Callable, *arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except RuntimeError as error:  # torch's errors of communication are such
            reason = str(error).strip().partition("\n")[0]
            raise Abandoned(f"lost touch with another process ({reason})") from error


class _Gather(torch.autograd.Function):
    """(part, columns) of each process to (images, columns) in all."""

    @staticmethod
    def forward(ctx, value: Tensor, group: Group, images: int) -> Tensor:
        ctx.part, parts = group.part(images), group.parts(images)
        padded = F.pad(value, (0, 0, 0, max(parts) - len(value)))
        received = group.collect(padded.contiguous())
        return torch.cat([rows[:count] for rows, count in zip(received, parts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.part], None, None


class _Normalise(torch.autograd.Function):
    """Batch normalisation of a part, and the mean and unbiased variance of the whole batch."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, group: Group, eps: float):
        axes, channels = [0, *range(2, x.dim())], x.shape[1]
        variance, mean = torch.var_mean(x.float(), axes, correction=0)
        count = mean.new_full((1,), x.numel() // channels)
        collected = torch.stack(group.collect(torch.cat([mean, variance, count])))
        means, variances, counts = collected.split([channels, channels, 1], 1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean).square()) * counts).sum(0) / total
        ctx.group, ctx.eps = group, eps
        ctx.save_for_backward(x, weight, mean, variance, total)
        unbiased = variance * (total / (total - 1))
        ctx.mark_non_differentiable(mean, unbiased)
        # with given statistics, as in evaluation: torch's own kernels, forward and backward
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, unbiased

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        x, weight, mean, variance, total = ctx.saved_tensors
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # the part of the gradient that goes through the statistics, which all parts have made
        sums = ctx.group.add(torch.cat([of_weight, of_bias])) / total
        along, level = sums.chunk(2)
        deviation = (variance + ctx.eps).rsqrt()
        shape = (-1, *[1] * (x.dim() - 2))
        level, along = weight * deviation * level, weight * deviation.square() * along
        through = (x - mean.view(shape)) * along.view(shape) + level.view(shape)
        return (direct - through).to(x.dtype), of_weight, of_bias, None, None


def _normalised(module: Any, group: Group, x: Tensor) -> Tensor:
    """The forward pass of `module`, a batch normalisation."""
    if not module.training:
        return type(module).forward(module, x)
    y, mean, variance = _Normalise.apply(x, module.weight, module.bias, group, module.eps)
    with torch.no_grad():
        module.running_mean.lerp_(mean, module.momentum)
        module.running_var.lerp_(variance, module.momentum)
        module.num_batches_tracked += 1
    return y
