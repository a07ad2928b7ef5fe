"""Models on disk: safetensors whose header says what they are. No pickle is read or written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from st import __version__
from st.core.errors import StError
from st.core.tensors import VERSION, checksum, read_tensors, write_tensors
from st.networks.structure import Structure

FORMAT = "search-and-train model"


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name (see Graph.tensors), the structure that they fill, and their provenance."""

    path: str
    tensors: dict[str, np.ndarray]
    structure: Structure
    facts: dict[str, Any]

    def digest(self) -> str:
        """A hash of the weights and the structure."""
        return checksum(self.tensors, json.dumps(self.structure.to_json()))


def save_model(
    path: str | Path, structure: Structure, tensors: dict[str, np.ndarray], **facts: Any
) -> None:
    """Write a model. `facts`: where it comes from (job, epochs, ...), stored in the header."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "st_version": __version__,
        "structure": structure.to_json(),
        "facts": facts,
    }
    write_tensors(path, tensors, header)


def verify(name: str, tensors: Mapping[str, np.ndarray], structure: Structure, remedy: str) -> None:
    """Raise StError, which calls the model `name` and says the `remedy`, unless its tensors are
    those of its structure, of the right types, and finite."""
    expected = structure.shapes()
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for tensor in sorted(expected.keys() | found.keys()):
        if expected.get(tensor) != found.get(tensor):
            raise StError(
                f"{name}: tensor '{tensor}' has shape {found.get(tensor)}, but its structure says "
                f"{expected.get(tensor)}; {remedy}"
            )
    for known in structure.graph.tensors():
        value = tensors[known.name]
        if value.dtype != known.dtype:
            raise StError(
                f"{name}: tensor '{known.name}' is of type {value.dtype}, not {known.dtype}; "
                f"{remedy}"
            )
        if known.trained and not np.isfinite(value).all():
            raise StError(f"{name}: tensor '{known.name}' has values that are not finite; {remedy}")


def load_model(path: str | Path) -> Checkpoint:
    """Read a model and check every tensor against its structure."""
    tensors, header = read_tensors(path, FORMAT)
    structure = Structure.from_json(header.get("structure"), str(path))
    verify(str(path), tensors, structure, "delete it and build it again")
    facts = header.get("facts")
    return Checkpoint(str(path), tensors, structure, facts if isinstance(facts, dict) else {})
