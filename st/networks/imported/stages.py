"""The values of an imported network that losses can ask for."""

from dataclasses import replace

from st.core.errors import StError
from st.core.registry import closest
from st.networks.program import CONVOLUTIONS, MADE, Node, Program, uses

LINEAR = ("linear", "addmm")
# what leaves a vector's meaning as it is
PASSES = ("dropout", "flatten", "view", "reshape", "squeeze", "clone", "contiguous", "output")


def tapped(program: Program, stages: list[str] | None) -> Program:
    """The program with taps: `stage1`... from its input to its output, `features` (what the last
    linear layer reads, if that is a vector) and `logits`.

    `stages`: parts of the module, whose results are the stages; default: the last map of each size
    among those that everything passes through. Raises StError if there is no such part.
    """
    taps: dict[str, dict[str, int]] = {}
    for form, nodes in program.forms.items():
        found = _default(nodes) if stages is None else [_result_of(nodes, m) for m in stages]
        for number, node in enumerate(found, 1):
            taps.setdefault(f"stage{number}", {})[form] = node
        features = _features(nodes)
        if features is not None:
            taps.setdefault("features", {})[form] = features
        taps.setdefault("logits", {})[form] = len(nodes) - 1
    both = {name: places for name, places in taps.items() if len(places) == len(program.forms)}
    order = sorted(both, key=lambda name: both[name]["eval"])
    return replace(program, taps={name: both[name] for name in order})


def _result_of(nodes: list[Node], module: str) -> int:
    """The last node that a part of the module called."""
    within = [n for n, node in enumerate(nodes) if f"{node.module}.".startswith(f"{module}.")]
    if not within or not module:
        known = {node.module for node in nodes if node.module}
        raise StError(f"option 'stages': no part is called '{module}'; {closest(module, known)}")
    if len(nodes[within[-1]].shapes) != 1 or len(nodes[within[-1]].shapes[0]) != 4:
        raise StError(f"option 'stages': '{module}' does not give a map of height and width")
    return within[-1]


def _default(nodes: list[Node]) -> list[int]:
    """The last map of each size among the nodes that everything passes through, where a convolution
    lies between the first and the last of that size."""
    # of convolutions, because in other four-dimensional tensors channels may be last
    sizes = {tuple(node.shapes[0][2:]) for node in nodes if node.name in CONVOLUTIONS}
    spine = [n for n in _spine(nodes) if len(nodes[n].shapes) == 1 and len(nodes[n].shapes[0]) == 4]
    found: list[int] = []
    for size in dict.fromkeys(tuple(nodes[n].shapes[0][2:]) for n in spine):
        if size not in sizes:
            continue
        same = [n for n in spine if tuple(nodes[n].shapes[0][2:]) == size]
        if any(nodes[n].name in CONVOLUTIONS for n in range(same[0], same[-1] + 1)):
            found.append(same[-1])
    return found


def _spine(nodes: list[Node]) -> list[int]:
    """The nodes on every path of images from the input to the output, in order."""
    readers: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        # numbers that are no tensors, and what is made in the form of another tensor, are no path
        for used in uses(node) if node.shapes and node.name not in MADE else ():
            readers[used].append(number)
    # the nearest node that everything from here on passes through, from the output backwards
    after: dict[int, int] = {len(nodes) - 1: len(nodes)}
    for number in range(len(nodes) - 2, -1, -1):
        reached = [r for r in readers[number] if r in after]
        if not reached:
            continue
        meeting = reached[0]
        for other in reached[1:]:
            while meeting != other:
                if meeting < other:
                    meeting = after[meeting]
                else:
                    other = after[other]
        after[number] = meeting
    spine, at = [], 0
    while at in after:
        spine.append(at)
        at = after[at]
    return spine


def _features(nodes: list[Node]) -> int | None:
    """What the last linear layer reads, if nothing but it follows and that is a vector an image."""
    at = len(nodes) - 1
    while nodes[at].name in PASSES or nodes[at].op in PASSES:
        at = uses(nodes[at])[0]
    if nodes[at].name not in LINEAR:
        return None
    read = uses(nodes[at])[0]
    while nodes[read].name == "dropout":  # what the teacher, too, has
        read = uses(nodes[read])[0]
    return read if len(nodes[read].shapes[0]) == 2 else None
