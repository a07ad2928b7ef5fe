"""The statements of a module's forward."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from st.deploy.source.modules import Call, Module
from st.deploy.source.steps import Held, Part, Slot, Step, Value

NAMES = ("x", "y", "z", "u", "v", "w")
LONGEST = 60  # characters of an expression within another one
MARK = "\0"  # around the number of a slot


@dataclass
class Forward:
    """`arguments`: the names of its inputs; `lines`, in which MARKs stand for `slots`."""

    arguments: list[str]
    lines: list[str] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)


@dataclass
class _Pending:
    """An expression that is written where it is used. `inputs`: values that it reads."""

    value: int
    text: str
    loose: bool
    inputs: list[int]


def forward(module: Module, order: bool) -> Forward:
    """`order`: whether each step must be its own statement, because some write into others'."""
    return _Writer(module, order).write()


def attribute(module: Module, path: str) -> str:
    """How a module calls what lies in it, or in the parts of it."""
    own = path[len(module.path) + 1 :] if module.path else path
    text = "self"
    for part in own.split("."):
        text += f"[{part}]" if part.isdigit() else f".{part}"
    return text


class _Writer:
    def __init__(self, module: Module, order: bool):
        self._module, self._order = module, order
        self._uses = Counter(n for item in module.items for n in item.inputs)
        self._uses.update(module.outputs)
        self._names: dict[int, str] = {}  # of values that have a variable
        self._pending: _Pending | None = None
        self._left = Counter(self._uses)
        self._written = Forward([])

    def write(self) -> Forward:
        for value in self._module.inputs:
            self._names[value] = self._free()
            self._written.arguments.append(self._names[value])
        for item in self._module.items:
            self._item(item)
        if self._pending and self._module.outputs == [self._pending.value]:
            self._written.lines.append(f"return {self._pending.text}")
            return self._written
        self._flush()
        self._written.lines.append(
            f"return {', '.join(self._names[n] for n in self._module.outputs)}"
        )
        return self._written

    def _item(self, item: Step | Call) -> None:
        parts: list[Part]
        if isinstance(item, Call) or item.layer:
            called = attribute(self._module, item.path)
            arguments = [p for n in item.inputs for p in (Value(n), ", ")][:-1]
            parts, loose = [f"{called}(", *arguments, ")"], False
        else:
            parts, loose = item.parts, item.loose
        held = self._pending
        inside = held is not None and held.value in item.inputs and len(held.text) <= LONGEST
        if held and not inside:
            self._flush()
            held = None
        text = "".join(self._part(part, parts, n, held) for n, part in enumerate(parts))
        self._pending = None
        inputs = [n for n in item.inputs if not held or n != held.value]
        inputs += held.inputs if held else []
        if len(item.makes) == 1 and item.makes[0] is not None:
            self._pending = _Pending(item.makes[0], text, loose, inputs)
            if self._order or self._uses[item.makes[0]] != 1:
                self._flush()
            return
        self._left.subtract(inputs)
        names = []
        for value in item.makes:
            if value is None or not self._uses[value]:
                names.append("_")
                continue
            self._names[value] = self._free(names)
            names.append(self._names[value])
        self._written.lines.append(f"{', '.join(names)} = {text}")

    def _part(self, part: Part, parts: list[Part], place: int, held: _Pending | None) -> str:
        if isinstance(part, str):
            return part
        if isinstance(part, Slot):
            self._written.slots.append(part)
            return f"{MARK}{len(self._written.slots) - 1}{MARK}"
        if isinstance(part, Held):
            return attribute(self._module, part.name)
        if held and part.number == held.value:
            before, after = (str(p) for p in (["", *parts][place], [*parts, ""][place + 1]))
            enclosed = before.endswith(("(", "[", ", ")) and after[:1] in (")", "]", ",")
            return f"({held.text})" if held.loose and not enclosed else held.text
        return self._names[part.number]

    def _flush(self) -> None:
        """Give the pending expression a variable."""
        held, self._pending = self._pending, None
        if held is None:
            return
        self._left.subtract(held.inputs)
        if not self._uses[held.value]:
            self._written.lines.append(held.text)
            return
        dead = [self._names[n] for n in held.inputs if not self._left[n] and n in self._names]
        for n in held.inputs:
            if not self._left[n]:
                self._names.pop(n, None)
        taken = set(self._names.values())
        self._names[held.value] = next((n for n in dead if n not in taken), None) or self._free()
        self._written.lines.append(f"{self._names[held.value]} = {held.text}")

    def _free(self, others: Sequence[str] = ()) -> str:
        """A name that no value has which is still needed."""
        taken = {name for n, name in self._names.items() if self._left[n] > 0} | set(others)
        found = next((name for name in NAMES if name not in taken), None)
        number = 1
        while found is None:
            found = f"x{number}" if f"x{number}" not in taken else None
            number += 1
        for n in [n for n, name in self._names.items() if name == found and self._left[n] <= 0]:
            del self._names[n]
        return found
