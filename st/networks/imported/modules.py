"""Torch modules of others: found by name, made for a data set, filled with weights."""

import copy
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from st.core.errors import StError, one_line, sizes
from st.core.guest import MAIN, guest
from st.core.registry import closest, look_here
from st.networks.place import installed, parted
from st.networks.weights import read_weights

CLASSES = ("num_classes", "n_classes", "nclasses", "num_labels", "classes", "nb_classes")


def made(
    name: str, arguments: dict[str, Any], shape: tuple[int, int, int], classes: int, seed: int
) -> tuple[nn.Module, list[str]]:
    """The module `name` for images of `shape` and so many classes, in float32 on the CPU, and what
    is to be said of it. Raises StError that names what is wrong with it.

    `name`: FILE.py:NAME, PACKAGE.MODULE:NAME or timm:NAME. Its first weights follow from `seed`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = _called(name, found(name), dict(arguments), classes)
        notes = _fit(name, module, shape, classes)
    return module.float(), [*notes, *_made_for(module)]


def adapted(
    module: nn.Module, shape: tuple[int, int, int], classes: int | None, seed: int
) -> tuple[nn.Module, list[str]]:
    """A copy of a module for so many classes (None: as many as it has), in float32 on the CPU, and
    what is to be said of it. Raises StError that names what is wrong with it.

    `seed`: a new last layer's weights follow from it.
    """
    module = _plain(type(module).__name__, module)
    name, notes = type(module).__name__, []
    fixed = [key for key, part in module.named_modules() if not part.training]
    if module.training and fixed:
        shown = ", ".join(fixed[:3]) + (f" and {len(fixed) - 3} more" if fixed[3:] else "")
        notes.append(f"in evaluation mode, but will be trained as the rest is: {shown}")
    kinds = {str(p.dtype).removeprefix("torch.") for p in module.parameters()} - {"float32"}
    if kinds:
        notes.append(f"weights of {', '.join(sorted(kinds))} are taken as float32")
    own = _copy(name, module).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        notes += _fit(name, own, shape, classes)
    if not any(True for _ in own.parameters()):
        raise StError(f"module '{name}': has no parameters")
    if not any(parameter.requires_grad for parameter in own.parameters()):  # as of a teacher
        notes.append("all parameters are frozen; they are taken as if they were not")
        own.requires_grad_(True)
    return own.float(), notes


def _fit(name: str, module: nn.Module, shape: tuple[int, int, int], classes: int | None) -> list:
    """Give a module a last layer for so many classes, if it has another; what is to be said."""
    width = _width(name, module, shape, classes)
    if classes is None or width == classes:
        return []
    note = _replace_last(name, module, width, classes)
    if _width(name, module, shape, classes) != classes:
        raise StError(f"{name}: gives {width} numbers an image, not the {classes} classes")
    return [note]


def _made_for(module: nn.Module) -> list[str]:
    """What a library says its pretrained weights need, as timm does."""
    told = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if not isinstance(told, dict) or not {"mean", "std"} <= told.keys():
        return []
    mean, std, size = list(told["mean"]), list(told["std"]), told.get("input_size", ())
    images = f", and images of {sizes(size)}" if size else ""
    return [f"pretrained weights of it need normalisation: {{mean: {mean}, std: {std}}}{images}"]


def found(name: str) -> Any:
    """What is called: a class or function, or a module."""
    place, attribute = parted(name)
    look_here()
    installed(name)
    try:
        with guest(f"module '{name}'", "when it is imported", MAIN):
            from_file = place.endswith(".py")
            module: Any = _from_file(Path(place)) if from_file else importlib.import_module(place)
    except StError:
        raise
    except Exception as error:  # the code of others
        raise StError(
            f"module '{name}': cannot be imported ({type(error).__name__}: {one_line(error)})"
        ) from error
    if place == "timm":
        return _timm(module, attribute)
    for part in attribute.split("."):
        if not hasattr(module, part):
            known = [n for n, v in vars(module).items() if callable(v) and n[:1] != "_"]
            raise StError(f"module '{name}': there is no '{part}'; {closest(part, known)}")
        module = getattr(module, part)
    return module


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise StError(f"module: {path}: is missing; paths are relative to the project")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # for what it imports from beside it
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look for themselves there
    spec.loader.exec_module(module)
    return module


def _timm(timm: Any, name: str) -> Callable[..., nn.Module]:
    def create(num_classes: int, **arguments: Any) -> nn.Module:
        return timm.create_model(name, num_classes=num_classes, **arguments)

    if not timm.is_model(name):
        raise StError(f"module 'timm:{name}': {closest(name, timm.list_models())[:300]}")
    return create


def _called(name: str, factory: Any, arguments: dict[str, Any], classes: int) -> nn.Module:
    """What the class or function makes, told the number of classes if it takes one."""
    if isinstance(factory, nn.Module):
        return _copy(name, _plain(name, factory))
    if not callable(factory):
        raise StError(f"module '{name}': is no class, function or module of torch")
    attempts = [arguments]
    try:
        taken = inspect.signature(factory).parameters
        given = next((key for key in CLASSES if key in taken), None)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    except (TypeError, ValueError):
        given, open_ended = None, False
    if not set(CLASSES) & arguments.keys():
        if given:
            attempts = [{**arguments, given: classes}]
        elif open_ended:
            attempts = [{**arguments, CLASSES[0]: classes}, arguments]
    for number, attempt in enumerate(attempts):
        try:
            module = factory(**attempt)
            break
        except TypeError as error:
            if number + 1 == len(attempts):
                raise _failed(name, attempt, error) from error
        except Exception as error:
            raise _failed(name, attempt, error) from error
    return _plain(name, module)


def _plain(name: str, module: Any) -> nn.Module:
    """The module within what only runs it in another way; raises StError if it is none that can be
    drawn."""
    around = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, around) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, around) else module._orig_mod
    if not isinstance(module, nn.Module):
        raise StError(f"module '{name}': made a {type(module).__name__}, not a module of torch")
    for part, found in module.named_modules():
        if isinstance(found, torch.jit.ScriptModule):
            which = f"its part '{part}'" if part else "it"
            raise StError(
                f"module '{name}': {which} is compiled by torch.jit; name the module as it is "
                "before that"
            )
        tracks = isinstance(found, nn.modules.batchnorm._NormBase) and found.track_running_stats
        if tracks and found.momentum is None:
            raise StError(
                f"module '{name}': '{part}' has momentum=None, an average whose weights depend on "
                "how many batches there were; give it a number, such as 0.1"
            )
    return module


def _copy(name: str, module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # as of tensors that were computed of parameters
        raise StError(
            f"module '{name}': cannot be copied ({type(error).__name__}: "
            f"{one_line(error)[:200]}); if its layers are lazy, call it on a batch of images "
            "first; in a params file name a function that makes it"
        ) from error


def _failed(name: str, arguments: dict[str, Any], error: Exception) -> StError:
    told = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return StError(
        f"module '{name}': cannot be made with ({told}) ({type(error).__name__}: {one_line(error)})"
    )


def _width(name: str, module: nn.Module, shape: tuple[int, int, int], classes: int | None) -> int:
    """How many numbers an image it gives; of several results, one for each class if there is."""
    images = torch.zeros(2, *shape)
    try:
        with torch.no_grad():
            output = module.float().eval()(images)
    except Exception as error:
        raise StError(
            f"module '{name}': fails on images of {sizes(shape)} ({type(error).__name__}: "
            f"{one_line(error)}); compare with what it is made for: the number of channels, the "
            "size, one input"
        ) from error
    results = [part for part in tree_leaves(output) if isinstance(part, torch.Tensor)]
    if not results:
        raise StError(f"module '{name}': gives a {type(output).__name__}, not a tensor of classes")
    widths = [part.shape[1] for part in results if part.dim() == 2 and len(part) == 2]
    if not widths:
        raise StError(
            f"module '{name}': gives {sizes(results[0].shape)} numbers for 2 images, not 2 x "
            "classes"
        )
    return classes if classes in widths else widths[0]


def _replace_last(name: str, module: nn.Module, width: int, classes: int) -> str:
    """Put a linear layer for these classes in the place of the last; returns what is to be said."""
    layers = {key: part for key, part in module.named_modules() if isinstance(part, nn.Linear)}
    last = next((key for key in reversed(layers) if layers[key].out_features == width), None)
    if not last:
        raise StError(
            f"module '{name}': gives {width} numbers an image, there are {classes} classes, and it "
            "takes no argument such as num_classes; give its own by 'arguments'"
        )
    old = layers[last]
    parent = module.get_submodule(last.rpartition(".")[0])
    setattr(
        parent,
        last.rpartition(".")[2],
        nn.Linear(old.in_features, classes, bias=old.bias is not None),
    )
    return f"the last linear layer '{last}' was replaced: {classes} classes instead of {width}"


def fill(module: nn.Module, path: Path) -> None:
    """Load what a file of weights has of the names and shapes of `module`, before it is drawn:
    orders of channels that buffers hold become a part of the drawing. Only the drawing tells what
    else is needed; see `fitted`."""
    wanted = module.state_dict()
    module.load_state_dict(
        {
            name: torch.from_numpy(value)
            for name, value in read_weights(path).items()
            if name in wanted and value.shape == tuple(wanted[name].shape)
        },
        strict=False,
    )
