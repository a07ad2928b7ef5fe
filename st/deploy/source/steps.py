"""What a network computes, step by step, whoever drew it: what its source code is written from.

A step is a layer with weights or an expression; each lies in a module, as the dots of names say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from st.core.errors import StError
from st.networks.graph import Graph
from st.networks.graph import Node as Drawn
from st.networks.structure import Structure

NONE = object()  # no default


class Value(NamedTuple):
    """The result of a step, or with 0 the network's input, in an expression."""

    number: int


class Held(NamedTuple):
    """A parameter or buffer in an expression."""

    name: str


class Slot(NamedTuple):
    """A number in an expression or an argument, which may differ between modules that are else
    alike; `name`: what a constructor's argument for it may be called."""

    name: str
    value: Any


Part = str | Value | Held | Slot


class Argument(NamedTuple):
    """Of a layer's constructor; `default` is what it has if it is not given."""

    name: str
    value: Any
    default: Any = NONE
    by_name: bool = True


@dataclass(frozen=True)
class Layer:
    """A module of torch's (or `Select`), made by calling `callee`."""

    callee: str
    arguments: tuple[Argument, ...] = ()


@dataclass
class Step:
    """Makes the values `makes` (several are unpacked, None is not needed).

    `path`: the module that it lies in; of a layer with weights its own name. `parts`: its
    expression; of a layer its only argument. `loose`: whether the expression must be put in
    brackets within another one. `module`: a module that does the same, for chains of modules.
    """

    makes: list[int | None]
    path: str
    parts: list[Part]
    layer: Layer | None = None
    loose: bool = False
    module: Layer | None = None

    @property
    def inputs(self) -> list[int]:
        """The values that it reads, as often as it does."""
        return [part.number for part in self.parts if isinstance(part, Value)]

    @property
    def held(self) -> list[str]:
        """The parameters and buffers that its expression names."""
        return [part.name for part in self.parts if isinstance(part, Held)]


@dataclass
class Source:
    """A network to be written. `output`: the value that is the logits. `tensors`: parameters and
    buffers that lie in no layer: shape, type, whether it is trained. `order`: whether some step
    writes into what others read, so that the order of steps matters. `notes`: for its reader."""

    steps: list[Step]
    output: int
    tensors: dict[str, tuple[tuple[int, ...], str, bool]] = field(default_factory=dict)
    order: bool = False
    notes: list[str] = field(default_factory=list)


def container(path: str) -> str:
    """The module that holds what has this name."""
    return path.rpartition(".")[0]


def shared(paths: Iterable[str]) -> str:
    """The innermost module that all of these lie in, or are."""
    split = [path.split(".") if path else [] for path in paths]
    common = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def convolution(
    kind: str, channels: tuple[int, int], kernel: Any, stride: Any, padding: Any, dilation: Any = 1,
    groups: int = 1, bias: bool = True,
) -> Layer:  # fmt: skip
    """torch's layer. `channels`: in, out; pairs of equal numbers are written as one."""
    return Layer(
        f"nn.{kind}",
        (
            Argument("in", channels[0], by_name=False),
            Argument("out", channels[1], by_name=False),
            Argument("kernel_size", plain(kernel), by_name=False),
            Argument("stride", plain(stride), 1),
            Argument("padding", plain(padding), 0),
            Argument("dilation", plain(dilation), 1),
            Argument("groups", groups, 1),
            Argument("bias", bias, True),
        ),
    )


def linear(channels: tuple[int, int], bias: bool) -> Layer:
    """torch's layer. `channels`: in, out."""
    ends = [Argument("in", channels[0], by_name=False), Argument("out", channels[1], by_name=False)]
    return Layer("nn.Linear", (*ends, Argument("bias", bias, True)))


def batch_norm(kind: str, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> Layer:
    """torch's layer."""
    return Layer(
        f"nn.{kind}",
        (
            Argument("channels", channels, by_name=False),
            Argument("eps", eps, 1e-5),
            Argument("momentum", momentum, 0.1),
        ),
    )


def plain(value: Any) -> Any:
    """A pair of equal numbers as one, lists as tuples."""
    if isinstance(value, list | tuple):
        return value[0] if len(set(value)) == 1 else tuple(value)
    return value


def drawn(structure: Structure) -> Source:
    """The source of a network that an architecture's function drew."""
    graph, widths = structure.graph, structure.widths
    assert isinstance(graph, Graph)
    same: dict[int, int] = {}  # selections of everything are what they select from
    steps: list[Step] = []
    paths = _containers(graph.nodes)
    for number, node in enumerate(graph.nodes[1:], start=1):
        inputs = [Value(same.get(i, i)) for i in node.inputs]
        channels_in = widths.get(node.group_in or "", node.channels_in)
        channels = widths.get(node.group_out or "", node.channels)
        layer: Layer | None = None
        match node.op:
            case "conv":
                shape = (node.kernel, node.stride, node.padding)
                layer = convolution("Conv2d", (channels_in, channels), *shape, bias=False)
            case "linear":
                layer = linear((channels_in, channels), True)
            case "bn":
                layer = batch_norm("BatchNorm2d" if node.spatial else "BatchNorm1d", channels)
            case "select":
                if channels == node.channels:
                    same[number] = inputs[0].number
                    continue
                layer = Layer("Select", (Argument("channels", channels, by_name=False),))
        if layer:
            steps.append(Step([number], node.name, [inputs[0]], layer))
        else:
            parts, loose = _operation(node, inputs)
            steps.append(Step([number], paths[number], parts, loose=loose))
    logits = graph.taps["logits"]
    return Source(steps, same.get(logits, logits))


def _operation(node: Drawn, x: list[Value]) -> tuple[list[Part], bool]:
    match node.op:
        case "relu":
            return ["F.relu(", x[0], ")"], False
        case "max_pool":
            return ["F.max_pool2d(", x[0], ", 2)"], False
        case "avg_pool":
            return ["F.avg_pool2d(", x[0], ", 2)"], False
        case "global_pool":
            return [x[0], ".mean((2, 3))"], False
        case "add":
            return [x[0], " + ", x[1]], True
        case "concat":
            return ["torch.cat([", *listed(x), "], 1)"], False
        case "shortcut":
            taken: list[Part] = [x[0]]
            if node.stride > 1:
                step = Slot("stride", node.stride)
                taken = [x[0], "[:, :, ::", step, ", ::", step, "]"]
            missing = node.channels - node.channels_in
            if not missing:
                return taken, False
            before = int(missing / 2)
            ends = (Slot("before", before), ", ", Slot("after", missing - before))
            return ["F.pad(", *taken, ", (0, 0, 0, 0, ", *ends, "))"], False
    raise StError(f"operation '{node.op}' cannot be written as code")


def listed(parts: Sequence[Part]) -> list[Part]:
    """With commas between."""
    return [piece for n, part in enumerate(parts) for piece in ((", ", part) if n else (part,))]


INSIDE = ("relu", "add", "concat", "shortcut", "avg_pool")  # what ends a block, or lies in it


def _containers(nodes: list[Drawn]) -> dict[int, str]:
    """The module of each node: operations have no names, those of the layers around them tell."""
    named = ("conv", "linear", "bn", "select")
    found: dict[int, str] = {}
    last = ""
    for number, node in enumerate(nodes):
        if node.op in named:
            last = container(node.name)
        found[number] = last
    following = ""
    for number in range(len(nodes) - 1, -1, -1):
        if nodes[number].op in named:
            following = container(nodes[number].name)
        elif found[number] != following and nodes[number].op not in INSIDE:
            found[number] = shared((found[number], following))
    return found
