"""Weights from elsewhere: safetensors files of tensors by name."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from st.core import registry
from st.core.errors import StError, one_line
from st.core.files import check_apart, whole
from st.core.tensors import save_tensors
from st.networks.checkpoint import Checkpoint
from st.networks.structure import Structure

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, whoever made it."""
    with _opened(path) as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # bfloat16, where a library of it is installed
        return {n: v.astype(np.float32) if v.dtype.kind == "V" else v for n, v in found.items()}


def check_weights(path: Path, structure: Structure | None = None) -> None:
    """Raise StError unless it is a safetensors file, and its tensors fit the `structure`, as far as
    its header tells."""
    with _opened(path) as file:
        given = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
    if structure:
        _fit(structure, path, given)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise StError(f"{path}: is missing; paths are relative to the project")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise StError(
            f"{path}: is no safetensors file that can be read ({one_line(error)}); `st convert "
            "FILE.pth FILE.safetensors` makes one of a file of torch's, in float32"
        ) from error


def _fit(structure: Structure, path: Path, given: Shapes) -> tuple[list[str], list[str]]:
    """Raise StError unless a file has what the whole network needs; it may lack buffers that no
    training changes, and have what the import left out. Returns the names of the tensors that are
    for other classes, and what is to be said of them."""
    program, wanted = structure.program, structure.shapes()
    spare = {*program.tied, *program.left_out} if program else set()
    given = {name: shape for name, shape in given.items() if name not in spare}
    optional = {t.name for t in structure.graph.tensors() if t.role in ("count", "buffer")}
    other = [
        name
        for name in structure.graph.heads()
        if name in given and _for_others(given[name], wanted[name], structure.classes)
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
        for what, names in (("it lacks", missing), ("it has foreign", foreign), ("", wrong))
        if names
    ]
    if parts:
        told = "; ".join(part.strip() for part in parts)
        raise StError(f"{path}: does not fit the network: {told}")
    said = [f"{path}: left out, for other classes: {', '.join(other)}"] if other else []
    return other, said


def fitted(
    structure: Structure, path: Path, initial: dict[str, np.ndarray], source: Checkpoint | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """A file's weights for the whole network, and what is to be said: weights for other classes
    are left out. What the file lacks of buffers is `source`'s, `initial` fills the
    rest."""
    given = read_weights(path)
    program = structure.program
    for name, positions in program.left_out.items() if program else ():
        if positions is not None and name in given and given[name].tolist() != positions:
            raise StError(
                f"{path}: '{name}' is another order of channels than the network was drawn with; "
                "give this file to the architecture, as its option 'weights'"
            )
    left_out, said = _fit(structure, path, {name: value.shape for name, value in given.items()})
    result = dict(initial)
    for tensor in structure.graph.tensors():
        if tensor.name in given and tensor.name not in left_out:
            result[tensor.name] = given[tensor.name].astype(tensor.dtype)
        elif source and not tensor.trained:
            result[tensor.name] = source.tensors[tensor.name]
    return result, said


def _for_others(given: tuple[int, ...], wanted: tuple[int, ...], classes: int) -> bool:
    """Whether a shape is the wanted one but for the number of classes."""
    if given == wanted or len(given) != len(wanted):
        return False
    return all(g == w or w == classes for g, w in zip(given, wanted, strict=True))


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


def convert(source: Path, target: Path) -> str:
    """Write the tensors of a file of torch's (.pth, .pt) to a safetensors file, in float32; returns
    what is to be said of them. Nothing of it is run: torch reads weights only."""
    import torch

    if target.suffix != ".safetensors":
        raise StError(f"{target}: must end in .safetensors")
    check_apart(target, [source])
    found = _unpickled(source)
    where = ""
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            left = [str(name) for name in found if name != key]
            where = f", of '{key}'" + (f" (left out: {', '.join(left)})" if left else "")
            found = found[key]
            break
    tensors = {
        # what DataParallel and torch.compile put before, and this also between, names
        str(name).replace("_orig_mod.", "").removeprefix("module."): _array(source, name, value)
        for name, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise StError(f"{source}: holds no tensors by name")
    with whole(target) as temporary:
        save_tensors(temporary, tensors)
    first = {name.partition(".")[0] for name in tensors}
    common = f"; all names begin with '{first.pop()}.'" if len(first) == 1 < len(tensors) else ""
    return f"{len(tensors)} tensors{where}{common}"


def _unpickled(source: Path) -> Any:
    """What a file of torch's holds; raises StError if it is more than tensors and numbers."""
    import torch

    if not source.is_file():
        raise StError(f"{source}: is not a file; name one that torch.save wrote")
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StError(f"{source}: cannot be read ({error.strerror or one_line(error)})") from error
    except Exception as error:  # whatever torch finds in it
        foreign = re.search(r"GLOBAL (\S+)", str(error))  # the rest is how to run it all the same
        if foreign is None:
            raise StError(
                f"{source}: is not what torch.save wrote, or is damaged; save a state_dict() by it"
            ) from error
        raise StError(
            f"{source}: cannot be read without running it: it holds {foreign[1]}; save the "
            "network's state_dict() alone"
        ) from error


def _array(source: Path, name: object, value: "torch.Tensor") -> np.ndarray:
    """A tensor's values; floats of any size as float32."""
    try:
        plain = value.detach()
        if plain.is_complex():
            raise TypeError
        return np.array((plain.float() if plain.is_floating_point() else plain).numpy(), order="C")
    except (RuntimeError, TypeError) as error:
        raise StError(
            f"{source}: '{name}' is no array of numbers ({value.dtype}, {value.layout}, on "
            f"{value.device}); save it as a dense tensor of floats or integers"
        ) from error
