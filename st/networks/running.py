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
# what shares the memory of its argument or, if that lies in another order, copies it
VIEWING = {"view", "_unsafe_view", "reshape", "flatten", "unflatten", "contiguous"}
VIEWING |= {"view_as", "reshape_as"}
FILES = ("from_file",)  # operators that do more than to compute
# operators that ask how their input lies in memory: as drawn, whatever order networks are run in
BY_STRIDES = ("aten.view_as_complex.default", "aten.as_strided.default")


def function(op: str) -> Callable:
    """What runs an operator; raises StError if torch has none of this name."""
    if op == TAKE:
        return _take
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


def writes(node: Node) -> bool:
    """Whether a call changes its first argument."""
    schema = getattr(function(node.op), "_schema", None)
    return schema is not None and schema.is_mutable


def memory(nodes: list[Node], number: int) -> int:
    """The node that made the tensor which a node's result may share memory with."""
    while _shares(nodes[number]):
        number = nodes[number].args[0]["node"]
    return number


def _shares(node: Node) -> bool:
    """Whether a call's result may lie in the memory of its first argument, a node's."""
    if not (node.args and isinstance(node.args[0], dict) and "node" in node.args[0]):
        return False
    schema = getattr(function(node.op), "_schema", None)
    told = schema is not None and schema.arguments and schema.arguments[0].alias_info
    return bool(told) or node.op == "getitem"


def last_writes(nodes: list[Node]) -> dict[int, int]:
    """By the node that made it, the last node that writes into a tensor."""
    calls = enumerate(nodes[1:], 1)
    return {memory(nodes, number): number for number, node in calls if writes(node)}


def _take(x: Tensor, axis: int, positions: Any) -> Tensor:
    return x.index_select(axis, torch.as_tensor(positions, device=x.device))


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
        self.st_taps = program.taps
        forms = program.pruned(structure.keep)
        shapes = structure.shapes()
        layers = _layers(forms, program, shapes)
        held = {tensor for name, layer in layers.items() for tensor in _tensors(layer, name)}
        for name, layer in layers.items():
            self.st_attach(name, layer)
        self.st_places: dict[str, tuple[nn.Module, str]] = {}
        for tensor in program.tensors():
            if tensor.name not in held:
                value = torch.zeros(shapes[tensor.name], dtype=getattr(torch, tensor.dtype))
                self.st_hold(tensor.name, nn.Parameter(value) if tensor.trained else value)
        for name, other in program.tied.items():
            parent, last = self.st_places[other]
            self.st_hold(name, getattr(parent, last))
        self.st_calls: dict[str, Callable] = {}
        self.st_plans = {
            training: self.st_plan(forms[form], set(layers))
            for training, form in ((True, "train"), (False, "eval"))
        }
        self.st_passing = {True: _passing(forms["train"]), False: _passing(forms["eval"])}
        self.st_parting = {True: _parting(forms["train"]), False: _parting(forms["eval"])}
        self.st_random = any(torch.Tag.nondeterministic_seeded in _tags(n) for n in forms["train"])
        scales = {
            node.args[1].get("tensor")
            for node in forms["train"]
            if node.name == "batch_norm" and isinstance(node.args[1], dict)
        }
        self.st_scales = [t.name for t in program.tensors() if t.trained and t.name in scales]
        self.st_loose_norms = any(
            node.name == "batch_norm" and node.args[5] and _layer_name(node) not in layers
            for node in forms["train"]
        )
        self.st_foldable = _pairs(forms["eval"], self.st_plans[False], self.st_taps)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "st_calls": list(self.st_calls)}  # torch's operators don't pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "st_calls": {op: _call(op) for op in state["st_calls"]}})

    def st_hold(self, name: str, value: Tensor) -> None:
        """Make a tensor a parameter or buffer of this name."""
        parent, last = self.st_parent(name)
        if isinstance(value, nn.Parameter):
            parent.register_parameter(last, value)
        else:
            parent.register_buffer(last, value)
        self.st_places[name] = (parent, last)

    def st_plan(self, nodes: list[Node], layers: set[str]) -> list[tuple]:
        """What a pass does, call by call, and which results are not needed after each."""
        frees: dict[int, list[int]] = {}
        for used, number in _last_uses(nodes).items():
            frees.setdefault(number, []).append(used)
        readers = Counter(used for node in nodes for used in uses(node))
        kept = {places[form] for places in self.st_taps.values() for form in places}
        solid = _viewed_and_written(nodes)
        plan: list[tuple] = []
        for number, node in enumerate(nodes[1:], 1):
            if any(name.removesuffix(".num_batches_tracked") in layers for name in named(node)):
                continue  # the training counts: see Uncounted
            called = _layer_name(node)
            layer = called if called in layers else None
            args: list[Any] = node.args[:1] if layer else node.args
            if node.op == TAKE:
                name = f"st_take{len(self._buffers)}"
                self.register_buffer(name, torch.tensor(args[2]), persistent=False)
                self.st_places[name] = (self, name)
                args = [*args[:2], {"tensor": name}]
            op = _flexible(node.op)
            source = node.args[0].get("node") if op == RELU else None  # None: of a parameter
            if source is not None and readers[source] == 1:
                fresh = nodes[source].name in FRESH and not writes(nodes[source])
                fresh = fresh and source not in kept
                op = "aten.relu_.default" if fresh else op
            if not layer:
                self.st_calls[op] = _call(op)
            how = (number in solid, frees.get(number, ()))
            plan.append((number, layer, op, args, node.kwargs, *how))
        return plan

    def forward(self, x: Tensor, taps: Iterable[str] = ()) -> Tensor | dict[str, Tensor]:
        """As Network's."""
        form = "train" if self.training else "eval"
        asked = {name: self.st_taps[name][form] for name in taps}
        wanted = set(asked.values())
        tensors = {name: getattr(module, last) for name, (module, last) in self.st_places.items()}
        passing, parting = self.st_passing[self.training], self.st_parting[self.training]
        if 0 in passing:  # the images stay as they are
            x = x.clone(memory_format=torch.contiguous_format)
        values: dict[int, Any] = {0: x}
        copies: dict[int, Tensor] = {}
        result: Any = x
        for number, layer, op, args, kwargs, solid, frees in self.st_plans[self.training]:
            if layer:
                result = self.st_layers[layer](values[args[0]["node"]])
            else:
                result = self.st_calls[op](
                    *filled(args, values, tensors, x.device),
                    **{name: filled(a, values, tensors, x.device) for name, a in kwargs.items()},
                )
            if solid:
                result = result.contiguous()
            values[number] = result
            if number in wanted and number in passing:
                copies[number] = result.clone()
                if number in parting:  # what is given out is what the output is computed from
                    values[number], copies[number] = copies[number], result
            for used in frees:
                if used not in wanted:
                    del values[used]
        if not asked:
            return result
        return {name: copies.get(node, values[node]) for name, node in asked.items()}


