"""One training by several processes, with the result of one.

Each process holds the whole data set and draws the same order and views of it, so nothing is sent
but what follows from the images: every process passes its part of a batch through the networks,
and then

- batch normalisation takes mean and variance over all parts (torch's SyncBatchNorm on GPUs),
- the outputs of all parts are gathered, and every process computes the objective of the whole
  batch, because losses may relate any two of its images. Its gradient goes on to the own part only,
- torch's DistributedDataParallel averages the gradients of the network's weights, each process
  having its part's. The sum is meant: so gradients are multiplied by the number of processes where
  they leave the objective.

What the processes have, and what one process has, differs by rounding alone.
"""

import atexit
import os
import socket
from collections.abc import Iterable
from datetime import timedelta
from hashlib import sha256
from typing import Self

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from st.core.device import Device
from st.core.errors import StError
from st.networks.layers import Executable, Uncounted
from st.training.launch import Abandoned, Member

TIMEOUT = timedelta(minutes=30)  # for a process that neither goes on nor ends


class Group:
    """The processes of a training. All of them must call the same methods in the same order.

    As a context it turns the errors of communication within it into Abandoned.
    """

    def __init__(self, member: Member, device: Device):
        self.rank, self.size, self._device = member.rank, member.processes, device
        if member.neighbours == member.processes:
            # on one machine they talk through loopback and the GPUs' own links
            names = (name for _, name in socket.if_nameindex() if name.startswith("lo"))
            loopback = next(names, "lo")
            os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
        if device.is_cuda:
            torch.cuda.set_device(device.name)
        with self:
            distributed.init_process_group(
                "nccl" if device.is_cuda else "gloo",
                init_method=f"file://{member.folder}/store" if member.folder else "env://",
                rank=self.rank,
                world_size=self.size,
                timeout=TIMEOUT,
            )
        # its threads must end before the interpreter does, also after an error
        atexit.register(distributed.destroy_process_group)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        # gloo's errors have no type of their own
        lost = isinstance(error, distributed.DistError)
        if lost or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            reason = str(error).strip().partition("\n")[0]
            raise Abandoned(f"lost touch with another process ({reason})") from error

    def parts(self, images: int) -> list[int]:
        """How many of a batch's images each process takes: they differ by one at most.

        Raises StError if there are fewer images than processes.
        """
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

    def share(self, network: Executable) -> nn.Module:
        """`network` as a module whose gradients are averaged over the processes in each backward
        pass. To be called when all have the same weights (`verify`)."""
        return DistributedDataParallel(network)

    def gather(self, outputs: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """A network's outputs by tap for all of a batch's `images`, from those for the parts."""
        # one tensor: then all weights that lead to any of them have a gradient, as DDP expects
        flat = torch.cat([value.flatten(1) for value in outputs.values()], 1)
        columns = [value[0].numel() for value in outputs.values()]
        pieces = _Gather.apply(flat, self, images).split(columns, 1)
        return {
            tap: piece.unflatten(1, value.shape[1:])
            for (tap, value), piece in zip(outputs.items(), pieces, strict=True)
        }

    def lead(self, weights: Iterable[Tensor]) -> None:
        """Give all processes the leader's gradients of weights that every process has computed
        from the whole batch: they may differ by rounding, and then the weights would."""
        for weight in weights:
            assert weight.grad is not None
            distributed.broadcast(weight.grad, 0)

    def add(self, value: Tensor) -> Tensor:
        """The sum of all processes' values, in place: to the bit the same in each."""
        distributed.all_reduce(value)
        return value

    def collect(self, value: Tensor) -> list[Tensor]:
        """All processes' values, of one shape."""
        values = [torch.empty_like(value) for _ in range(self.size)]
        distributed.all_gather(values, value)
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


class _Gather(torch.autograd.Function):
    """(part, columns) of each process to (images, columns) in all.

    Not torch.distributed.nn's all_gather: its backward pass sends gradients, which here every
    process has already.
    """

    @staticmethod
    def forward(ctx, value: Tensor, group: Group, images: int) -> Tensor:
        ctx.size, ctx.part, parts = group.size, group.part(images), group.parts(images)
        padded = F.pad(value, (0, 0, 0, max(parts) - len(value)))
        received = group.collect(padded.contiguous())
        return torch.cat([rows[:count] for rows, count in zip(received, parts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.size * gradient[ctx.part], None, None  # DistributedDataParallel divides by it


def normalise_together(network: Executable, device: Device) -> None:
    """Let all batch normalisations of `network` use the statistics of all processes. Raises
    StError if an imported network has some that are no layers."""
    if network.st_loose_norms:
        raise StError(
            "the network normalises batches outside of torch's BatchNorm layers, which several "
            "processes cannot do together; train it with --processes 1"
        )

    def together(layer: nn.Module) -> nn.Module:
        if not isinstance(layer, _BatchNorm):
            return layer
        if device.is_cuda:
            return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
        layer.__class__ = Normalisation  # with its weights and settings
        return layer

    network.st_exchange(together)


class _Sum(torch.autograd.Function):
    """The sum of all processes' values; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class Normalisation(Uncounted):
    """Batch normalisation over all processes on CPUs, where torch's SyncBatchNorm does not run."""

    def forward(self, x: Tensor) -> Tensor:
        """As torch's, with the statistics of all processes' batches."""
        if not self.training:
            return super().forward(x)
        axes, shape = [0, *range(2, x.dim())], (-1, *[1] * (x.dim() - 2))
        values = x.float()
        count = _Sum.apply(values.new_tensor(x.numel() // x.shape[1]))
        mean = _Sum.apply(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)
