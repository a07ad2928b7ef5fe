"""The source of an imported network: its program in evaluation, with layers as torch's modules."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from st.deploy.source.operators import as_module, expression, own_name, within
from st.deploy.source.steps import (
    Argument,
    Held,
    Layer,
    Part,
    Source,
    Step,
    Value,
    batch_norm,
    container,
    convolution,
    linear,
    shared,
)
from st.networks.network import bare
from st.networks.program import OUTPUT, TAKE, Node, Program, named, uses
from st.networks.running import Imported, memory, writes
from st.networks.structure import Structure

NO_MODULE = "_empty_nn_module"  # what torch.export calls the module of what it adds itself


def imported(structure: Structure) -> tuple[Source, dict[str, np.ndarray]]:
    """The source, and the positions that it takes, by the names of its buffers."""
    program = structure.graph
    assert isinstance(program, Program)
    with torch.device("meta"):
        network = bare(structure)
    assert isinstance(network, Imported)
    nodes = _with_rests(program.pruned(structure.keep)["eval"])
    layers = {name: _layer(layer) for name, layer in network.st_layers.items()}
    norms = _norms(nodes, program)
    shapes = structure.shapes()
    in_layers = {
        f"{name}.{key}" for name, layer in network.st_layers.items()
        for key in layer.state_dict()
    } | {f"{name}.{key}" for name, keys in norms.items() for key in keys}  # fmt: skip
    source = Source([], 0)
    positions: dict[str, np.ndarray] = {}
    readers: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        for used in uses(node):
            readers.setdefault(used, []).append(number)
    last = ""
    for number, node in enumerate(nodes[1:], start=1):
        if node.op == OUTPUT:
            source.output = node.args[0]["node"]
            continue
        if (number not in readers and not writes(node)) or _unpacked(nodes, number, readers):
            continue
        path = "" if node.module.startswith(NO_MODULE) else node.module
        path = last if node.op == TAKE else path
        while node.op == TAKE and (path in layers or path in norms):
            path = container(path)  # layers hold no positions
        last = path
        mutates = writes(node) and not _fresh(nodes, node, readers)
        if mutates:
            parts = own_name(node)
            step = Step([number], shared([path, *map(container, named(node))]), parts)
        else:
            step = _step(node, number, path, layers, norms, shapes, program.tied, positions)
        step.makes = _made(nodes, number, readers)
        source.steps.append(step)
        source.order |= mutates
    held = {step.path for step in source.steps if step.layer}
    for step in source.steps:  # what a layer of the user's own kind does beside
        while not step.layer and step.path in held:
            step.path = container(step.path)
    for tensor in program.tensors():
        used = any(tensor.name in named(node) for node in nodes)
        if tensor.name not in in_layers and used:
            source.tensors[tensor.name] = (shapes[tensor.name], tensor.dtype, tensor.trained)
    for name, value in positions.items():
        source.tensors[name] = (value.shape, "int64", False)
    source.notes = _notes(program)
    return source, positions


def _step(
    node: Node, number: int, path: str, layers: dict[str, Layer], norms: dict[str, tuple],
    shapes: dict[str, tuple[int, ...]], tied: dict[str, str], positions: dict[str, np.ndarray],
) -> Step:  # fmt: skip
    weight = node.args[1] if len(node.args) > 1 and node.name != "layer_norm" else None
    weight = node.args[2] if node.name in ("layer_norm", "group_norm") else weight
    name = _owner(weight)
    if name in norms or (name in layers and set(named(node)) <= _tensors(name)):
        layer = layers.get(name) or _norm(node, shapes[f"{name}.weight"])
        return Step([number], name, [Value(node.args[0]["node"])], layer)
    if node.op == TAKE:
        source, axis, taken = node.args
        run = _run(taken)
        parts: list[Part]
        if run:
            return Step([number], path, [Value(source["node"]), *within(axis, *run)])
        kept = f"{path}.kept" if path else "kept"
        kept += f"{sum(key.startswith(kept) for key in positions) or ''}"
        positions[kept] = np.array(taken, dtype=np.int64)
        parts = [Value(source["node"]), f".index_select({axis}, ", Held(kept), ")"]
        return Step([number], path, parts)
    parts, loose = expression(replace(node, args=_untied(node.args, tied)))
    held = [container(part.name) for part in parts if isinstance(part, Held)]
    return Step([number], shared([path, *held]), parts, loose=loose, module=as_module(node))


def _owner(weight: Any) -> str:
    """The layer that an argument is the weights of; none if it is something else."""
    name = str(weight.get("tensor", "")) if isinstance(weight, dict) else ""
    return name.removesuffix(".weight") if name.endswith(".weight") else ""


def _tensors(name: str) -> set[str]:
    keys = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{name}.{key}" for key in keys}


def _untied(value, tied: dict[str, str]):
    """Arguments with the first name of what has several."""
    if isinstance(value, list):
        return [_untied(part, tied) for part in value]
    if isinstance(value, dict) and "tensor" in value:
        return {"tensor": tied.get(value["tensor"], value["tensor"])}
    return value


def _layer(layer: torch.nn.Module) -> Layer:
    """One that `Imported` made, as its constructor is called."""
    if isinstance(layer, torch.nn.Linear):
        return linear((layer.in_features, layer.out_features), layer.bias is not None)
    if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
        kind = "BatchNorm2d" if isinstance(layer, torch.nn.BatchNorm2d) else "BatchNorm1d"
        return batch_norm(kind, layer.num_features, layer.eps, layer.momentum or 0.0)
    assert isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d)
    kind = "Conv1d" if isinstance(layer, torch.nn.Conv1d) else "Conv2d"
    channels = (layer.in_channels, layer.out_channels)
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return convolution(kind, channels, *shape, layer.groups, layer.bias is not None)


def _norms(nodes: list[Node], program: Program) -> dict[str, tuple[str, ...]]:
    """Layer and group normalisations that are torch's modules, with the names of their tensors."""
    found: dict[str, tuple[str, ...]] = {}
    every = Counter(name for node in nodes for name in named(node))
    for node in nodes:
        if node.name in ("layer_norm", "group_norm") and len(node.args) > 3:
            weight, bias = node.args[2:4]
            name = _owner(weight)
            own = [f"{name}.weight", f"{name}.bias"]
            alone = sum(other.module == name for other in nodes) == 1
            plain = (
                name and alone and bias == {"tensor": own[1]} and all(every[n] == 1 for n in own)
            )
            if plain and all(
                n in program.stored and program.stored[n].role != "buffer" for n in own
            ):
                found[name] = ("weight", "bias")
    return found


