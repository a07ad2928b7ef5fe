"""Networks as data: what an architecture is before any tensor exists.

An architecture is a function that draws its network on a `Graph`. Everything else follows from the
drawing, without torch: which channel groups can be pruned and who consumes them, the number of
parameters and MACs of any pruned version, the shape of every tensor, and (in network.py) the
executable network. There is one description of a network and it cannot disagree with itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from st.core.errors import StError
from st.core.guest import explained
from st.core.registry import architectures
from st.networks.drawing import Axis, Drawing, Extent, Group, Keep, Tensor, Term

MOST_NODES = 100_000  # twelve times those of ResNet-1202: what has more is a mistake


@dataclass(frozen=True)
class Value:
    """The result of a node: its channels (a prunable group's, or a fixed number) and its size."""

    node: int
    channels: int
    height: int
    width: int
    group: str | None = None


@dataclass(frozen=True)
class Node:
    """One operation. `group_in` and `group_out` name the prunable groups of its channels."""

    op: str
    name: str
    inputs: tuple[int, ...]
    channels_in: int
    channels: int
    group_in: str | None = None
    group_out: str | None = None
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    spatial: bool = True  # False once the image has been pooled to a vector
    positions: int = 1  # output height x width: what a convolution's MACs multiply with


class Graph(Drawing):
    """A drawing surface for one network. Shapes leave out the batch: (channels, height, width).

    Drawing methods take and return `Value`s. A wrong call raises ValueError at once: whatever is
    drawn can be executed and has the drawn sizes then.
    """

    def __init__(self, input_shape: tuple[int, int, int], classes: int):
        channels, height, width = input_shape
        self.input_shape = (channels, height, width)
        self.classes = classes
        self.nodes: list[Node] = []
        self.groups: dict[str, Group] = {}
        self.taps: dict[str, int] = {}
        self._names: set[str] = set()
        self._modules: set[str] = set()  # that layers lie in, by the dots of their names
        self._values: list[Value] = []  # one for each node
        self.input = self._add("input", "input", (), channels, channels, height, width)

    def _add(self, op, name, inputs, channels_in, channels, height, width, **attributes) -> Value:
        if op in ("conv", "bn", "linear", "select"):
            self._name(name)
        if len(self.nodes) == MOST_NODES:
            raise ValueError(f"the network has more than {MOST_NODES:,} operations")
        group = attributes.get("group_out")
        node = Node(op, name, tuple(v.node for v in inputs), channels_in, channels, **attributes)
        self.nodes.append(node)
        self._values.append(Value(len(self.nodes) - 1, channels, height, width, group))
        return self._values[-1]

    def _name(self, name: str) -> None:
        """Take a layer's name. Dots make a tree of modules, in which only leaves are layers."""
        if not isinstance(name, str) or not all(name.split(".")):
            raise ValueError(f"a layer cannot be called {name!r}; an example: 'stage1.conv2'")
        if name in self._names:
            raise ValueError(f"two layers are called '{name}'")
        parts = name.split(".")
        modules = {".".join(parts[:number]) for number in range(1, len(parts))}
        if name in self._modules or modules & self._names:
            raise ValueError(f"layer '{name}' cannot lie within another layer, nor around one")
        self._names.add(name)
        self._modules |= modules

    def _check(self, x: Value, what: str, spatial: bool | None = None) -> None:
        """Raise ValueError unless `x` is a value of this graph; `spatial`: and an image, or not."""
        if not isinstance(x, Value):
            raise ValueError(f"{what} takes what a drawing method returned, not {x!r}")
        if not (x.node < len(self._values) and self._values[x.node] is x):
            raise ValueError(f"{what} was given a value of another graph")
        if spatial is not None and self.nodes[x.node].spatial != spatial:
            needed = "an image, not a pooled vector" if spatial else "a pooled vector, not an image"
            raise ValueError(f"{what} needs {needed}")

    def _read(self, name: str, x: Value) -> None:
        """A selection has no filters of its own: what reads it tells how much channels matter."""
        if x.group and self.groups[x.group].kind == "selection":
            self.groups[x.group].members.append((f"{name}.weight", 1))

    def _group(self, name: str, kind: str, size: int) -> str:
        self.groups[name] = Group(name, kind, size)
        return name

    def conv(
        self,
        name: str,
        x: Value,
        channels: int,
        kernel: int = 3,
        stride: int = 1,
        prunable: bool = False,
        padding: int | None = None,
    ) -> Value:
        """A convolution without bias, (size + 2 padding - kernel) // stride + 1 positions a side.

        `padding`: zeros on each side, by default (kernel - 1) // 2. Odd kernels then keep the size
        at stride 1, and an even one at a stride of its own size takes patches.
        """
        self._check(x, f"convolution '{name}'", spatial=True)
        _integers(f"convolution '{name}'", 1, channels=channels, kernel=kernel, stride=stride)
        if padding is None:
            padding = (kernel - 1) // 2
        _integers(f"convolution '{name}'", 0, padding=padding)
        height, width = (
            (side + 2 * padding - kernel) // stride + 1 for side in (x.height, x.width)
        )
        if min(height, width) < 1:
            raise ValueError(
                f"convolution '{name}': a kernel of {kernel} is too large for {x.height}x{x.width} "
                f"positions with a padding of {padding}"
            )
        group = self._group(name, "filters", channels) if prunable else None
        if prunable:
            self.groups[name].members.append((f"{name}.weight", 0))
        self._read(name, x)
        return self._add(
            "conv", name, (x,), x.channels, channels, height, width,
            group_in=x.group, group_out=group, kernel=kernel, stride=stride, padding=padding,
            positions=height * width,
        )  # fmt: skip

    def linear(self, name: str, x: Value, channels: int) -> Value:
        """A fully connected layer with bias, on a pooled vector."""
        self._check(x, f"linear layer '{name}'", spatial=False)
        _integers(f"linear layer '{name}'", 1, channels=channels)
        self._read(name, x)
        return self._add(
            "linear", name, (x,), x.channels, channels, 1, 1, group_in=x.group, spatial=False
        )

    def bn(self, name: str, x: Value) -> Value:
        """Batch normalisation; its scales are what network slimming ranks."""
        self._check(x, f"normalisation '{name}'")
        if x.group:
            self.groups[x.group].norms.append(f"{name}.weight")
        return self._same("bn", name, x)

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        self._check(x, "relu")
        return self._same("relu", "relu", x)

    def _same(self, op: str, name: str, x: Value) -> Value:
        return self._add(
            op, name, (x,), x.channels, x.channels, x.height, x.width,
            group_in=x.group, group_out=x.group, spatial=self.nodes[x.node].spatial,
        )  # fmt: skip

    def select(self, name: str, x: Value) -> Value:
        """A prunable choice of channels from a stream that keeps its width."""
        self._check(x, f"selection '{name}'", spatial=True)
        if x.group:
            raise ValueError(f"'{name}' selects from channels that are prunable already")
        group = self._group(name, "selection", x.channels)
        return self._add(
            "select", name, (x,), x.channels, x.channels, x.height, x.width, group_out=group
        )

    def max_pool(self, x: Value) -> Value:
        """2x2, stride 2; a side of length 1 can't shrink and the value is returned as it is."""
        return self._pool("max_pool", x)

    def avg_pool(self, x: Value) -> Value:
        """2x2, stride 2; as max_pool."""
        return self._pool("avg_pool", x)

    def _pool(self, op: str, x: Value) -> Value:
        self._check(x, op, spatial=True)
        if min(x.height, x.width) < 2:
            return x
        return self._add(
            op, op, (x,), x.channels, x.channels, x.height // 2, x.width // 2,
            group_in=x.group, group_out=x.group,
        )  # fmt: skip

    def global_pool(self, x: Value) -> Value:
        """The mean over all positions: (channels, height, width) to a vector."""
        self._check(x, "global_pool", spatial=True)
        return self._add(
            "global_pool", "global_pool", (x,), x.channels, x.channels, 1, 1,
            group_in=x.group, group_out=x.group, spatial=False,
        )  # fmt: skip

    def add(self, x: Value, y: Value) -> Value:
        """An element-wise sum of two values with fixed channels, as in a residual stream."""
        self._alike([x, y], "a sum")
        if x.channels != y.channels:
            raise ValueError(f"a sum needs as many channels, not {x.channels} and {y.channels}")
        return self._add(
            "add", "add", (x, y), x.channels, x.channels, x.height, x.width,
            spatial=self.nodes[x.node].spatial,
        )  # fmt: skip

    def concat(self, values: list[Value]) -> Value:
        """Channels side by side, as in a dense stream; each value keeps its width."""
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"a concatenation takes a list of values, not {values!r}")
        self._alike(values, "a concatenation")
        channels = sum(v.channels for v in values)
        first = values[0]
        return self._add(
            "concat", "concat", tuple(values), channels, channels, first.height, first.width,
            spatial=self.nodes[first.node].spatial,
        )  # fmt: skip

    def _alike(self, values: Iterable[Value], what: str) -> None:
        """Raise ValueError unless these values have fixed channels and the same size."""
        for value in values:
            self._check(value, what)
        if any(v.group for v in values):
            raise ValueError(f"{what} needs fixed channels")
        sizes = [
            f"{v.height}x{v.width}" if self.nodes[v.node].spatial else "a vector" for v in values
        ]
        if len(set(sizes)) > 1:
            raise ValueError(f"{what} needs values of one size, not {' and '.join(sizes)}")

    def shortcut(self, x: Value, channels: int, stride: int) -> Value:
        """ResNet's shortcut without parameters (He et al. 2016, option A): subsample, pad zeros.

        Where the block's output is narrower, the outer channels, which padding adds, are dropped.
        """
        self._check(x, "a shortcut", spatial=True)
        _integers("a shortcut", 1, channels=channels, stride=stride)
        if x.group:
            raise ValueError("a shortcut needs fixed channels")
        height, width = -(-x.height // stride), -(-x.width // stride)
        return self._add(
            "shortcut", "shortcut", (x,), x.channels, channels, height, width, stride=stride
        )

    def tap(self, name: str, x: Value) -> Value:
        """Name an intermediate value, so that losses can ask for it."""
        self._check(x, f"tap '{name}'")
        if name in ("features", "logits"):
            raise ValueError(f"tap '{name}' is made by head()")
        if name in self.taps:
            raise ValueError(f"two taps are called '{name}'")
        self.taps[name] = x.node
        return x

    def head(self, x: Value, name: str = "classifier") -> None:
        """The end of the network: pooled features (tap `features`), then the logits."""
        self._check(x, "the head")
        if "logits" in self.taps:
            raise ValueError("a network has one head")
        features = self.global_pool(x) if self.nodes[x.node].spatial else x
        self.taps["features"] = features.node
        self.taps["logits"] = self.linear(name, features, self.classes).node

    # What follows is read off the finished drawing.

    def extents(self) -> dict[str, Extent]:
        """Of axes that groups are: each has all channels of one group."""
        return {name: Extent(0, {name: 1}) for name in self.groups}

    def positions(self, keep: Keep) -> Mapping[str, np.ndarray]:
        """The channels of each group that are kept."""
        return {
            name: keep[name] if name in keep else np.arange(group.size)
            for name, group in self.groups.items()
        }

    def places(self, axis: Axis, group: str, keep: Keep) -> np.ndarray:
        """In their order; see Drawing."""
        return np.arange(len(keep[group]) if group in keep else self.groups[group].size)[:, None]

    def terms(self) -> list[Term]:
        """Of layers with weights."""
        found = []
        for n in self.nodes:
            if n.op == "bn":
                found.append(_term(n, 2, 0, n.group_out or n.channels))
            elif n.op in ("conv", "linear"):
                each, out = n.kernel**2 or 1, n.group_out or n.channels
                found.append(_term(n, each, each * n.positions, out, n.group_in or n.channels_in))
                if n.op == "linear":
                    found.append(_term(n, 1, 0, out))
        return found

    def tensors(self) -> list[Tensor]:
        """Every parameter and buffer of the full network, named as in its checkpoints."""
        found = []
        for n in self.nodes:
            out = n.group_out
            if n.op == "conv":
                shape: tuple[int, ...] = (n.channels, n.channels_in, n.kernel, n.kernel)
                axes = (out, n.group_in, None, None)
                found.append(Tensor(f"{n.name}.weight", shape, axes, "convolution"))
            elif n.op == "linear":
                shape = (n.channels, n.channels_in)
                found.append(Tensor(f"{n.name}.weight", shape, (out, n.group_in), "linear"))
                found.append(Tensor(f"{n.name}.bias", shape[:1], (out,), "bias"))
            elif n.op == "bn":
                for suffix, role in (
                    ("weight", "scale"),
                    ("bias", "shift"),
                    ("running_mean", "mean"),
                    ("running_var", "variance"),
                ):
                    found.append(Tensor(f"{n.name}.{suffix}", (n.channels,), (out,), role))
                found.append(Tensor(f"{n.name}.num_batches_tracked", (), (), "count", "int64"))
        return found

    def heads(self) -> list[str]:
        """Of the linear layer that `head` adds; see Drawing."""
        name = self.nodes[self.taps["logits"]].name
        return [f"{name}.weight", f"{name}.bias"]


def _term(node: Node, params: int, macs: int, *lengths: str | int) -> Term:
    """Of lengths that are groups, or fixed."""
    fixed = prod(n for n in lengths if isinstance(n, int))
    axes = tuple(n for n in lengths if isinstance(n, str))
    return Term(node.name, params * fixed, macs * fixed, axes)


def _integers(what: str, least: int, **numbers: object) -> None:
    """Raise ValueError unless these arguments of a drawing method are integers from `least` on."""
    for name, number in numbers.items():
        # numpy's integers would overflow in costs, and JSON does not take them
        if type(number) is not int or number < least:
            raise ValueError(
                f"{what}: '{name}' must be an integer of at least {least}, not {number!r}"
            )


def draw(family: str, options: Mapping, input_shape: tuple[int, int, int], classes: int) -> Graph:
    """The full network of an architecture; raises StError if its options contradict each other, or
    if its function, which may be a plugin's, fails in any way."""
    graph = Graph(input_shape, classes)
    complete = architectures.check(family, dict(options))
    try:
        architectures.get(family)(graph, **complete)
        if "logits" not in graph.taps:
            raise ValueError("must end with head(), which makes the logits")
    except (StError, MemoryError):
        raise
    except Exception as error:
        raise StError(f"architecture '{family}': {explained(error, 'cannot be drawn')}") from error
    return graph
