"""Classes of the modules of a network: one for all that differ in numbers only."""

import re
from dataclasses import dataclass, field
from typing import Any

from st.deploy.source.forward import Forward, forward
from st.deploy.source.modules import CHAIN, CLASS, HOLDER, LAYER, LIST, Module

RESERVED = ("F", "Path", "Select", "Tensor")  # names that the file has already
MOST = 6  # arguments of a constructor; beyond, modules get classes of their own

Slots = list[tuple[str, Any]]  # suggested names and values


@dataclass
class Class:
    """`modules`: those that are made of it. `columns`: what the constructor has in each slot: a
    literal, or the name of a parameter. `params`: these, each with the number of its slot; `types`:
    and with its type."""

    name: str
    modules: list[Module]
    forward: Forward | None
    columns: list[str] = field(default_factory=list)
    params: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)


@dataclass
class Classes:
    """All classes, those first that others are made of; `of`: by the paths of modules."""

    order: bool = False
    found: list[Class] = field(default_factory=list)
    of: dict[str, Class] = field(default_factory=dict)

    def add(self, root: Module, name: str) -> None:
        """Find the classes of all modules; `name`: the network's own."""
        levels: dict[int, list[Module]] = {}
        for module in root.walk():
            if module.kind in (CLASS, HOLDER):
                levels.setdefault(_height(module), []).append(module)
        for level in sorted(levels):
            self._level(levels[level], root, name)

    def _level(self, modules: list[Module], root: Module, name: str) -> None:
        groups: dict[Any, list[tuple[Module, Forward | None, Slots]]] = {}
        for module in modules:
            written = forward(module, self.order) if module.kind == CLASS else None
            key, slots = self._contents(module)
            if written:
                slots += [(slot.name, slot.value) for slot in written.slots]
            told = (tuple(written.lines), tuple(written.arguments)) if written else None
            groups.setdefault((key, told), []).append((module, written, slots))
        for group in groups.values():
            columns = list(zip(*(slots for _, _, slots in group), strict=True))
            values = [[repr(value) for _, value in column] for column in columns]
            if len({tuple(column) for column in values if len(set(column)) > 1}) <= MOST:
                self._make(group, _named(group[0][0].path, len(group) > 1), root, name)
                continue
            alike: dict[str, list[tuple[Module, Forward | None, Slots]]] = {}
            for entry in group:
                alike.setdefault(repr([v for _, v in entry[2]]), []).append(entry)
            for part in alike.values():
                self._make(part, _named(part[0][0].path, len(part) > 1), root, name)

    def _make(
        self, group: list[tuple[Module, Forward | None, Slots]], name: str, root: Module, own: str
    ) -> None:
        taken = {known.name for known in self.found} | {own, *RESERVED}
        if group[0][0] is root:
            name = own
        else:
            if name in taken and len(group) == 1:  # stage2.block1 is a Stage2Block1
                name = camel(re.sub(r"\W", "_", group[0][0].path))
            base, number = name, 2
            while name in taken:
                name, number = f"{base}_{number}", number + 1
        made = Class(name, [module for module, _, _ in group], group[0][1])
        vectors: dict[str, str] = {}
        for place, column in enumerate(zip(*(slots for _, _, slots in group), strict=True)):
            values = [value for _, value in column]
            text = repr(values)
            if len({repr(value) for value in values}) == 1:
                made.columns.append(repr(values[0]))
                continue
            if text not in vectors:
                vectors[text] = _unique(column[0][0], made.params, first=place == 0)
                made.params[vectors[text]] = place
                kinds = sorted({type(value).__name__ for value in values})
                made.types[vectors[text]] = " | ".join(kinds).replace("NoneType", "None")
            made.columns.append(vectors[text])
        self.found.append(made)
        self.of |= {module.path: made for module in made.modules}

    def _contents(self, module: Module) -> tuple[Any, Slots]:
        """What tells the constructor of a class apart from others, and its slots."""
        keys, slots = [], []
        for name, child in module.children.items():
            key, more = self.part(child, name)
            keys.append((name, key))
            slots += more
        for name, (shape, dtype, trained) in module.tensors.items():
            keys.append((name, (len(shape), dtype, trained)))
            slots += [("size", size) for size in shape]
        return tuple(keys), slots

    def part(self, module: Module, name: str) -> tuple[Any, Slots]:
        """The same of a part that a constructor makes; `name`: what it is called there."""
        if module.kind == LAYER:
            assert module.layer
            told = module.layer.arguments
            key = (module.layer.callee, tuple((a.name, repr(a.default), a.by_name) for a in told))
            return key, [(f"{name}.{argument.name}", argument.value) for argument in told]
        if module.kind in (CHAIN, LIST):
            keys, slots = [], []
            for number, child in module.children.items():
                child_key, more = self.part(child, f"{name}.{number}")
                keys.append((number, child_key))
                slots += more
            return (module.kind, tuple(keys)), slots
        known, values = self.of[module.path], self._values(module)
        return known.name, [
            (f"{name}.{param}", values[place]) for param, place in known.params.items()
        ]

    def _values(self, module: Module) -> list[Any]:
        _, slots = self._contents(module)
        if module.kind == CLASS:
            slots += [(slot.name, slot.value) for slot in forward(module, self.order).slots]
        return [value for _, value in slots]


def _height(module: Module) -> int:
    """How many classes lie within one another."""
    inner = max((_height(child) for child in module.children.values()), default=0)
    return inner + (module.kind in (CLASS, HOLDER))


def _named(path: str, several: bool) -> str:
    """A class's name, after the last word of a module's; with the number if it is but one:
    `blocks.3` is a Block or Block3, `stage2.0` a StageBlock, `stage2` a Stage or Stage2."""
    *parts, last = path.split(".")
    number = last if last.isdigit() else ""
    word = next((part for part in [*parts, last][::-1] if not part.isdigit()), "part")
    if number:
        plural = word.endswith("s") and not word.endswith("ss")
        word = word[:-1] if plural else re.sub(r"_?\d+$", "", word) + "_block"
        return camel(word) + ("" if several else number)
    return camel(re.sub(r"_?\d+$", "", word) or word) if several else camel(word)


def camel(text: str) -> str:
    """A class's name of any words."""
    words = [word for word in re.split(r"[^0-9a-zA-Z]+", text) if word]
    name = "".join(word[:1].upper() + word[1:] for word in words)
    name = name if name[:1].isalpha() else f"Network{name}"
    return f"{name}Network" if name in RESERVED else name


def _unique(hint: str, taken: dict[str, int], first: bool) -> str:
    """A parameter's name: after a part and its argument, or the argument alone where that tells."""
    _, _, argument = hint.rpartition(".")
    if first and argument in ("in", "channels", "in_channels"):
        return "in_channels"
    short = argument if argument in ("stride", "before", "after") else ""
    name = short if short and short not in taken else re.sub(r"\W", "_", hint)
    name = name.removesuffix("_in_channels") + ("_in" if name.endswith("_in_channels") else "")
    name = f"n{name}" if name[:1].isdigit() else name
    base, number = name, 2
    while name in taken:
        name, number = f"{base}{number}", number + 1
    return name