def _norm(node: Node, shape: tuple[int, ...]) -> Layer:
    """`shape`: of its weights."""
    eps = Argument("eps", node.args[4] if len(node.args) > 4 else 1e-5, 1e-5)
    size = Argument("channels", shape[0] if len(shape) == 1 else shape, by_name=False)
    if node.name == "layer_norm":
        return Layer("nn.LayerNorm", (size, eps))
    return Layer("nn.GroupNorm", (Argument("groups", node.args[1], by_name=False), size, eps))


def _run(positions: list[int]) -> tuple[int, int, int] | None:
    """(start, end, step) of positions that are evenly spaced."""
    steps = set(np.diff(positions).tolist())
    if not positions or len(steps) > 1 or min(steps, default=1) < 1:
        return None
    step = min(steps, default=1)
    return positions[0], positions[-1] + 1, step


def _with_rests(nodes: list[Node]) -> list[Node]:
    """Views whose sizes name one computed size take it as the rest; such sizes are not computed."""
    found = []
    for node in nodes:
        if node.name in ("view", "reshape", "_unsafe_view"):
            sizes = node.args[1]
            computed = [n for n, size in enumerate(sizes) if isinstance(size, dict)]
            if len(computed) == 1 and -1 not in sizes:
                rest = [-1 if n in computed else size for n, size in enumerate(sizes)]
                node = replace(node, args=[node.args[0], rest])
        found.append(node)
    needed = {len(found) - 1}
    for number in range(len(found) - 1, -1, -1):
        node = found[number]
        if number in needed or writes(node):
            needed |= {number, *uses(node)}
    return [
        node if n in needed else replace(node, args=[], kwargs={}) for n, node in enumerate(found)
    ]


Readers = dict[int, list[int]]


def _unpacked(nodes: list[Node], number: int, readers: Readers) -> bool:
    """Whether this is an entry of what is unpacked where it is made."""
    node = nodes[number]
    if node.op != "getitem" or not isinstance(node.args[0], dict):
        return False
    return len(_made(nodes, node.args[0]["node"], readers)) > 1


def _made(nodes: list[Node], number: int, readers: Readers) -> list[int | None]:
    """The values of a step: of several results those that are read, by the nodes that take them."""
    count = len(nodes[number].shapes)
    taken: list[int | None] = [None] * count
    for n in readers.get(number, ()):
        node = nodes[n]
        if count < 2 or node.op != "getitem" or type(node.args[1]) is not int:
            return [number]
        if taken[node.args[1]] is not None:
            return [number]
        taken[node.args[1]] = n
    return taken if count > 1 else [number]


def _fresh(nodes: list[Node], node: Node, readers: Readers) -> bool:
    """Whether nothing else reads what the node overwrites."""
    written = node.args[0].get("node", 0) if isinstance(node.args[0], dict) else 0
    return written > 0 and len(readers[written]) == 1 and memory(nodes, written) == written


def _notes(program: Program) -> list[str]:
    """What the training of the original did that is not in its evaluation."""
    eval_ops = {node.name for node in program.forms["eval"]}
    more = sorted({node.name for node in program.forms["train"]} - eval_ops - {"add"})
    if not more:
        return []
    return [
        "The original also had operators in training that are left out here: "
        + ", ".join(more)
        + "."
    ]
