"""torch's operators as a person writes them; what has no such form is called by its own name."""

from typing import Any

from st.deploy.source.steps import Argument, Held, Layer, Part, Slot, Value, listed, plain
from st.networks.program import Node, base

# By operator, the function that does the same with its arguments in the same order, as many as are
# named here at most.
FUNCTIONS = {
    **{name: (f"F.{name}", 9) for name in (
        "relu", "silu", "mish", "selu", "celu", "elu", "hardswish", "hardsigmoid", "softplus",
        "leaky_relu", "gelu", "prelu", "conv1d", "conv2d", "conv3d", "linear", "avg_pool2d",
        "max_pool2d", "adaptive_avg_pool2d", "pad", "group_norm", "one_hot",
        "scaled_dot_product_attention",
    )},
    **{name: (f"torch.{name}", 9) for name in (
        "sigmoid", "tanh", "bmm", "stack", "exp", "sqrt", "rsqrt", "abs", "where", "addmm",
    )},
    "hardtanh": ("F.hardtanh", 3),
    "layer_norm": ("F.layer_norm", 5),
    "softmax": ("F.softmax", 2),
    "log_softmax": ("F.log_softmax", 2),
    "cat": ("torch.cat", 2),
}  # fmt: skip
METHODS = {
    **{name: name for name in (
        "flatten", "reshape", "permute", "transpose", "mean", "sum", "amax", "chunk", "split",
        "unsqueeze", "squeeze", "expand", "contiguous", "clone", "select", "unbind", "repeat",
        "pow", "clamp", "unflatten", "index_select", "narrow", "roll", "detach",
    )},
    "view": "reshape",  # networks may be run with channels last
    "split_with_sizes": "split",
}  # fmt: skip
BINARY = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "truediv": "/", "floordiv": "//", "mod": "%",
    "matmul": "@",
}  # fmt: skip
# variants whose arguments are those of the plain form
VARIANTS = ("default", "Tensor", "Scalar", "int", "dim", "using_ints", "Tensor_Scalar", "IntList")
SIZES = {"view", "reshape", "split_with_sizes", "split", "chunk", "unflatten", "expand"}
ALIKE = {"gelu", "scaled_dot_product_attention", "clone", "contiguous"}  # keywords are the same


def expression(node: Node) -> tuple[list[Part], bool]:
    """The call as text and references, and whether it needs brackets within another expression."""
    variant = node.op.rpartition(".")[2] if node.op.startswith("aten.") else "default"
    name = base(node.op)
    found = None
    if variant in (*VARIANTS, "start"):
        found = _special(name, node) or _usual(name, node)
    return found or (own_name(node), False)


def _special(name: str, node: Node) -> tuple[list[Part], bool] | None:
    args = node.args
    if name in BINARY and not node.kwargs and len(args) == 2:
        return [*rendered(args[0]), f" {BINARY[name]} ", *rendered(args[1])], True
    if name == "neg" and not node.kwargs:
        return ["-", *rendered(args[0])], True
    if name == "getitem" and type(args[1]) is int:
        return [*rendered(args[0]), f"[{args[1]}]"], False
    if name == "sym_size" or (name == "size" and len(args) == 2):
        return [*rendered(args[0]), f".shape[{args[1]}]"], False
    if name == "hardtanh" and list(args[1:]) == [0.0, 6.0]:
        return ["F.relu6(", *rendered(args[0]), ")"], False
    if name == "dropout" and not args[1]:
        return rendered(args[0]), False
    if name == "dropout":
        return ["F.dropout(", *rendered(args[0]), f", {args[1]}, self.training)"], False
    if name == "slice" and len(args) > 1 and args[1] >= 0:
        start, end, step = (*args[2:], None, None, None)[:3]
        if end == 2**63 - 1:
            end = None
        return [*rendered(args[0]), *within(args[1], start, end, step)], False
    if name == "einsum":
        return ["torch.einsum(", repr(args[0]), ", ", *_given(args[1]), ")"], False
    if name == "batch_norm":
        x, weight, bias, mean, var, training, momentum, eps = args[:8]
        rest = f", {training}, {momentum}, {eps})"
        order = listed([*(p for a in (x, mean, var, weight, bias) for p in rendered(a))])
        return ["F.batch_norm(", *order, rest], False
    return None


