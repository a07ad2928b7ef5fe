"""The executable network of a program."""

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from st.core.errors import StError
from st.networks.layers import BatchNorm1d, BatchNorm2d, Executable
from st.networks.program import CONVOLUTIONS, OUTPUT, TAKE, Node, Program, named, uses
from st.networks.structure import Structure

PYTHON = {
    name: getattr(operator, name)
    for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg")
}
# what stands for something of torch in arguments, and where it is found
CONSTANTS = ("dtype", "layout", "memory_format")
RELU = "aten.relu.default"
# whose result is a tensor of their own that their gradients don't need: a ReLU may overwrite it
FRESH = (*CONVOLUTIONS, "linear", "batch_norm", "add")
FILES = ("from_file",)  # operators that do more than to compute


def function(op: str) -> Callable:
    """What runs an operator; raises StError if torch has none of this name."""
    if op == TAKE:
        return lambda x, axis, positions: x.index_select(axis, positions)
    if op == OUTPUT:
        return lambda x: x
    if op in PYTHON:
        return PYTHON[op]
    try:
        namespace, name, variant = op.split(".")
        if namespace != "aten" or name in FILES:
            raise AttributeError(namespace)
        return getattr(getattr(torch.ops.aten, name), variant)
    except (AttributeError, ValueError) as error:
        raise StError(f"torch {torch.__version__} has no operator '{op}'") from error


def filled(argument: Any, values: Mapping[int, Any], tensors: Mapping[str, Any], device) -> Any:
    """An argument of a node with what its parts stand for."""
    if isinstance(argument, list):
        return [filled(part, values, tensors, device) for part in argument]
    if isinstance(argument, dict):
        ((kind, name),) = argument.items()
        if kind == "node":
            return values[name]
        if kind == "tensor":
            return tensors[name]
        if kind == "device":
            return device
        return float(name) if kind == "float" else getattr(torch, name)
    return argument


class Imported(Executable):
    """Runs a program on batches of shape (n, channels, height, width).

    Parameters and buffers have the names of the module that was imported. Convolutions, linear
    layers and batch normalisations whose tensors are called as torch's layers call them, and that
    nothing else uses, are such layers.
    """

    def __init__(self, structure: Structure):
        super().__init__(structure)
        program = structure.graph
        assert isinstance(program, Program)
        self._taps = program.taps
        forms = program.pruned(structure.keep)
        shapes = structure.shapes()
        layers = _layers(forms, program, shapes)
        held = {tensor for name, layer in layers.items() for tensor in _tensors(layer, name)}
        for name, layer in layers.items():
            self.attach(name, layer)
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for tensor in program.tensors():
            if tensor.name not in held:
                value = torch.zeros(shapes[tensor.name], dtype=getattr(torch, tensor.dtype))
                self._hold(tensor.name, nn.Parameter(value) if tensor.trained else value)
        for name, other in program.tied.items():
            parent, last = self._places[other]
            self._hold(name, getattr(parent, last))
        self._calls: dict[str, Callable] = {}
        self._plans = {
            training: self._plan(forms[form], set(layers))
            for training, form in ((True, "train"), (False, "eval"))
        }
        self.random = any(torch.Tag.nondeterministic_seeded in _tags(n) for n in forms["train"])
        self.loose_norms = any(
            node.name == "batch_norm" and node.args[5] and _layer_name(node) not in layers
            for node in forms["train"]
        )
        self.foldable = _pairs(forms["eval"], self._plans[False], self._taps)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_calls": list(self._calls)}  # torch's operators don't pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_calls": {op: function(op) for op in state["_calls"]}})

    def _hold(self, name: str, value: Tensor) -> None:
        """Make a tensor a parameter or buffer of this name."""
        parent, last = self.parent(name)
        if isinstance(value, nn.Parameter):
            parent.register_parameter(last, value)
        else:
            parent.register_buffer(last, value)
        self._places[name] = (parent, last)

    def _plan(self, nodes: list[Node], layers: set[str]) -> list[tuple]:
        last_use: dict[int, int] = {}
        for number, node in enumerate(nodes):
            for used in uses(node):
                last_use[used] = number
        frees: dict[int, list[int]] = {}
        for used, number in last_use.items():
            frees.setdefault(number, []).append(used)
        readers = Counter(used for node in nodes for used in uses(node))
        kept = {places[form] for places in self._taps.values() for form in places}
        plan: list[tuple] = []
        for number, node in enumerate(nodes[1:], 1):
            if any(name.removesuffix(".num_batches_tracked") in layers for name in named(node)):
                continue  # the training counts: see Uncounted
            called = _layer_name(node)
            layer = called if called in layers else None
            args: list[Any] = node.args[:1] if layer else node.args
            if node.op == TAKE:
                name = f"_take{len(self._buffers)}"
                self.register_buffer(name, torch.tensor(args[2]), persistent=False)
                self._places[name] = (self, name)
                args = [*args[:2], {"tensor": name}]
            op = _flexible(node.op)
            source = node.args[0].get("node") if op == RELU else None  # None: of a parameter
            if source is not None and readers[source] == 1:
                fresh = nodes[source].name in FRESH and source not in kept
                op = "aten.relu_.default" if fresh else op
            if not layer:
                self._calls[op] = function(op)
            plan.append((number, layer, op, args, node.kwargs, frees.get(number, ())))
        return plan

    def forward(self, x: Tensor, taps: Iterable[str] = ()) -> Tensor | dict[str, Tensor]:
        """As Network's."""
        form = "train" if self.training else "eval"
        asked = {name: self._taps[name][form] for name in taps}
        wanted = set(asked.values())
        tensors = {name: getattr(module, last) for name, (module, last) in self._places.items()}
        values: dict[int, Any] = {0: x}
        result: Any = x
        for number, layer, op, args, kwargs, frees in self._plans[self.training]:
            if layer:
                result = self.layers_by_name[layer](values[args[0]["node"]])
            else:
                result = self._calls[op](
                    *filled(args, values, tensors, x.device),
                    **{name: filled(a, values, tensors, x.device) for name, a in kwargs.items()},
                )
            values[number] = result
            for used in frees:
                if used not in wanted:
                    del values[used]
        return {name: values[node] for name, node in asked.items()} if asked else result