def _passing(nodes: list[Node]) -> set[int]:
    """The nodes whose values are overwritten later."""
    last = last_writes(nodes)
    return {number for number in range(len(nodes)) if last.get(memory(nodes, number), -1) > number}


def _parting(nodes: list[Node]) -> set[int]:
    """The nodes behind which nothing reads what shares memory with them and was made before them:
    their values may go on in memory of their own."""
    last_use = _last_uses(nodes)
    found, read = set(), dict[int, int]()  # by memory: the last use of what was made so far
    for number in range(len(nodes)):
        place = memory(nodes, number)
        if read.get(place, -1) <= number:
            found.add(number)
        read[place] = max(read.get(place, -1), last_use.get(number, -1))
    return found


def _last_uses(nodes: list[Node]) -> dict[int, int]:
    return {used: number for number, node in enumerate(nodes) for used in uses(node)}


def _viewed_and_written(nodes: list[Node]) -> set[int]:
    """The nodes that make tensors of which there are views when they are written into: they must
    lie in memory as drawn, whatever order networks are run in, or a view would be a copy."""
    last = last_writes(nodes)
    viewed = {number for number, node in enumerate(nodes) if node.name in VIEWING}
    made = {number: memory(nodes, number) for number in viewed}
    return {made[number] for number in viewed if last.get(made[number], -1) > number}


def _tags(node: Node) -> list[torch.Tag]:
    return getattr(function(node.op), "tags", []) if "." in node.op else []


def _call(op: str) -> Callable:
    call = function(op)
    return (lambda x, *others: call(x.contiguous(), *others)) if op in BY_STRIDES else call


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
    inner: dict[str, set[str]] = {}  # by name, the parts that lie within
    for tensor in (*program.stored, *program.tied):
        parts = tensor.split(".")
        for depth in range(1, len(parts) - 1):
            inner.setdefault(".".join(parts[:depth]), set()).add(parts[depth])
    for form, nodes in forms.items():
        for node in nodes:
            name = _layer_name(node) or ""
            if not name or name in refused:
                continue
            layer = _layer(name, node, shapes, program)
            if node.name == "batch_norm" and node.args[5] != (form == "train"):
                layer = None  # of its own mode, whatever the network's
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
                and not any(hasattr(layer, part) for part in inner.get(name, ()))
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
