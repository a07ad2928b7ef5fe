"""Which of a module's results is imported, and that what is evaluated learns by the training's."""

from dataclasses import dataclass

import torch
from torch import fx
from torch.export import ExportedProgram

from st.core.errors import StError
from st.networks.program import Node, heads, named, uses
from st.networks.running import writes


@dataclass(frozen=True)
class Form:
    """A form of a module, for its result of this `number`: nodes of what the result needs; by name
    what they use: (tensor, whether it is trained); and the buffers whose values they have as
    positions."""

    number: int
    nodes: list[Node]
    tensors: dict[str, tuple[torch.Tensor, bool]]
    taken: set[str]

    def learning(self) -> set[str]:
        """The names of what is trained."""
        return {name for name, (_, learns) in self.tensors.items() if learns}


def results(program: ExportedProgram) -> list[fx.Node]:
    """What makes each of the module's results."""
    (end,) = program.graph_module.graph.find_nodes(op="output")
    kinds = [spec.kind.name for spec in program.graph_signature.output_specs]
    return [n for n, kind in zip(end.args[0], kinds, strict=True) if kind == "USER_OUTPUT"]


def shapes(program: ExportedProgram) -> list[tuple[int, ...]]:
    """The shape of each result; () of what is no tensor."""
    return [
        tuple(getattr(getattr(n, "meta", {}).get("val"), "shape", ())) for n in results(program)
    ]


def of_classes(
    label: str, program: ExportedProgram, classes: int | None, only: bool = False
) -> list[int]:
    """The numbers of the results of n x classes, or else, unless `only` these will do, of those of
    n x some other number. Raises StError if there is none."""
    sizes = shapes(program)
    flat = [n for n, shape in enumerate(sizes) if len(shape) == 2]
    found = [n for n in flat if sizes[n][1] == classes] or ([] if only else flat)
    if not found:
        told = " x ".join(["n", *map(str, sizes[0][1:])])
        raise StError(f"{label}: gives {told} numbers, not n x {classes or 'classes'}")
    return found


def alike(forms: list[Form], evaluated: Form) -> Form:
    """Of several results in training the one that the layers make which make the evaluated one; of
    several such, the one by which most of what is evaluated learns; of these the first."""
    last, learning = set(heads(evaluated.nodes)), evaluated.learning()

    def likeness(form: Form) -> tuple[int, int]:
        return len(last & set(heads(form.nodes))), len(learning & _differentiated(form.nodes))

    return max(forms, key=likeness)


def untrained(label: str, trained: Form, evaluated: Form) -> list[str]:
    """What is to be said of what is evaluated and gets no gradients. Raises StError if a part of it
    has no part in the training at all: its first values would be reported as a trained network.
    What the module itself shields by `detach` or `no_grad` is the author's intention."""
    learning = evaluated.learning()
    foreign = sorted(learning - trained.tensors.keys())
    if foreign:
        raise StError(
            f"{label}: its result in training does not come of all that is evaluated, so that this "
            f"would never be trained: {_some(foreign)}; return one result, of the same layers, in "
            "training and evaluation, or freeze what is to stay as it is (requires_grad_(False))"
        )
    shielded = sorted(learning - _differentiated(trained.nodes))
    return [f"get no gradients in training, stay as they are: {_some(shielded)}"] * bool(shielded)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def _differentiated(nodes: list[Node]) -> set[str]:
    """The tensors with which the last node's result changes but for what `detach` holds back."""
    written: dict[int, list[int]] = {}  # by node, the nodes that write into it or a view of it
    for number, node in enumerate(nodes):
        target = uses(node)[:1] if uses(node) and writes(node) else []
        while target:
            written.setdefault(target[0], []).append(number)
            target = uses(nodes[target[0]])[:1]
    found: set[str] = set()
    pending, seen = [len(nodes) - 1], set()
    while pending:
        number = pending.pop()
        if number not in seen and nodes[number].name != "detach":
            found |= set(named(nodes[number]))
            pending += [*uses(nodes[number]), *written.get(number, ())]
        seen.add(number)
    return found
