"""Modules put together at random: imported and pruned, they compute what they do with zeros."""

import numpy as np
import pytest
import torch
from helpers.importing import check, prepared, some_channels, structure_of
from helpers.modules import in_heads
from torch import nn
from torch.nn import functional as F

MOST = 32  # channels


def by_groups(x, groups):
    n, channels, height, width = x.shape
    return x.reshape(n, groups, channels // groups, height, width).transpose(1, 2).flatten(1, 2)


def by_pixels(x):
    n, channels, height, width = x.shape
    return (
        x.permute(0, 2, 3, 1).reshape(n, -1, channels).transpose(1, 2).unflatten(2, (height, width))
    )


def written(x, number):
    x = x.clone()
    x[:, : 1 + number % x.shape[1]] *= 2
    return x


def swapped(x, number):
    one, other = x.split(
        [1 + number % (x.shape[1] - 1), x.shape[1] - 1 - number % (x.shape[1] - 1)], 1
    )
    return torch.cat([F.relu(other), 2 * one], 1)


# of a value, another one, a divisor of the value's channels, and a number
FUNCTIONS = {
    "relu": lambda x, y, d, k: F.relu(x),
    "sigmoid": lambda x, y, d, k: torch.sigmoid(x),
    "rolled": lambda x, y, d, k: x.roll(k % x.shape[1], 1),
    "rolled by a part": lambda x, y, d, k: x.roll(x.shape[1] // d, 1),
    "flipped": lambda x, y, d, k: x.flip(1),
    "shuffled": lambda x, y, d, k: F.channel_shuffle(x, d),
    "in groups": lambda x, y, d, k: by_groups(x, d),
    "in heads": lambda x, y, d, k: in_heads(x, d),
    "in rows": lambda x, y, d, k: by_pixels(x),
    "written": lambda x, y, d, k: written(x, k),
    "swapped": lambda x, y, d, k: swapped(x, k),
    "sliced": lambda x, y, d, k: x[:, k % x.shape[1] // 2 :: 1 + k % 2],
    "indexed": lambda x, y, d, k: x[:, np.random.default_rng(k).permutation(x.shape[1]).tolist()],
    "largest": lambda x, y, d, k: x.unflatten(1, (d, -1)).amax(1),
    "averaged": lambda x, y, d, k: x.unflatten(1, (-1, d)).mean(2),
    "parts": lambda x, y, d, k: x.chunk(d, 1)[k % d],
    "halves": lambda x, y, d, k: F.glu(x, 1) if x.shape[1] % 2 == 0 else x,
    "repeated": lambda x, y, d, k: x.repeat(1, 2, 1, 1),
    "interleaved": lambda x, y, d, k: torch.stack([x, F.relu(x)], 2).flatten(1, 2),
    "doubled": lambda x, y, d, k: x.repeat_interleave(2, 1),
    "pixels": lambda x, y, d, k: F.pixel_unshuffle(F.interpolate(x, scale_factor=2), 2),
    "joined": lambda x, y, d, k: torch.cat([x, y], 1),
    "added": lambda x, y, d, k: x + y if x.shape == y.shape else x + x.flip(1),
    "larger": lambda x, y, d, k: torch.maximum(x, y.flip(1)) if x.shape == y.shape else x,
    "excited": lambda x, y, d, k: x * (y if x.shape == y.shape else x).mean((2, 3), True).sigmoid(),
}  # fmt: skip


class Scale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        return x * self.scale


class Rows(nn.Module):
    def __init__(self, channels, made):
        super().__init__()
        self.linear = nn.Linear(channels, made)

    def forward(self, x):
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


# of a number of channels, a divisor of it, and another number
LAYERS = {
    "convolution": lambda c, d, made: nn.Conv2d(c, made, 1),
    "wide convolution": lambda c, d, made: nn.Conv2d(c, made, 3, padding=1, bias=False),
    "groups": lambda c, d, made: nn.Conv2d(c, 2 * d, 1, groups=d),
    "depthwise": lambda c, d, made: nn.Conv2d(c, c, 3, padding=1, groups=c),
    "two of each": lambda c, d, made: nn.Conv2d(c, 2 * c, 1, groups=c),
    "norm": lambda c, d, made: nn.BatchNorm2d(c),
    "scale": lambda c, d, made: Scale(c),
    "rows": lambda c, d, made: Rows(c, made),
}


class Drawn(nn.Module):
    """Up to eight operations, each of values that are there; the last two values are classified."""

    def __init__(self, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.stem, self.layers = (
            nn.Conv2d(3, int(rng.choice([6, 8, 12])), 3, padding=1),
            nn.ModuleDict(),
        )
        self.plan: list[tuple] = []
        x = self.stem(torch.zeros(2, 3, 8, 8))
        values = [x]
        for _ in range(rng.integers(3, 9)):
            name = str(rng.choice([*FUNCTIONS, *LAYERS, *LAYERS]))
            one, other = (int(number) for number in rng.integers(len(values), size=2))
            channels = values[one].shape[1]
            divisor = int(rng.choice([d for d in range(1, channels + 1) if channels % d == 0]))
            number = int(rng.integers(1, 100))
            if channels < 2:
                continue
            step = (name, one, other, divisor, number)
            if name in LAYERS:
                key = f"{len(self.plan)} {name}"
                self.layers[key] = LAYERS[name](channels, divisor, int(rng.choice([4, 6, 8, 9])))
            y = self.run(len(self.plan), step, values)
            if y.shape[1] <= MOST:
                self.plan.append(step)
                values.append(y)
        self.head = nn.Linear(sum(value.shape[1] for value in values[-2:]), 5)

    def run(self, place, step, values):
        name, one, other, divisor, number = step
        if name in LAYERS:
            return self.layers[f"{place} {name}"](values[one])
        return FUNCTIONS[name](values[one], values[other], divisor, number)

    def forward(self, x):
        values = [self.stem(x)]
        for place, step in enumerate(self.plan):
            values.append(self.run(place, step, values))
        return self.head(torch.cat([value.mean((2, 3)) for value in values[-2:]], 1))


# 66, 134 and 213: what moves nothing until channels are removed
@pytest.mark.parametrize(
    "seeds",
    [
        (0, 66, 134, 213),
        *(pytest.param(range(n, n + 20), marks=pytest.mark.slow) for n in (0, 20, 40)),
    ],
)
def test_pruned_equals_zeroed(seeds):
    pruned = 0
    for seed in seeds:
        module = prepared(Drawn(seed))
        whole, values = structure_of(module)
        x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
        try:
            check(module, whole, values, x)
            for number in range(2):
                part = some_channels(whole, np.random.default_rng(number))
                small = check(module, part, values, x)
                assert part.cost()[0] == sum(p.numel() for p in small.parameters())
                pruned += bool(part.keep)
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"seed {seed}: {module.plan}: {error}") from error
    assert pruned >= len(seeds)
