"""Import of a torch module: torch.export draws it, channels.py finds its channels."""

from dataclasses import replace
from operator import getitem
from string import ascii_letters
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, export

from st.core.errors import StError, one_line
from st.core.guest import quiet
from st.networks.imported.channels import coupled
from st.networks.imported.gradients import computed_again, own_gradients
from st.networks.imported.results import Form, alike, of_classes, results, shapes, untrained
from st.networks.imported.stages import tapped
from st.networks.program import (
    BATCH,
    CONVOLUTIONS,
    INPUT,
    OUTPUT,
    TAKE,
    TRANSPOSED,
    Node,
    Program,
    Stored,
    named,
)
from st.networks.running import CONSTANTS, PYTHON, writes

MOST_IMAGES = 4096  # in a batch
ALIASING = torch.Tag.maybe_aliasing_or_mutating


# By operator, the roles of the tensors among its arguments, by their place.
NORMALISED = ("", "scale", "shift", "mean", "variance")
ROLES = {
    **dict.fromkeys(CONVOLUTIONS, ("", "convolution", "bias")),
    **dict.fromkeys(TRANSPOSED, ("", "transposed", "bias")),
    "linear": ("", "linear", "bias"),
    "batch_norm": NORMALISED,
    "instance_norm": NORMALISED,
    "layer_norm": ("", "", "scale", "shift"),
    "rms_norm": ("", "", "scale"),
    "group_norm": ("", "", "scale", "shift"),
}


def imported(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    stages: list[str] | None = None,
    streams: bool = True,
    classes: int | None = None,
) -> tuple[Program, dict[str, np.ndarray]]:
    """The program of `module` for images of `input_shape` (channels, height, width), and the values
    of its parameters and buffers.

    The module is drawn twice, in training and in evaluation, because what it does may differ. It is
    left as it was. `stages`: the parts of it whose results are the stages that losses compare;
    default: the last map of each size that all images pass. `streams`: see `coupled`. `classes`:
    of several results in evaluation the first with so many numbers an image is used; default: the
    first of one number or more. Of several in training it is the one that the layers make which
    make that of evaluation. Raises StError that names what cannot be imported, or what would be
    evaluated and never trained.
    """
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and tensor.is_complex():
            raise StError(
                f"'{name}' is complex, which is not supported; keep it as real numbers, such as "
                "torch.view_as_real makes"
            )
    drawn: dict[str, ExportedProgram] = {}
    forms: dict[str, list[Node]] = {}
    stored: dict[str, Stored] = {}
    values: dict[str, np.ndarray] = {}
    notes: list[str] = []
    positions: set[str] = set()
    training = {part: part.training for part in module.modules()}
    try:
        for form in ("train", "eval"):
            module.train(form == "train")
            drawn[form], said = exported(module, input_shape)
            notes += said
    finally:
        for part, mode in training.items():
            part.training = mode
    label = type(module).__name__
    number = of_classes(label, drawn["eval"], classes)[0]
    evaluated = read(drawn["eval"], "eval", number)
    classes = shapes(drawn["eval"])[number][1]
    numbers = of_classes(f"{label} in training", drawn["train"], classes, only=True)
    trained = alike([read(drawn["train"], "train", n) for n in numbers], evaluated)
    notes += untrained(label, trained, evaluated)
    for form, chosen in (("train", trained), ("eval", evaluated)):
        several = len(shapes(drawn[form]))
        if several > 1:
            when = {"train": "training", "eval": "evaluation"}[form]
            which = f"number {chosen.number + 1}" if chosen.number else "the first"
            notes.append(f"of its {several} results in {when} {which} is used")
        positions |= chosen.taken
        forms[form] = chosen.nodes
        for name, (tensor, learns) in chosen.tensors.items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            stored[name] = Stored(list(tensor.shape), dtype, "parameter" if learns else "buffer")
            values[name] = tensor.detach().cpu().numpy().copy()
    _give_roles(stored, [*forms["train"], *forms["eval"]])
    every = dict(module.named_parameters(remove_duplicate=False))
    names = {id(p): name for name, p in every.items() if name in stored}
    tied = {n: names[id(p)] for n, p in every.items() if n not in stored and id(p) in names}
    frozen = sorted(n for n, p in every.items() if n in stored and not p.requires_grad)
    if frozen:
        notes.append(f"frozen, kept as they are and not counted: {', '.join(frozen)}")
    unused = sorted(every.keys() - stored.keys() - tied.keys())
    if unused:
        notes.append(f"not used for the output, left out: {', '.join(unused)}")
    left_out = {
        name: value.tolist() if name in positions else None
        for name, value in module.state_dict().items()
        if name not in stored and name not in tied
    }
    program = Program(
        input_shape, int(classes), forms, stored,
        tied=tied, left_out=left_out, notes=list(dict.fromkeys(notes)),
    )  # fmt: skip
    return tapped(coupled(program, streams), stages), values