def within(axis: int, start: Any, end: Any, step: Any = None) -> list[Part]:
    """An index of a part of an axis."""
    begin: list[Part] = [Slot("start", start)] if start else []
    until: list[Part] = [Slot("end", end)] if end is not None else []
    stride: list[Part] = [":", Slot("step", step)] if step not in (None, 1) else []
    return ["[" + ":, " * axis, *begin, ":", *until, *stride, "]"]


def _usual(name: str, node: Node) -> tuple[list[Part], bool] | None:
    if node.kwargs and name not in ALIKE:
        return None
    kwargs: list[Part] = []
    for key, value in node.kwargs.items():
        if key != "memory_format":
            kwargs += [f", {key}=", *rendered(value)]
    if name in FUNCTIONS:
        function, most = FUNCTIONS[name]
        given = [rendered(value, name) for value in node.args[:most]]
        return [f"{function}(", *_joined(given), *kwargs, ")"], False
    if name in METHODS:
        first, *others = node.args
        given = [rendered(value, name) for value in others]
        return [*rendered(first), f".{METHODS[name]}(", *_joined(given), *kwargs, ")"], False
    return None


def own_name(node: Node) -> list[Part]:
    """The call of the operator itself."""
    given = [rendered(value) for value in node.args]
    given += [[f"{key}=", *rendered(value)] for key, value in node.kwargs.items()]
    return [f"torch.ops.{node.op}(", *_joined(given), ")"]


def rendered(value: Any, name: str = "") -> list[Part]:
    """An argument as text and references; sizes may differ between modules that are else alike."""
    if isinstance(value, list):
        parts = _given(value, name)
        return ["[", *parts, "]"]
    if isinstance(value, dict):
        ((kind, what),) = value.items()
        if kind == "node":
            return [Value(what)]
        if kind == "tensor":
            return [Held(what)]
        if kind == "device":
            return [Value(0), ".device"]
        return [f'float("{what}")' if kind == "float" else f"torch.{what}"]
    if type(value) is int and name in SIZES:
        return [Slot("size", value)]
    return [repr(value)]


def _given(values: list, name: str = "") -> list[Part]:
    return _joined([rendered(value, name) for value in values])


def _joined(given: list[list[Part]]) -> list[Part]:
    return [part for n, parts in enumerate(given) for part in ([", ", *parts] if n else parts)]


# Modules that do what an operator does, with the constructor's arguments and their defaults.
def as_module(node: Node) -> Layer | None:
    """The module of torch's that computes this of its first argument, if there is one."""
    name, args, kwargs = base(node.op), node.args[1:], node.kwargs
    simple = {
        "relu": "ReLU", "silu": "SiLU", "hardswish": "Hardswish", "hardsigmoid": "Hardsigmoid",
        "sigmoid": "Sigmoid", "tanh": "Tanh", "mish": "Mish", "selu": "SELU",
    }  # fmt: skip
    if name in simple and not args and not kwargs:
        return Layer(f"nn.{simple[name]}")
    if name == "hardtanh" and list(args) == [0.0, 6.0]:
        return Layer("nn.ReLU6")
    if name == "gelu" and not args:
        told = (Argument("approximate", kwargs.get("approximate", "none"), "none"),)
        return Layer("nn.GELU", told)
    if name == "leaky_relu":
        return Layer("nn.LeakyReLU", (Argument("negative_slope", (*args, 0.01)[0], 0.01),))
    if name == "dropout":
        return Layer("nn.Dropout", (Argument("p", args[0], by_name=False),))
    if name == "adaptive_avg_pool2d":
        return Layer("nn.AdaptiveAvgPool2d", (Argument("size", plain(args[0]), by_name=False),))
    if name in ("max_pool2d", "avg_pool2d") and len(args) <= 3:
        given: list[Any] = [*args, *(None, None, 0)[len(args) :]]
        kernel, stride, padding = given
        kind = "MaxPool2d" if name == "max_pool2d" else "AvgPool2d"
        sizes = (
            Argument("kernel_size", plain(kernel), by_name=False),
            Argument("stride", plain(stride) if stride else None, None),
            Argument("padding", plain(padding), 0),
        )
        return Layer(f"nn.{kind}", sizes)
    if name == "flatten" and all(type(arg) is int for arg in args):
        ends: list[Any] = [*args, *(0, -1)[len(args) :]]
        start, end = ends
        return Layer("nn.Flatten", (Argument("start", start, 1), Argument("end", end, -1)))
    return None
