"""The text of a network's source: imports, classes, and how it is loaded."""

import re
from textwrap import fill
from typing import Any

from st.deploy.source.classes import Class, Classes, camel
from st.deploy.source.forward import MARK
from st.deploy.source.modules import CHAIN, LAYER, LIST, Module, tree
from st.deploy.source.steps import NONE, Layer, Source

WIDTH = 88
TAB = "    "
SELECT = '''
class Select(nn.Module):
    """Takes some of its input's channels; which, is stored with the weights."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("index", torch.zeros(channels, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)
'''


def text(source: Source, label: str, about: str) -> tuple[str, str]:
    """The file's text, and the name of the network's class. `label`: what the network is called;
    `about`: the file's docstring, in which {name} is the class. All names must be clean."""
    root = tree(source)
    name = camel(label)
    classes = Classes(source.order)
    classes.add(root, name)
    bodies = [_class(known, classes) for known in classes.found]
    code = "\n\n".join(bodies)
    select = f"\n{SELECT}" if "Select(" in code else ""
    lines = ["import torch"] if "torch." in code + select else []
    lines += ["from safetensors.torch import load_file", "from torch import Tensor, nn"]
    lines += ["from torch.nn import functional as F"] if "F." in code else []
    loading = (
        f"def load(weights: str | Path) -> {name}:\n"
        f'    """The trained network, ready to be used: weights from the file beside this one."""\n'
        f"    network = {name}()\n"
        "    network.load_state_dict(load_file(weights))\n"
        "    return network.eval()\n"
    )
    told = about.replace("{name}", name)
    start = f'"""{told}"""\n\nfrom pathlib import Path\n\n' + "\n".join(lines) + "\n"
    return f"{start}{select}\n\n{code}\n\n{loading}", name


def _class(known: Class, classes: Classes) -> str:
    module = known.modules[0]
    slots = iter(known.columns)
    body = []
    for name, child in module.children.items():
        body += wrapped(f"self.{name} = {_part(child, classes, slots)}", 2)
    for name, (shape, dtype, trained) in module.tensors.items():
        sizes = ", ".join(next(slots) for _ in shape)
        kind = "" if dtype == "float32" else f", dtype=torch.{dtype}"
        sizes = f"{sizes}{kind}" if shape else f"(){kind}"
        made = f"torch.zeros({sizes})"
        line = f"self.{name} = nn.Parameter({made})"
        if not trained:
            line = f'self.register_buffer("{name}", {made})'
        body += wrapped(line, 2)
    params = "".join(f", {name}: {known.types[name]}" for name in known.params)
    rest = list(slots)
    used = _own(known, rest)
    for name in used:
        body.append(f"{TAB * 2}self.{name}_ = {name}")
    head = f"class {known.name}(nn.Module):\n{TAB}{_docstring(known)}\n\n"
    head += "\n".join(wrapped(f"def __init__(self{params}):", 1)) + "\n"
    head += f"{TAB * 2}super().__init__()\n" + "\n".join(body)
    if not known.forward:
        return head.rstrip() + "\n"
    arguments = ", ".join(f"{name}: Tensor" for name in known.forward.arguments)
    many = len(module.outputs) != 1
    result = "tuple[Tensor, ...]" if many else "Tensor"
    lines = wrapped(f"def forward(self, {arguments}) -> {result}:", 1)
    for line in known.forward.lines:
        lines += wrapped(_filled(line, rest, used), 2)
    return f"{head.rstrip()}\n\n" + "\n".join(lines) + "\n"


def _own(known: Class, rest: list[str]) -> list[str]:
    """The parameters that the forward uses itself."""
    return list(dict.fromkeys(value for value in rest if value in known.params))


def _filled(line: str, rest: list[str], used: list[str]) -> str:
    def value(found: re.Match) -> str:
        told = rest[int(found[1])]
        return f"self.{told}_" if told in used else told

    return re.sub(f"{MARK}(\\d+){MARK}", value, line)


def _docstring(known: Class) -> str:
    names = [module.path or "the network" for module in known.modules]
    told = names if len(names) <= 3 else [names[0], "...", names[-1]]
    if names == ["the network"]:
        return '"""The network: images (n, channels, height, width) to logits (n, classes)."""'
    line = f'"""{", ".join(told)}."""'
    if len(TAB + line) <= WIDTH:
        return line
    return "\n".join(fill(line, WIDTH, subsequent_indent=TAB).splitlines())


def _part(module: Module, classes: Classes, slots: Any) -> str:
    """The call that makes a part."""
    if module.kind == LAYER:
        assert module.layer
        return _layer(module.layer, slots)
    if module.kind in (CHAIN, LIST):
        parts, last = [], -1
        for number, child in module.children.items():
            parts += ["nn.Identity()"] * (int(number) - last - 1)
            parts.append(_part(child, classes, slots))
            last = int(number)
        if module.kind == CHAIN:
            return f"nn.Sequential({', '.join(parts)})"
        return f"nn.ModuleList([{', '.join(parts)}])"
    known = classes.of[module.path]
    return f"{known.name}({', '.join(f'{name}={next(slots)}' for name in known.params)})"


def _layer(layer: Layer, slots: Any) -> str:
    given = []
    for argument in layer.arguments:
        told = next(slots)
        if argument.default is not NONE and told == repr(argument.default):
            continue
        given.append(f"{argument.name}={told}" if argument.by_name else told)
    return f"{layer.callee}({', '.join(given)})"


def wrapped(line: str, depth: int) -> list[str]:
    """A statement as lines of at most WIDTH characters, where brackets allow it."""
    indent = TAB * depth
    if len(indent + line) <= WIDTH:
        return [indent + line]
    opened = _outermost(line)
    if opened is None:
        return [indent + line]
    start, end = opened
    parts = _split(line[start + 1 : end])
    inner = ", ".join(parts)
    head, tail = indent + line[: start + 1], indent + line[end:]
    if len(parts) > 1 and len(inner) + len(indent) + 4 <= WIDTH and "nn.S" not in line[: start + 1]:
        return [head, f"{indent}{TAB}{inner}", tail]
    lines = [head]
    called = line[start] == "[" or re.match(r"[\w)\]]", line[start - 1 : start])
    for part in parts:  # a comma after what is only grouped would make a tuple of it
        lines += wrapped(part, depth + 1)
        lines[-1] += "," if len(parts) > 1 or (called and "(" in part) else ""
    return [*lines, tail]


def _outermost(line: str) -> tuple[int, int] | None:
    """The brackets with the longest contents: the places of both."""
    stack, found = [], []
    for place, character in enumerate(line):
        if character in "([":
            stack.append(place)
        elif character in ")]" and stack:
            found.append((stack.pop(), place))
    return max(found, key=lambda pair: pair[1] - pair[0], default=None)


def _split(inner: str) -> list[str]:
    """At commas that lie in no brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(inner):
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            parts.append(inner[start:place].strip())
            start = place + 1
    return [part for part in [*parts, inner[start:].strip()] if part]