def _give_roles(stored: dict[str, Stored], nodes: list[Node]) -> None:
    """What tensors are to the operators that take them as they are; of several the first."""
    for node in nodes:
        for argument, role in zip(node.args, ROLES.get(node.name, ()), strict=False):
            for name in named(Node("", [argument])) if role else ():
                known = stored[name].role
                grouped = role == "convolution" and len(node.args) > 6 and node.args[6] > 1
                if known == ("buffer" if role in ("mean", "variance") else "parameter"):
                    stored[name] = replace(stored[name], role="grouped" if grouped else role)
    for name, tensor in stored.items():
        if tensor.role == "buffer" and name.endswith("num_batches_tracked"):
            stored[name] = replace(tensor, role="count")


# What torch.export says, and what it means for who wrote the module.
MEANINGS = {
    "data-dependent": "what it does depends on the values of its input; an `if` or a number taken "
    "from a tensor, which torch.where or tensors can replace",
    "Constraints violated": "it can take batches of one size only; a loop over images, a size that "
    "is written as a number, or len(x) where x.shape[0] would do",
}


def exported(
    module: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[ExportedProgram, list[str]]:
    """torch.export's program, and what is to be said of it; raises StError with what torch says."""
    parameter = next(module.parameters(), torch.empty(0))
    images = torch.zeros(BATCH, *input_shape, dtype=parameter.dtype, device=parameter.device)
    batch = {0: Dim("n", min=BATCH, max=MOST_IMAGES)}
    try:
        with quiet(), computed_again():
            program = export(module, (images,), dynamic_shapes=(batch,), strict=False)
            said = own_gradients(module, images) if module.training else []
    except Exception as error:  # the module's code may do anything
        told = one_line(error).partition(" The error above occurred")[0]
        meaning = next((text for words, text in MEANINGS.items() if words in told), "")
        about = f"{meaning} ({told[:200]})" if meaning else f"{type(error).__name__}: {told[:400]}"
        if module.training and not meaning:  # `made` has run it in evaluation
            about += (
                "; in evaluation it runs: leave out what is there for training only, such as "
                "auxiliary heads (aux_logits=False)"
            )
        when = "training" if module.training else "evaluation"
        raise StError(
            f"{type(module).__name__}: torch.export cannot draw it in {when}: {about}"
        ) from error
    return program, said


def read(program: ExportedProgram, form: str, number: int) -> Form:
    """What makes the result of this number, of a `form`: train or eval."""
    tensors: dict[str, Any] = {}
    known: dict[str, dict[str, Any]] = {}
    parts = {str(s.target).partition(".")[0] for s in program.graph_signature.input_specs}
    constants = next(n for n in ("constants", "st_constants") if n not in parts)
    for spec in program.graph_signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            known[spec.arg.name] = {"node": 0}
        elif spec.kind.name in ("PARAMETER", "BUFFER"):
            held = program.state_dict if spec.target in program.state_dict else program.constants
            tensor = held[spec.target]
            learns = spec.kind.name == "PARAMETER" and tensor.requires_grad
            tensors[spec.target] = (tensor, learns)
            known[spec.arg.name] = {"tensor": spec.target}
        elif spec.kind.name == "CONSTANT_TENSOR":
            name = f"{constants}.{form}_{spec.target.replace('.', '_')}"
            tensors[name] = (program.constants[spec.target], False)
            known[spec.arg.name] = {"tensor": name}
        else:
            raise StError(f"input '{spec.arg.name}' of kind {spec.kind.name} cannot be imported")
    inline(program.graph_module)
    graph = program.graph_module.graph
    result = results(program)[number]
    needed = _needed(graph, result)
    nodes = [Node(INPUT, [])]
    for node in graph.nodes:
        if node in needed and node.op == "call_function":
            nodes.append(_node(node, known))
            known[node.name] = {"node": len(nodes) - 1}
    nodes.append(Node(OUTPUT, [known[result.name]]))
    nodes, taken = _taking(nodes, tensors)
    used = {name for node in nodes for name in named(node)}
    return Form(number, nodes, {n: tensor for n, tensor in tensors.items() if n in used}, taken)


# what tensors that are made in a module's code go through
COPIES = ("lift_fresh", "lift_fresh_copy", "detach", "alias")


def _taking(nodes: list[Node], tensors: dict[str, Any]) -> tuple[list[Node], set[str]]:
    """The nodes, with positions in place of buffers of indices along one axis, and these."""
    changed = {
        node.args[0]["tensor"]
        for node in nodes
        if node.args and isinstance(node.args[0], dict) and "tensor" in node.args[0]
        if writes(node)
    }
    result, taken = [], set()
    for node in nodes:
        axis, index = None, None
        if node.op == "aten.index_select.default":
            axis, index = node.args[1:3]
        elif node.op == "aten.index.Tensor" and sum(i is not None for i in node.args[1]) == 1:
            axis, index = next((n, i) for n, i in enumerate(node.args[1]) if i is not None)
        while index and "node" in index and nodes[index["node"]].name in COPIES:
            index = nodes[index["node"]].args[0]
        name = index.get("tensor") if index and "node" in node.args[0] else None
        if name and name not in changed and not tensors[name][1]:
            values = tensors[name][0]
            if (
                values.dtype in (torch.int32, torch.int64)
                and values.ndim == 1
                and values.min() >= 0
            ):
                node = Node(TAKE, [node.args[0], axis, values.tolist()], module=node.module)
                taken.add(name)
        result.append(node)
    return result, taken


# Regions of their own within a graph, by operator: the place of the region among its arguments.
REGIONS = {"wrap_with_autocast": 4, "wrap_with_set_grad_enabled": 1}


def inline(module: fx.GraphModule) -> None:
    """Put what is done without gradients, or in another precision, where it is called. There is no
    autocast on import; what is read without gradients is detached, through which buffers can still
    be written."""
    graph = module.graph
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if name not in REGIONS:
            continue
        place = REGIONS[name]
        region = getattr(module, node.args[place].target)
        inline(region)
        held = dict(
            zip(region.graph.find_nodes(op="placeholder"), node.args[place + 1 :], strict=True)
        )
        with graph.inserting_before(node):
            if name == "wrap_with_set_grad_enabled" and not node.args[0]:
                held = {inner: _detached(graph, value) for inner, value in held.items()}
            for inner in region.graph.nodes:
                if inner.op not in ("placeholder", "output"):
                    held[inner] = graph.node_copy(inner, held.__getitem__)
            (end,) = region.graph.find_nodes(op="output")
            results = [held[value] for value in end.args[0]]
        for user in list(node.users):  # each takes one of the results
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)


