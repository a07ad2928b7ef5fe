"""The modules of a network's source: what lies in each, found by the dots of names."""

import keyword
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from st.deploy.source.steps import Held, Layer, Source, Step, container

HOLDER, CLASS, CHAIN, LIST, LAYER = "holder", "class", "chain", "list", "layer"


@dataclass
class Call:
    """A module that is called in another one's forward. `inputs`, `makes`: values."""

    path: str
    inputs: list[int]
    makes: list[int | None]


Item = Step | Call


@dataclass
class Module:
    """`kind`: CLASS, with a forward; HOLDER, a class without one, whose parts are called from
    outside; CHAIN, LIST: nn.Sequential and nn.ModuleList; LAYER. `items`: what the forward does
    with `inputs` to give `outputs`."""

    path: str
    kind: str
    children: dict[str, "Module"] = field(default_factory=dict)
    layer: Layer | None = None
    items: list[Item] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    tensors: dict[str, tuple] = field(default_factory=dict)

    def walk(self) -> Iterator["Module"]:
        """Itself after all that lie in it."""
        for child in self.children.values():
            yield from child.walk()
        yield self


def clean(part: str) -> str:
    """A name that can be an attribute of a module, or a number of a list."""
    part = re.sub(r"\W", "_", part)
    if part[:1].isdigit() and not part.isdigit():
        part = f"_{part}"
    return f"{part}_" if keyword.iskeyword(part) else part


def renamed(source: Source) -> Callable[[str], str]:
    """Give all modules and tensors of a source names that code can have; returns what did it.

    Numbers stay where all parts of a module have one and are modules.
    """
    tensors = {*source.tensors}
    names = {step.path for step in source.steps if step.path} | tensors
    parts: dict[str, set[str]] = {}
    for name in names:
        while name:
            parts.setdefault(container(name), set()).add(name.rpartition(".")[2])
            name = container(name)
    mixed = {
        path for path, found in parts.items()
        if any(p.isdigit() for p in found) and (not path or not all(p.isdigit() for p in found))
    }  # fmt: skip

    def rename(name: str) -> str:
        path, last = container(name), name.rpartition(".")[2]
        if not name:
            return name
        if name in tensors and last.isdigit():  # of a ParameterList
            last = f"weight{last}"
        elif last.isdigit() and path in mixed:
            last = f"layer{last}"
        return f"{rename(path)}.{clean(last)}" if path else clean(last)

    for step in source.steps:
        step.path = rename(step.path)
        step.parts = [Held(rename(p.name)) if isinstance(p, Held) else p for p in step.parts]
    source.tensors = {rename(name): told for name, told in source.tensors.items()}
    return rename


def tree(source: Source) -> Module:
    """All modules, by name within one another."""
    builder = _Builder(source)
    root = builder.build("", list(source.steps), {source.output})
    for step in source.steps:
        if step.layer:
            builder.modules[step.path] = Module(step.path, LAYER, layer=step.layer)
    for name in [*builder.modules]:
        builder.holders(container(name))
    for name, told in source.tensors.items():
        builder.holders(container(name))
        builder.modules.get(container(name), root).tensors[name.rpartition(".")[2]] = told
    builder.modules[""] = root
    for path in sorted(builder.modules, key=builder.place):
        if path:
            parent = builder.modules[container(path)]
            parent.children[path.rpartition(".")[2]] = builder.modules[path]
    for module in root.walk():
        numbers = all(name.isdigit() for name in module.children)
        if module.kind == HOLDER and module.children and numbers and not module.tensors:
            module.kind = LIST
    return root


