"""Networks that people write, small: torch modules to import."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


def block(channels_in, channels, kernel=3, groups=1):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class Small(nn.Module):
    """A stem of 8 channels, a function of it and of some modules with 8 channels, a classifier."""

    def __init__(self, function, *parts):
        super().__init__()
        self.stem, self.parts, self.function = block(3, 8), nn.ModuleList(parts), function
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.function(self.stem(x), *self.parts).mean((2, 3)))


class Plain(nn.Module):
    """Any function of some modules."""

    def __init__(self, function, *parts):
        super().__init__()
        self.parts, self.function = nn.ModuleList(parts), function

    def forward(self, x):
        return self.function(x, *self.parts)


def excite(x, one, two):
    return x * torch.sigmoid(two(F.relu(one(F.adaptive_avg_pool2d(x, 1)))))


def shuffle(x, one, two, groups=2):
    n, c, h, w = x.shape
    return two(one(x).view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w))


def halves(x, one, two):
    first, second = x.chunk(2, 1)
    return torch.cat([one(first), second], 1) + two(x)


def uneven(x, one):
    first, second = x.split([3, 5], 1)
    return torch.cat([second, one(first)], 1)


def attention(heads, fused):
    def function(x, qkv, out):
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        parts = qkv(tokens).reshape(n, h * w, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        if fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * (c // heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        y = out(y.transpose(1, 2).reshape(n, h * w, c))
        return x + y.transpose(1, 2).reshape(n, c, h, w)

    return Small(function, nn.Linear(8, 24), nn.Linear(8, 8))


class Shuffled(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.tensor([5, 0, 1, 7, 6, 2, 3, 4]))
        self.inner = block(8, 8)

    def forward(self, x):
        return x + self.inner(x.index_select(1, self.order))[:, self.order]


def in_heads(x, heads):
    """Maps weighed by their means, in a view by heads."""
    n, channels, height, width = x.shape
    y = x.reshape(n, heads, channels // heads, height * width)
    return (y * torch.sigmoid(y.mean(-1, keepdim=True))).reshape(n, channels, height, width)


def inner_products(x):
    """Of halves that are written to: what is removed is not zero any more."""
    x[:, :].add_(1)
    one, other = x.chunk(2, 1)
    return (one * other).sum(1, keepdim=True)


def grouped_queries(x, qkv, out):
    n, c, h, w = x.shape
    q, k, v = qkv(x.flatten(2).transpose(1, 2)).split([8, 4, 4], -1)
    q = q.reshape(n, h * w, 4, 2).transpose(1, 2)
    k, v = (p.reshape(n, h * w, 2, 2).transpose(1, 2).repeat_interleave(2, 1) for p in (k, v))
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
    return x + out(y).transpose(1, 2).reshape(x.shape)


def linear_attention(x, qkv, out):
    n, c, h, w = x.shape
    q, k, v = qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    y = q @ (k.transpose(1, 2) @ v) / (q @ k.sum(1).unsqueeze(-1))
    return x + out(y).transpose(1, 2).reshape(n, c, h, w)


def selective(x, one, two, weights):
    """Selective kernels: a softmax over two branches."""
    y = torch.stack([one(x), two(x)], 1)
    w = weights(y.sum(1).mean((2, 3))).view(x.shape[0], 2, -1).softmax(1)
    return (y * w[:, :, :, None, None]).sum(1)


def along_channels(x, conv):
    """Efficient channel attention: a convolution along the channels."""
    s = conv(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2))
    return x * s.transpose(-1, -2).unsqueeze(-1).sigmoid()


def spatial_attention(x, conv):
    return x * conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


def written(x, one):
    y = one(x) * 1
    y[:, :2] += 1
    return y.mul_(2) + x


class Scales(nn.Module):
    """Parameters that are added and multiplied, per channel, per entry and once."""

    def __init__(self):
        super().__init__()
        self.channel = nn.Parameter(torch.rand(8, 1, 1))
        self.entry = nn.Parameter(torch.rand(1, 8, 8, 8))
        self.single = nn.Parameter(torch.rand(1))

    def forward(self, x):
        return x + self.channel * (x + self.entry) * self.single


def weighted(x, scales, one):
    """Branches by the positive part of a parameter."""
    return one(x) * F.relu(scales.single) + x


def by_image(x, attention, kernels):
    """A mixture of kernels for each image, run as groups of one image."""
    n, c, h, w = x.shape
    shares = attention(x.mean((2, 3))).softmax(-1)
    weight = (shares @ kernels.weight.reshape(2, -1)).reshape(n * c, c, 3, 3)
    return F.conv2d(x.reshape(1, n * c, h, w), weight, padding=1, groups=n).view(n, c, h, w)


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Normalised(nn.Conv2d):
    """Weights that are normalised by filter, as in networks without normalisation layers."""

    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Depth(nn.Module):
    """Stochastic depth, which is another network in evaluation."""

    def __init__(self):
        super().__init__()
        self.inner = block(8, 8)

    def forward(self, x):
        if not self.training:
            return x + self.inner(x)
        return x + self.inner(x) * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(0.8) / 0.8


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.c.weight, self.head = self.b.weight, nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.c(F.relu(self.b(F.relu(self.a(x))))).mean((2, 3)))


class Names(nn.Module):
    """Parts that are called as attributes of networks and layers are."""

    def __init__(self):
        super().__init__()
        self.structure, self.foldable, self.graph = block(3, 8), nn.Linear(8, 6), nn.Linear(6, 5)
        self.random = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("constants", torch.rand(8, 1, 1))
        self.weight = nn.Parameter(torch.rand(6, 6))  # a linear layer with parts within
        self.foldable.out_features = nn.Linear(6, 6)

    def forward(self, x):
        x = self.structure(x) * self.random + self.constants * torch.tensor([1.0, 2]).sum()
        x = F.linear(F.relu(self.foldable(x.mean((2, 3)))), self.weight)
        return self.graph(F.relu(self.foldable.out_features(x)))


def non_local(x, one, two, three):
    q, k, v = (part(x).flatten(2).transpose(1, 2) for part in (one, two, three))
    return x + torch.bmm((q @ k.transpose(1, 2)).softmax(-1), v).transpose(1, 2).reshape(x.shape)


def between(function, made=6, read=6):
    """`function` of what one block makes and another reads."""
    return Small(lambda x, a, b: b(function(a(x))), block(8, made), block(read, 8))


def layer_between(layer, made=12):
    return Small(lambda x, a, b, c: c(b(a(x))), block(8, made), layer, block(made, 8))


def _without_gradients(x):
    with torch.no_grad():
        return x.mean((2, 3), keepdim=True)


def _in_float32(x):
    with torch.autocast("cpu", enabled=False):
        return x.mean((2, 3), keepdim=True)


# the module, and the sizes of the groups that can be pruned
CASES = {
    "squeeze and excite": (lambda: Small(excite, nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)), [8, 4]),
    "depthwise": (lambda: layer_between(nn.Conv2d(12, 12, 3, padding=1, groups=12)), [8, 12, 8]),
    "depthwise, two each": (
        lambda: Small(lambda x, a, b: b(a(x)), block(8, 16, groups=8), block(16, 8)),
        [8, 8],
    ),
    "grouped": (
        lambda: Small(lambda x, a, b: b(a(x)), block(8, 12, groups=2), block(12, 8, groups=4)),
        [4, 3, 2],
    ),
    "one channel a group": (
        lambda: Small(lambda x, a, b: b(a(x)), nn.Conv2d(8, 4, 1, groups=4), block(4, 8)),
        [4, 8],
    ),
    "shuffle": (lambda: Small(shuffle, block(8, 8), block(8, 8)), [8, 8, 8]),
    "torch's shuffle": (lambda: between(lambda x: F.channel_shuffle(x, 3)), [8, 6, 8]),
    "halves": (lambda: Small(halves, block(4, 4), block(8, 8)), [4, 4, 4]),
    "uneven parts": (lambda: Small(uneven, block(3, 3)), [3, 5, 3]),
    "padded channels": (
        lambda: Small(
            lambda x, a, b: b(a(x) + F.pad(x, (0, 0, 0, 0, 4, 4))), block(8, 16), block(16, 8)
        ),
        [8],
    ),
    "attention": (lambda: attention(2, True), [8, 4]),
    "attention, one head": (lambda: attention(1, True), [8, 8]),
    "attention of products": (lambda: attention(4, False), [8, 4]),
    "non-local": (
        lambda: Small(non_local, nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 1)),
        [8, 4],
    ),
    "selective": (lambda: Small(selective, block(8, 8), block(8, 8), nn.Linear(8, 16)), [8, 8]),
    "along channels": (
        lambda: Small(along_channels, nn.Conv1d(1, 1, 3, padding=1, bias=False)),
        [],
    ),
    "spatial attention": (lambda: Small(spatial_attention, nn.Conv2d(2, 1, 1)), [8]),
    "written in place": (lambda: Small(written, block(8, 8)), []),
    "used twice": (lambda: Small(lambda x, a: a(a(x)), block(8, 8)), [8]),
    "flattened maps": (
        lambda: Plain(
            lambda x, *parts: nn.Sequential(*parts)(x), block(3, 6), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(96, 9), nn.ReLU(), nn.Linear(9, 5),
        ),
        [6, 9],
    ),
    "squeezed": (
        lambda: Plain(
            lambda x, a, b: b(F.adaptive_avg_pool2d(a(x), 1).squeeze()), block(3, 6),
            nn.Linear(6, 5),
        ),
        [6],
    ),
    "tied": (Tied, [8]),
    "names": (Names, [8, 6, 6, 6]),
    "scales": (lambda: Small(lambda x, a: a(x), Scales()), [8]),
    "standardised weights": (
        lambda: Small(lambda x, a, b: b(a(x)), Standardised(8, 6, 1), Standardised(6, 8, 1)),
        [8, 6, 8],
    ),
    "normalised weights": (
        lambda: Small(lambda x, a, b: b(F.relu(a(x))), Normalised(8, 6, 3), Normalised(6, 8, 1)),
        [8, 6, 8],
    ),
    "group norm": (lambda: layer_between(nn.GroupNorm(3, 12)), [8, 4, 8]),
    "instance norm": (lambda: layer_between(nn.InstanceNorm2d(12, affine=True)), [8, 12, 8]),
    "group norm of one": (lambda: layer_between(nn.GroupNorm(12, 12)), [8, 12, 8]),
    "prelu": (lambda: layer_between(nn.PReLU(12)), [8, 12, 8]),
    "single prelu": (lambda: layer_between(nn.PReLU()), [8, 12, 8]),
    "stochastic depth": (lambda: Small(lambda x, a: a(x), Depth()), [8]),
    "zeros": (
        lambda: between(lambda x: x + x.new_zeros(x.shape[0], x.shape[1], 1, 1)),
        [8, 6, 8],
    ),
    "one dimension": (
        lambda: Plain(
            lambda x, a, b, c: c(b(F.gelu(a(x.flatten(1, 2)))).amax(-1)), nn.Conv1d(24, 8, 3),
            nn.Conv1d(8, 6, 3, 2), nn.Linear(6, 5),
        ),
        [8, 6],
    ),
    "channels last": (
        lambda: Small(
            lambda x, a, b: x + b(F.gelu(a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2),
            nn.Linear(8, 16), nn.Linear(16, 8),
        ),
        [8, 16],
    ),
    "transposed": (
        lambda: Small(
            lambda x, a, b: b(F.relu(a(x))), nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(6, 8, 2, 2)
        ),
        [8, 6, 8],
    ),
    "glu": (lambda: between(lambda x: F.glu(x, 1), 12), [8, 6, 8]),
    "maximum of halves": (lambda: between(lambda x: torch.max(*x.chunk(2, 1)), 12), [8, 6, 8]),
    "maxout": (lambda: between(lambda x: x.unflatten(1, (6, 2)).amax(2), 12), [8, 6, 8]),
    "pixel shuffle": (lambda: between(lambda x: F.pixel_shuffle(x, 2), 24), [8, 6, 8]),
    "pixel unshuffle": (lambda: between(lambda x: F.pixel_unshuffle(x, 2), 6, 24), [8, 6, 8]),
    "repeated": (lambda: between(lambda x: x.repeat(1, 2, 1, 1), 6, 12), [8, 6, 8]),
    "flipped": (lambda: between(lambda x: x.flip(1)), [8, 6, 8]),
    "ellipses": (
        lambda: between(lambda x: torch.einsum("...hw, wk -> ...hk", x, x.new_ones(8, 8))),
        [8, 6, 8],
    ),
    "implicit sum": (
        lambda: Plain(
            lambda x, a, b: torch.einsum("c...,kc", a(x).mean((2, 3)).T, b.weight),
            block(3, 8), nn.Linear(8, 5, bias=False),
        ),
        [8],
    ),
    "sorted along rows": (lambda: between(lambda x: x.sort(2)[0] + x.topk(8, 3)[0]), [8, 6, 8]),
    "broadcast": (
        lambda: between(lambda x: torch.where(x > 1, x, 0) * x.amax(3, True).broadcast_to(x.shape)),
        [8, 6, 8],
    ),
    "logarithms": (lambda: between(F.logsigmoid), [8, 6, 8]),
    "turned": (lambda: between(lambda x: x.rot90(1, (2, 3))), [8, 6, 8]),
    "bilinear": (
        lambda: Plain(lambda x, a, b, c: c(b(a(x).mean((2, 3)), a(x).amax((2, 3)))),
            block(3, 8), nn.Bilinear(8, 8, 6), nn.Linear(6, 5),
        ),
        [8, 6],
    ),
    "rolled": (lambda: between(lambda x: x.roll(2, 1).roll(3, 2)), [8, 6, 8]),
    # each channel goes with those of other heads, whose places the labels take: they look the same
    "rolled by a head": (lambda: between(lambda x: in_heads(x.roll(4, 1), 2), 8, 8), [8, 4, 8]),
    "rolled by heads": (lambda: between(lambda x: in_heads(x.roll(8, 1), 3), 12, 12), [8, 4, 8]),
    # nothing moves, but with fewer channels it would
    "rolled by all": (lambda: between(lambda x: x.roll(8, 1), 8, 8), [8, 8, 8]),
    "shuffled one by one": (lambda: between(lambda x: F.channel_shuffle(x, 8), 8, 8), [8, 8, 8]),
    "narrow to all": (lambda: between(lambda x: x.narrow(1, 0, 8), 8, 8), [8, 8, 8]),
    "rolled by all and more": (lambda: between(lambda x: x.roll((8, 2), (1, 2)), 8, 8), [8, 8]),
    "sliced": (lambda: between(lambda x: x[:, 1:7:2], 8, 3), [8, 5, 3, 8]),
    "interpolated": (lambda: between(lambda x: F.interpolate(x, scale_factor=2)), [8, 6, 8]),
    "chosen": (lambda: between(lambda x: torch.where(x > 0.5, x, x * 2)), [8, 6, 8]),
    "expanded": (lambda: between(lambda x: x * x.amax((2, 3), True).expand_as(x)), [8, 6, 8]),
    "softmax of channels": (lambda: between(lambda x: x.softmax(1)), [8, 8]),
    "sums of channels": (lambda: between(lambda x: x.cumsum(1)), [8, 8]),
    "normalised channels": (lambda: between(lambda x: F.normalize(x, dim=1)), [8, 6, 8]),
    "indexed": (lambda: between(lambda x: x[:, [3, 1, 0]], 6, 3), [8, 3, 3, 8]),
    "shuffled by a buffer": (lambda: Small(lambda x, a: a(x), Shuffled()), [8]),
    "windows": (
        lambda: Small(
            lambda x, a, b: b(F.fold(a(F.unfold(x, 2, stride=2).mT).mT, 8, 2, stride=2)),
            nn.Linear(32, 24), block(6, 8),
        ),
        [8, 6, 8],
    ),
    "groups of queries": (
        lambda: Small(grouped_queries, nn.Linear(8, 16), nn.Linear(8, 8)),
        [8, 2],
    ),
    "written to": (
        lambda: Small(lambda x, a: x + inner_products(a(x)), nn.Conv2d(8, 12, 1)),
        [8, 6],
    ),
    "one channel for all": (lambda: between(lambda x: x * x[:, 2:3]), [8, 5, 8]),
    "no gradients": (lambda: between(lambda x: x * _without_gradients(x)), [8, 6, 8]),
    "no autocast": (lambda: between(lambda x: x * _in_float32(x)), [8, 6, 8]),
    "weights of branches": (lambda: Small(weighted, Scales(), block(8, 8)), [8]),
    "kernels of each image": (
        lambda: Small(by_image, nn.Linear(8, 2), nn.Conv2d(8, 16, 3, bias=False)),
        [],
    ),
    **{
        name: (
            lambda norm=norm: Small(
                lambda x, a, b: b(F.relu(a(x))), norm(nn.Conv2d(8, 6, 3)), norm(nn.Conv2d(6, 8, 1))
            ),
            [8, 6, 8],
        )
        for name, norm in {
            "spectral norm": spectral_norm, "weight norm": weight_norm,
            "spectral norm by hooks": nn.utils.spectral_norm,
            "weight norm by hooks": nn.utils.weight_norm,
        }.items()
    },
    "linear attention": (
        lambda: Small(linear_attention, nn.Linear(8, 24), nn.Linear(8, 8)),
        [8, 8, 8],
    ),
    "products over channels": (
        lambda: Small(lambda x, a, b: x + (a(x) * b(x)).sum(1, keepdim=True), *(block(8, 6),) * 2),
        [8, 6],
    ),
    "exponentials over channels": (
        lambda: Small(lambda x, a: x + a(x).exp().sum(1, keepdim=True), nn.Conv2d(8, 6, 1)),
        [8, 6],
    ),
    "cosines of classes": (
        lambda: Plain(
            lambda x, a, b: F.linear(
                F.normalize(a(x).mean((2, 3))), F.normalize(b.weight), b.bias
            ),
            block(3, 8), nn.Linear(8, 5),
        ),
        [8],
    ),
    "constants": (
        lambda: between(lambda x: x / torch.tensor([2.0, 3.0]).repeat(3).view(-1, 1, 1)),
        [8, 2, 8],
    ),
    "no rule": (lambda: between(lambda x: x.sort(1)[0]), [8, 8]),
}  # fmt: skip