def _detached(graph: fx.Graph, value: Any) -> Any:
    if not isinstance(value.meta.get("val"), torch.Tensor):
        return value
    result = graph.call_function(torch.ops.aten.detach.default, (value,))
    result.meta = dict(value.meta)
    return result


def _needed(graph: fx.Graph, result: fx.Node) -> set[fx.Node]:
    """What the result needs: what it is computed of, and what writes into that or into buffers."""
    needed, memory = {result}, {_memory(result)}
    for node in reversed(graph.nodes):
        if _writes(node) and isinstance(node.args[0], fx.Node):
            held = _memory(node.args[0])
            if held in memory or held.op == "placeholder":
                needed.add(node)
        if node in needed:
            needed |= set(node.all_input_nodes)
            memory |= set(map(_memory, node.all_input_nodes))
    return needed


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _memory(node: fx.Node) -> fx.Node:
    """The node that made the tensor which this one is, or is a view of."""
    while node.op == "call_function" and isinstance(node.args[0], fx.Node):
        tags = getattr(node.target, "tags", ())
        view = getattr(node.target, "is_view", False)
        if not (view or node.target is getitem or _writes(node) or ALIASING in tags):
            break
        node = node.args[0]
    return node


def _explicit(equation: str, ranks: list[int]) -> str:
    """An Einstein sum's equation with letters in place of "..." and with its result."""
    given, arrow, result = equation.replace(" ", "").partition("->")
    free = [letter for letter in ascii_letters if letter not in equation]
    texts = given.split(",")
    own = [
        r - len(t.replace("...", "")) if "..." in t else 0
        for t, r in zip(texts, ranks, strict=True)
    ]
    dots = free[: max(own)]
    texts = [
        t.replace("...", "".join(dots[len(dots) - n :])) for t, n in zip(texts, own, strict=True)
    ]
    letters = [letter for letter in "".join(texts) if letter not in dots]
    once = "".join(sorted(letter for letter in letters if letters.count(letter) == 1))
    result = result if arrow else f"...{once}"
    return f"{','.join(texts)}->{result.replace('...', ''.join(dots))}"


