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


# what people call a network's weights beside an optimiser's and others; of several the first
USUAL = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights",
    "params", "state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema",
)  # fmt: skip


def convert(source: Path, target: Path, key: str | None = None) -> str:
    """Write the tensors of a file of torch's (.pth, .pt) to a safetensors file, in float32; returns
    what is to be said of them. Nothing of it is run: torch reads weights only.

    `key`: which of several networks, by the file's keys with dots between, to which the beginning
    of names can be added: `state_dict.model`. Default: the first of the usual ones. Raises StError
    that says which there are.
    """
    if target.suffix != ".safetensors":
        raise StError(f"{target}: must end in .safetensors")
    check_apart(target, [source])
    found = _unpickled(source)
    held = dict(_named(found))
    chosen = _chosen(source, found, held) if key is None else key
    state = held[chosen] if chosen in held else _beginning(source, held, chosen)
    tensors = {name: _array(source, name, value) for name, value in state.items()}
    told = f", of '{chosen}'" if chosen else ""
    with whole(target) as temporary:
        save_tensors(temporary, tensors)
    top = chosen.partition(".")[0]
    left = [str(name) for name in found if name != top] if chosen else []
    told += f" (left out: {one_line(', '.join(left))})" if left else ""
    first = [name.partition(".")[0] for name in tensors]
    inner = [name for name in dict.fromkeys(first) if name in USUAL or len({*first}) == 1]
    others = [name for name in held if name not in ("", chosen)]
    others += [f"{chosen}.{name}".removeprefix(".") for name in inner if f"{name}." not in tensors]
    if len({*first}) == 1 < len(tensors):
        told += f"; all names begin with '{first[0]}.'"
    if others and len(tensors) > 1:
        told += f"; --key takes another part: {one_line(', '.join(others))}"
    return f"{len(tensors)} tensors{told}"


def _named(found: Any, place: str = "") -> Iterator[tuple[str, dict[str, "torch.Tensor"]]]:
    """What holds tensors by name, by the keys that lead there. Keys that are no texts, as those of
    optimisers' states, lead to no networks."""
    import torch

    texts = {k: v for k, v in found.items() if isinstance(k, str)} if _is_dict(found) else {}
    tensors = {name: value for name, value in texts.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield place, _unwrapped(tensors)
    for name, value in texts.items():
        yield from _named(value, f"{place}.{name}".removeprefix("."))


def _unwrapped(tensors: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """Named without what DataParallel, AveragedModel and, also between, torch.compile put there."""
    found = {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}
    if {name.partition(".")[0] for name in found} == {"n_averaged", "module"}:
        del found["n_averaged"]
    return {re.sub(r"^(module\.)+", "", name): value for name, value in found.items()}


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping)


def _chosen(source: Path, found: Any, held: dict[str, Any]) -> str:
    """The place that is usual; the file's own tensors, if there is none."""

    def rank(place: str) -> list[int]:
        return [USUAL.index(name) for name in place.split(".")]

    usual = [place for place in held if {*place.split(".")} <= {*USUAL}]
    rest = [""] if "" in held else list(held)
    if usual or len(rest) == 1:
        return min(usual, key=rank) if usual else rest[0]
    if rest:
        raise StError(f"{source}: holds several networks; choose by --key: {', '.join(rest)}")
    keys = f"; its keys are {', '.join(map(str, found))}" if _is_dict(found) and found else ""
    raise StError(f"{source}: holds no tensors by name{one_line(keys)}")


def _beginning(source: Path, held: dict[str, Any], key: str) -> dict[str, "torch.Tensor"]:
    """Of the tensors in one of the places those whose names begin with what `key` has beyond it,
    without that."""
    for place, state in held.items():
        start = f"{key}.".removeprefix(f"{place}." if place else "")
        part = {n.removeprefix(start): v for n, v in state.items() if n.startswith(start)}
        if part and f"{key}.".startswith(place):
            return part
    known = ", ".join(place for place in held if place) or "none, its tensors are not within keys"
    raise StError(f"{source}: --key '{key}': there is no such part; there are {one_line(known)}")


def _harmless() -> list[Any]:
    """What files of weights hold beside them and torch may make: options, paths and numbers, whose
    making runs nothing."""
    from argparse import Namespace
    from pathlib import PurePosixPath, PureWindowsPath

    scalar = np.float64(0).__reduce__()[0]
    paths = [
        (kind, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for kind, name in (
            (PurePosixPath, "PosixPath"), (PurePosixPath, "PurePosixPath"),
            (PureWindowsPath, "WindowsPath"), (PureWindowsPath, "PureWindowsPath"),
        )
    ]  # fmt: skip
    numbers = [type(np.dtype(letter)) for letter in "?bhilqBHILQefd"]
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [Namespace, np.dtype, *paths, *scalars, *dict.fromkeys(numbers)]


def _unpickled(source: Path) -> Any:
    """What a file of torch's holds; raises StError if it is more than tensors and numbers."""
    import torch

    if not source.is_file():
        raise StError(f"{source}: is not a file; name one that torch.save wrote")
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals(_harmless()),
        ):
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
