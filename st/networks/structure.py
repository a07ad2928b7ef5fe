"""Structures: which channels of a supernet remain. Plain, versioned data (structure.json)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from st.core.errors import StError, one_line, sizes
from st.core.files import read_json, write_json
from st.networks import program_file
from st.networks.drawing import Drawing, Keep
from st.networks.graph import draw
from st.networks.program import Program

FORMAT = "search-and-train structure"
VERSION = 1
# 4 GB of weights. A file may come from anyone: it must not make a job ask for any amount of memory.
MOST_PARAMETERS = 10**9


@dataclass(frozen=True, repr=False)
class Structure:
    """An architecture, what it is built for, and the channels kept of each group.

    A group that `keep` does not name keeps all its channels; with an empty `keep` and no
    `supernet_options` this is the supernet. Indices are sorted and refer to the channels of the
    network that `options` describe.

    `supernet_options`: the supernet's options where `options` are not, because the search changed
    them (a width multiplier, say) instead of naming channels. `program`: the drawing of an imported
    network, which no options tell.
    """

    family: str
    options: dict[str, Any]
    input_shape: tuple[int, int, int]
    classes: int
    keep: Keep = field(default_factory=dict)
    supernet_options: dict[str, Any] | None = None
    program: Program | None = None

    def __repr__(self) -> str:
        (params, macs), (all_params, all_macs) = self.cost(), self.full.cost()
        return (
            f"Structure({self.label}, {sizes(self.input_shape)}, {self.classes} classes: "
            f"{params:,} of {all_params:,} parameters, {macs:,} of {all_macs:,} MACs)"
        )

    @cached_property
    def graph(self) -> Drawing:
        """The drawing of the supernet, with all channels."""
        return self.program or draw(self.family, self.options, self.input_shape, self.classes)

    @property
    def label(self) -> str:
        """What people call the architecture: the family, or an imported module's name."""
        module = self.options.get("module") if self.program else None
        return str(module).rpartition(":")[2] if module else self.family

    @property
    def full(self) -> "Structure":
        """The supernet that this structure is a part of."""
        options = self.options if self.supernet_options is None else self.supernet_options
        return Structure(self.family, options, self.input_shape, self.classes, program=self.program)

    def with_keep(self, keep: Keep) -> "Structure":
        """Other channels of the same supernet; the drawing is made anew."""
        return replace(self, keep=keep)

    def with_taps(self, taps: Mapping[str, Any]) -> "Structure":
        """The same, with further taps on a drawing of its own."""
        result = replace(self)
        result.__dict__["graph"] = self.graph.tapped(taps)  # where cached_property looks
        return result

    @property
    def widths(self) -> dict[str, int]:
        """Number of kept channels of each group."""
        return self.graph.widths(self.keep)

    def cost(self) -> tuple[int, int]:
        """(parameters, MACs for one image)."""
        return self.graph.cost(self.widths)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by name, in the order of `graph.tensors()`."""
        sizes = self.graph.sizes(self.widths)
        return {
            tensor.name: tuple(
                size if axis is None else sizes[axis]
                for size, axis in zip(tensor.shape, tensor.axes, strict=True)
            )
            for tensor in self.graph.tensors()
        }

    def kept(self, group: str) -> np.ndarray:
        """Indices of the kept channels of `group`, shape (k,)."""
        return self.keep[group] if group in self.keep else np.arange(self.graph.groups[group].size)

    def to_json(self) -> dict[str, Any]:
        """As structure.json says it; `from_json` reads it back."""
        told = {"program": program_file.to_json(self.program)} if self.program else {}
        return {
            "format": FORMAT,
            "version": VERSION,
            "architecture": {"family": self.family, "options": self.options},
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "supernet_options": self.supernet_options,
            "keep": {name: [int(i) for i in kept] for name, kept in self.keep.items()},
            **told,
        }

    @classmethod
    def from_json(cls, data: Any, source: str) -> "Structure":
        """Check and read `to_json`'s data; raises StError that names `source` and the key."""

        def require(condition: bool, problem: str) -> None:
            if not condition:
                raise StError(
                    f"{source}: {one_line(problem)}; build it again with the search phase"
                )

        require(isinstance(data, dict) and data.get("format") == FORMAT, "is not a structure")
        require(data.get("version") == VERSION, f"has version {data.get('version')}, not {VERSION}")
        architecture, shape = data.get("architecture"), data.get("input_shape")
        require(
            isinstance(architecture, dict)
            and isinstance(architecture.get("family"), str)
            and isinstance(architecture.get("options"), dict),
            "'architecture' needs a family and options",
        )
        require(
            isinstance(shape, list)
            and len(shape) == 3
            and all(type(n) is int and 0 < n <= 65536 for n in shape),
            "'input_shape' must be three positive numbers",
        )
        classes, keep = data.get("classes"), data.get("keep")
        supernet = data.get("supernet_options")
        require(
            supernet is None or isinstance(supernet, dict), "'supernet_options' must be options"
        )
        require(type(classes) is int and 0 < classes <= 10**6, "'classes' must be positive")
        require(isinstance(keep, dict), "'keep' must map groups to channels")
        try:
            told = data.get("program")
            program = program_file.from_json(told) if told is not None else None
            require(
                program is None
                or (program.input_shape, program.classes) == (tuple(shape), classes),
                "'program' is for other images",
            )
            structure = cls(
                architecture["family"], architecture["options"], tuple(shape), classes,
                supernet_options=supernet, program=program,
            )  # fmt: skip
            groups = structure.graph.groups
            most = max(part.cost()[0] for part in (structure, structure.full))
        except StError as error:
            raise StError(f"{source}: {one_line(error)}") from error
        require(most <= MOST_PARAMETERS, f"describes a network of {most:,} parameters")
        checked = {}
        for name, kept in keep.items():
            require(
                name in groups, f"'keep' names '{name}', which {structure.family} does not have"
            )
            require(
                isinstance(kept, list)
                and len(kept) > 0
                and all(type(i) is int for i in kept)
                and kept == sorted(set(kept))
                and kept[0] >= 0
                and kept[-1] < groups[name].size,
                f"'keep.{name}' must be sorted channels of 0...{groups[name].size - 1}",
            )
            checked[name] = np.array(kept, dtype=np.int64)
        object.__setattr__(structure, "keep", checked)
        return structure


def save_structure(path: str | Path, structure: Structure, **facts: Any) -> None:
    """Write structure.json; `facts` (sizes, how it was found) are for people and reports."""
    write_json(path, {**structure.to_json(), **facts}, indent=None)


def load_structure(path: str | Path) -> Structure:
    """Read structure.json; raises StError that names the file and what is wrong in it."""
    return Structure.from_json(read_json(path), str(path))