def _node(node: fx.Node, known: dict[str, dict]) -> Node:
    """A call as JSON, its arguments in the order that the operator declares."""

    def plain(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return known[argument.name]
        if isinstance(argument, list | tuple):
            return [plain(part) for part in argument]
        if isinstance(argument, float) and not np.isfinite(argument):
            return {"float": str(argument)}
        if argument is None or isinstance(argument, bool | int | float | str):
            return argument
        if isinstance(argument, torch.device):
            return {"device": "input"}
        for kind in CONSTANTS:
            if isinstance(argument, getattr(torch, kind)):
                return {kind: str(argument).removeprefix("torch.")}
        raise StError(f"{node.target}: an argument of type {type(argument).__name__}")

    args: list[Any] = list(node.args)
    kwargs = dict(node.kwargs)
    if node.target is torch.ops.aten.einsum.default:
        args[0] = _explicit(args[0], [part.meta["val"].ndim for part in args[1]])
    if isinstance(node.target, torch._ops.OpOverload):
        if node.target.namespace != "aten":
            raise StError(
                f"operator {node.target} cannot be imported: it is not one of torch's own"
            )
        positional = [a for a in node.target._schema.arguments if not a.kwarg_only]
        last = max((n for n, a in enumerate(positional) if a.name in kwargs), default=-1)
        for argument in positional[len(args) : last + 1]:
            args.append(kwargs.pop(argument.name, argument.default_value))
        # of tensors that are made in the module's code; in place, torch refuses it for views
        op = str(node.target).replace("aten.detach_.", "aten.detach.")
    else:
        op = getattr(node.target, "__name__", str(node.target))
        if op not in PYTHON:
            raise StError(
                f"operator {op} cannot be imported; write the network without gradients switched "
                "off, loops over values, or calls that depend on them"
            )
    stack = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())
    named_arguments = {name: plain(value) for name, value in kwargs.items()}
    return Node(op, plain(args), named_arguments, module=stack[-1][0])