def _tags(node: Node) -> list[torch.Tag]:
    return getattr(function(node.op), "tags", []) if "." in node.op else []


def _flexible(op: str) -> str:
    """What takes the sizes of a view, whatever order of memory it is given: networks may be run
    with channels last."""
    return "aten.reshape.default" if op == "aten.view.default" else op


def _layer_name(node: Node) -> str | None:
    """The name of the layer that a node may be."""
    if node.name not in (*CONVOLUTIONS[:2], "linear", "batch_norm"):
        return None
    if not (isinstance(node.args[0], dict) and "node" in node.args[0]):
        return None
    weight = node.args[1]
    if not (isinstance(weight, dict) and weight.get("tensor", "").endswith(".weight")):
        return None
    return weight["tensor"].removesuffix(".weight")


def _layers(
    forms: dict[str, list[Node]], program: Program, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, nn.Module]:
    """The layers that nodes can be run as, by name."""
    uses_of = [Counter(name for node in nodes for name in named(node)) for nodes in forms.values()]
    found: dict[str, nn.Module] = {}
    refused: set[str] = set()
    tied = set(program.tied.values())
    for nodes in forms.values():
        for node in nodes:
            name = _layer_name(node) or ""
            if not name or name in refused:
                continue
            layer = _layer(name, node, shapes, program)
            tensors = _tensors(layer, name) if layer is not None else []
            used = {*named(node), f"{name}.num_batches_tracked"}
            parameters = list(layer.named_parameters()) if layer is not None else []
            plain = (
                layer is not None
                and set(named(node)) <= set(tensors) <= used
                and all(t in program.stored and t not in tied for t in tensors)
                and all(program.stored[f"{name}.{p}"].role != "buffer" for p, _ in parameters)
                and all(counts[t] <= 1 for t in named(node) for counts in uses_of)
                and (name not in found or repr(found[name]) == repr(layer))
            )
            if plain and layer is not None:
                found[name] = layer
            else:
                refused.add(name)
    return {name: layer for name, layer in found.items() if name not in refused}


def _layer(
    name: str, node: Node, shapes: Mapping[str, tuple[int, ...]], program: Program
) -> nn.Module | None:
    """The layer that does what the node does, if torch has one."""
    shape, args = shapes[f"{name}.weight"], node.args
    if node.name == "linear":
        return nn.Linear(shape[1], shape[0], bias=f"{name}.bias" in named(node))
    if node.name == "batch_norm":
        norm = BatchNorm1d if len(node.shapes[0]) == 2 else BatchNorm2d
        if len(node.shapes[0]) not in (2, 4) or len(named(node)) != 4:
            return None
        return norm(shape[0], eps=args[7], momentum=args[6])
    given = dict(enumerate(args))
    stride, padding = given.get(3, 1), given.get(4, 0)
    dilation, groups = given.get(5, 1), given.get(6, 1)
    kind: Any = nn.Conv1d if node.name == "conv1d" else nn.Conv2d
    return kind(
        shape[1] * groups, shape[0], tuple(shape[2:]), _pair(stride), _pair(padding),
        _pair(dilation), groups, bias=f"{name}.bias" in named(node),
    )  # fmt: skip


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _tensors(layer: nn.Module, name: str) -> list[str]:
    return [f"{name}.{key}" for key in layer.state_dict()]


def _pairs(nodes: list[Node], plan: list[tuple], taps: Mapping) -> list[tuple[str, str]]:
    """Convolutions and linear layers, each with the batch normalisation that alone reads it."""
    layers = {number: layer for number, layer, *_ in plan if layer}
    readers: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        for used in uses(node):
            readers.setdefault(used, []).append(number)
    kept = {places["eval"] for places in taps.values()}
    return [
        (layers[before], layers[number])
        for number in layers
        for before in uses(nodes[number])
        if nodes[number].name == "batch_norm"
        and before in layers
        and nodes[before].name in (*CONVOLUTIONS, "linear")
        and readers[before] == [number]
        and before not in kept
    ]
