"""Batch normalisation that is fast with any number of channels."""

import torch
from torch import Tensor, nn

VECTOR = 16  # numbers that a register of a CPU holds at most
FEW = 24, 48  # channels, with one thread and with more
MANY = 2**17  # numbers: with fewer the calls take longer than the work
ROW = 256


class BatchNorm(nn.BatchNorm2d):
    """torch's, but for images in training on CPUs whose channels do not fill registers.

    There torch's kernel goes through a position's channels one by one, and its threads count in the
    same line of memory. This takes several positions together as if they were more channels, and
    adds up what it counted of each. It computes the same but for rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        together = self._together(x) if self.training else 1
        if together == 1:
            return super().forward(x)
        y, mean, variance = _Normalise.apply(x, self.weight, self.bias, self.eps, together)
        count = x.numel() // self.num_features
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        return y

    def _together(self, x: Tensor) -> int:
        """How many positions are taken together."""
        channels = self.num_features
        if (
            channels % VECTOR == 0
            or channels >= FEW[torch.get_num_threads() > 1]
            or x.numel() < MANY
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or not x.is_contiguous(memory_format=torch.channels_last)
        ):
            return 1
        positions, together = x.numel() // channels, 1
        while together * channels < ROW and positions % (2 * together) == 0:
            together *= 2
        return together


class _Normalise(torch.autograd.Function):
    """Normalised x, and the means and (biased) variances of its channels."""

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor, bias: Tensor, eps: float, together: int):
        count = x.numel() // len(weight)
        y = torch.empty_like(x)
        rows, out = _rows(x, together), _rows(y, together)
        mean = _total(rows, together) / count
        torch.sub(rows, mean.repeat(together), out=out)
        variance = _total(out.square(), together) / count
        inverse = (variance + eps).rsqrt()
        out.mul_((weight * inverse).repeat(together)).add_(bias.repeat(together))
        context.save_for_backward(x, weight, mean, inverse)
        context.together = together
        context.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(context, gradient: Tensor, *_):
        x, weight, mean, inverse = context.saved_tensors
        together, count = context.together, x.numel() // len(weight)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result = torch.empty_like(x)
        rows, given, out = (_rows(tensor, together) for tensor in (x, gradient, result))
        bias = _total(given, together)
        torch.mul(rows, given, out=out)
        scale = (_total(out, together) - mean * bias) * inverse
        # w/s (g - sum(g)/n - (x - m)/s sum(g (x - m)/s)/n) as one linear function of g and x
        by_gradient = weight * inverse
        by_x = -by_gradient * scale * inverse / count
        constant = -by_gradient * bias / count - by_x * mean
        torch.mul(rows, by_x.repeat(together), out=out)
        out.addcmul_(given, by_gradient.repeat(together)).add_(constant.repeat(together))
        return result, scale, bias, None, None


def _rows(x: Tensor, together: int) -> Tensor:
    """The channels of so many positions in a row."""
    return x.permute(0, 2, 3, 1).view(-1, together * x.shape[1])


def _total(rows: Tensor, together: int) -> Tensor:
    """By channel."""
    return rows.sum(0).view(together, -1).sum(0)