class _Builder:
    def __init__(self, source: Source):
        self.modules: dict[str, Module] = {}
        self._order: dict[str, int] = {}
        for number, step in enumerate(source.steps):
            path = step.path
            while path:
                self._order.setdefault(path, number)
                path = container(path)

    def place(self, path: str) -> tuple[int, int]:
        """What sorts modules as they are used."""
        return self._order.get(path, 10**9), path.count(".")

    def holders(self, path: str) -> None:
        """Make modules for the path, where there are none."""
        while path and path not in self.modules:
            self.modules[path] = Module(path, HOLDER)
            path = container(path)

    def build(self, path: str, steps: list[Step], wanted: set[int]) -> Module:
        """The module that consists of these steps, whose results `wanted` are used elsewhere."""
        before = set(self.modules)
        apart: set[str] = set()
        while True:
            items, failed = self._items(path, steps, wanted, apart)
            if not failed:
                break
            for name in self.modules.keys() - before:
                del self.modules[name]
            apart |= failed
        made = {n for step in steps for n in step.makes}
        used = [n for item in items for n in item.inputs]
        inputs = list(dict.fromkeys(n for n in used if n not in made))
        outputs = [n for step in steps for n in step.makes if n in wanted]
        return Module(path, CLASS, items=items, inputs=inputs, outputs=outputs)

    def _items(
        self, path: str, steps: list[Step], wanted: set[int], apart: set[str]
    ) -> tuple[list[Item], set[str]]:
        """What the module does. `apart`: modules in it that can't be called as a whole. Returns
        also those that turn out to be."""
        runs: list[tuple[str, list[Step]]] = []
        for step in steps:
            key = _key(step, path, apart)
            if runs and key and runs[-1][0] == key:
                runs[-1][1].append(step)
            else:
                runs.append((key, [step]))
        counts: dict[str, int] = {}
        for key, _ in runs:
            counts[key] = counts.get(key, 0) + 1
        numbered = {key for key in counts if key and key.rpartition(".")[2].isdigit()}
        failed = {key for key, n in counts.items() if key and n > 1}
        items: list[Item] = []
        for key, inside in runs if not failed else ():
            first = inside[0]
            if not key or (first.layer and first.path == key):
                items += inside
                continue
            weighty = any(step.layer or step.held for step in inside)
            if not weighty and not (numbered and key in numbered):
                items += inside
                continue
            made = {n for step in inside for n in step.makes}
            others = [step for step in steps if not any(step is own for own in inside)]
            read = {n for step in others for n in step.inputs} | wanted
            if len(inside) == 1 and first.module and not weighty:
                self.modules[key] = Module(key, LAYER, layer=first.module)
                items.append(Call(key, first.inputs[:1], first.makes))
                continue
            module = self.build(key, inside, read & made)
            if not module.inputs or not module.outputs:
                failed.add(key)
                continue
            self.modules[key] = module
            items.append(Call(key, module.inputs, list(module.outputs)))
            if any(_number(item, key) for item in module.items):
                if not _chain(module):
                    failed.add(key)
                module.kind = CHAIN
        return items, failed


def _key(step: Step, path: str, apart: set[str]) -> str:
    """The module directly in `path`, or in what is apart, that the step belongs to; none if it is
    the module's own."""
    if step.path == path:
        return ""
    parts, depth = step.path.split("."), path.count(".") + 2 if path else 1
    while depth <= len(parts):
        key = ".".join(parts[:depth])
        if key not in apart:
            return key
        depth += 1
    return ""


def target(item: Item) -> str:
    """The module that the item calls."""
    return item.path if isinstance(item, Call) or item.layer else ""


def _number(item: Item, path: str) -> bool:
    """Whether it calls a module that has a number in place of a name."""
    name = target(item)
    return container(name) == path and name.rpartition(".")[2].isdigit()


def _chain(module: Module) -> bool:
    """Whether its parts are called one after another, each with what the one before gave."""
    if len(module.inputs) != 1 or len(module.outputs) != 1:
        return False
    value: int | None = module.inputs[0]
    last = -1
    for item in module.items:
        if not _number(item, module.path) or item.inputs != [value] or len(item.makes) != 1:
            return False
        number = int(target(item).rpartition(".")[2])
        if number <= last:
            return False
        value, last = item.makes[0], number
    return value == module.outputs[0]
