"""Weights from elsewhere: safetensors files of tensors by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from st.core import registry
from st.core.errors import StError, one_line
from st.core.files import whole
from st.networks.checkpoint import Checkpoint
from st.networks.structure import Structure

Shapes = Mapping[str, tuple[int, ...]]


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, whoever made it."""
    if not path.is_file():
        raise StError(f"{path}: is missing; paths are relative to the project")
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # bfloat16, where a library of it is installed
        return {n: v.astype(np.float32) if v.dtype.kind == "V" else v for n, v in found.items()}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise StError(
            f"{path}: is no safetensors file that can be read ({one_line(error)}); `st convert "
            "FILE.pth FILE.safetensors` makes one of a file of torch's, in float32"
        ) from error


def refuse(
    path: Path, given: Shapes, wanted: Shapes, optional: set[str]
) -> tuple[list[str], list[str]]:
    """Raise StError unless a file has what a network needs. Returns the names of the tensors whose
    first axis alone is another, those of a last layer for other classes, and what is to be said of
    them."""
    last = list(wanted)[-2:]
    other = [
        name
        for name in last
        if name in given and given[name] != wanted[name] and given[name][1:] == wanted[name][1:]
    ]
    wrong = [
        f"'{name}' has shape {given[name]} instead of {wanted[name]}"
        for name in wanted
        if name in given and given[name] != wanted[name] and name not in other
    ]
    missing = [f"'{name}'" for name in wanted if name not in given and name not in optional]
    foreign = [f"'{name}'" for name in given if name not in wanted]
    parts = [
        f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if names[3:] else "")
        for what, names in (("lacks", missing), ("has foreign", foreign), ("", wrong))
        if names
    ]
    if parts:
        raise StError(f"{path}: does not fit the network: it {'; '.join(p.strip() for p in parts)}")
    said = [f"{path}: left out, for other classes: {', '.join(other)}"] if other else []
    return other, said


def fitted(
    structure: Structure, path: Path, initial: dict[str, np.ndarray], source: Checkpoint | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """A file's weights for the whole network, and what is to be said: weights for other classes
    are left out. What the file lacks of buffers is `source`'s, `initial` fills the
    rest."""
    given = read_weights(path)
    tied = structure.program.tied if structure.program else {}
    given = {name: value for name, value in given.items() if name not in tied}
    own = {t.name for t in structure.graph.tensors() if not t.trained}
    left_out, said = refuse(
        path,
        {name: value.shape for name, value in given.items()},
        structure.shapes(),
        optional=own,
    )
    result = dict(initial)
    for tensor in structure.graph.tensors():
        if tensor.name in given and tensor.name not in left_out:
            result[tensor.name] = given[tensor.name].astype(tensor.dtype)
        elif source and tensor.name in own:
            result[tensor.name] = source.tensors[tensor.name]
    return result, said


def first(
    structure: Structure,
    drawn: Checkpoint | None,
    seed: int,
    options: Mapping[str, Any],
    weights: Path | Literal["own"] | None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """What a supernet starts from, and what is to be said of it: weights drawn anew by the init
    `random` with its `options`, those that an imported module has of its own, or a file's.

    `drawn`: the imported network, if it is one.
    """
    if weights == "own" and drawn:
        return drawn.tensors, []
    anew = registry.inits.get("random")(structure, drawn, seed, **options)
    if weights is None or weights == "own":
        return anew, []
    return fitted(structure, weights, anew, drawn)


def convert(source: Path, target: Path) -> int:
    """Write the tensors of a file of torch's (.pth, .pt) to a safetensors file, in float32; returns
    how many. Nothing of it is run: torch reads weights only."""
    import torch

    if not source.is_file():
        raise StError(f"{source}: is missing")
    try:
        found: Any = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch finds in it
        raise StError(
            f"{source}: cannot be read without running it ({type(error).__name__}: "
            f"{one_line(error)[:200]}); save its state_dict() instead of the whole module"
        ) from error
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise StError(f"{source}: holds no tensors by name")
    with whole(target) as temporary:
        save_file(
            {
                name: np.array((v.float() if v.is_floating_point() else v).numpy(), order="C")
                for name, v in tensors.items()
            },
            temporary,
        )
    return len(tensors)
