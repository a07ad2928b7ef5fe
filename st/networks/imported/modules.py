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
        module, notes = _called(name, found(name), dict(arguments), classes)
        notes += _fit(name, module, shape, classes)
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
    """Give a module an output for so many classes, if it has another; what is to be said."""
    result = _result(name, module, shape, classes)
    width = result.shape[1]
    if classes is None or width == classes:
        return []
    replaced = _replace(name, module, shape, width, classes)
    try:
        fits = _result(name, module, shape, classes).shape[1] == classes
    except StError:  # as where the number is written in its code, too
        fits = False
    if not fits:
        raise StError(
            f"module '{name}': gives {width} numbers an image, also where {replaced} is replaced "
            f"by a layer for {classes} classes; make it for {classes} classes"
        )
    return [f"replaced, because the output comes of it: {replaced}; {classes} classes, not {width}"]


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
        hint = ""
        if place.endswith(".py") and "relative import" in str(error):
            package = ".".join(Path(place).with_suffix("").parts)
            hint = f"; it is a part of a package: name it {package}:{attribute}"
        raise StError(
            f"module '{name}': cannot be imported ({type(error).__name__}: {one_line(error)}){hint}"
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
    name = path.stem
    loaded = getattr(sys.modules.get(name), "__file__", str(path.resolve()))
    if name in sys.stdlib_module_names or loaded != str(path.resolve()):
        name = f"{name}_file"  # others go on to find theirs, such as types
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for themselves there
    spec.loader.exec_module(module)
    return module


def _timm(timm: Any, name: str) -> Callable[..., nn.Module]:
    def create(num_classes: int, **arguments: Any) -> nn.Module:
        return timm.create_model(name, num_classes=num_classes, **arguments)

    if not timm.is_model(name):
        raise StError(f"module 'timm:{name}': {closest(name, timm.list_models())[:300]}")
    return create


def _called(
    name: str, factory: Any, arguments: dict[str, Any], classes: int
) -> tuple[nn.Module, list[str]]:
    """What the class or function makes, told the number of classes if it takes one beside its
    arguments, and what is to be said of it."""
    if isinstance(factory, nn.Module):
        return _copy(name, _plain(name, factory)), []
    if not callable(factory):
        raise StError(f"module '{name}': is no class, function or module of torch")
    attempts = [arguments]
    try:
        taken = inspect.signature(factory).parameters
        given = next((key for key in CLASSES if key in taken), None)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    except (TypeError, ValueError):
        given, open_ended = None, False
    if (given or open_ended) and not set(CLASSES) & arguments.keys():
        attempts = [{**arguments, given or CLASSES[0]: classes}, arguments]
    failures: list[StError] = []
    for attempt in attempts:
        try:
            module = factory(**attempt)
            break
        # it takes no such argument, or not beside weights for other classes, as torchvision's
        except (TypeError, ValueError) as error:
            failures.append(_failed(name, attempt, error))
        except Exception as error:
            raise _failed(name, attempt, error) from error
    else:
        raise failures[0 if given else -1]
    told = [f"made without a number of classes, because with it: {f}" for f in failures if given]
    return _plain(name, module), told


def _plain(name: str, module: Any) -> nn.Module:
    """The module within what only runs it in another way; raises StError if it is none that can be
    drawn."""
    around = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, around) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, around) else module._orig_mod
    if not isinstance(module, nn.Module):
        within = any(isinstance(part, nn.Module) for part in tree_leaves(module))
        raise StError(
            f"module '{name}': made a {type(module).__name__}, not a module of torch"
            + ("; name a function that returns the module alone" if within else "")
        )
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


def _result(
    name: str, module: nn.Module, shape: tuple[int, int, int], classes: int | None,
    graph: bool = False,
) -> torch.Tensor:  # fmt: skip
    """What it gives in evaluation for two images; of several results, the first of one number for
    each class if there is. `graph`: with that of what it is computed of."""
    images = torch.zeros(2, *shape, requires_grad=graph).clone()  # may be written into
    try:
        with torch.set_grad_enabled(graph):
            output = module.float().eval()(images)
    except Exception as error:
        raise StError(
            f"module '{name}': fails in evaluation on images of {sizes(shape)} "
            f"({type(error).__name__}: {one_line(error)}); compare with what it is made for: the "
            "number of channels, the size, one input"
        ) from error
    results = [part for part in tree_leaves(output) if isinstance(part, torch.Tensor)]
    if not results:
        raise StError(f"module '{name}': gives a {type(output).__name__}, not a tensor of classes")
    if results[0].dim() == 1 and len(results) == 1:
        raise StError(
            f"module '{name}': gives one number an image; give one for each class: (n, classes)"
        )
    flat = [part for part in results if part.dim() == 2 and len(part) == 2]
    if not flat:
        raise StError(
            f"module '{name}': gives {sizes(results[0].shape)} numbers for 2 images, not 2 x "
            "classes"
        )
    return next((part for part in flat if part.shape[1] == classes), flat[0])


def _replace(
    name: str, module: nn.Module, shape: tuple[int, int, int], width: int, classes: int
) -> str:
    """Put layers for these classes in the place of those from which the output of `width` numbers
    comes; returns what was replaced."""
    made: dict[Any, str] = {}  # what computed a layer's result, by the layer's name
    layers = {n: part for n, part in module.named_modules() if isinstance(part, LAYERS)}
    handles = [
        part.register_forward_hook(lambda _, __, y, n=n: made.update({y.grad_fn: n}))
        for n, part in layers.items()
    ]
    try:
        pending, seen = [_result(name, module, shape, width, graph=True).grad_fn], set()
    finally:
        for handle in handles:
            handle.remove()
    last = []
    while pending:
        step = pending.pop()
        if step in made:
            last.append(made[step])
        elif step is not None and step not in seen:
            pending += [before for before, _ in step.next_functions]
        seen.add(step)
    fresh = {n: _for_classes(layers[n], width, classes) for n in layers if n in last}
    if not fresh or None in fresh.values():
        raise StError(
            f"module '{name}': gives {width} numbers an image, there are {classes} classes, and no "
            "linear layer or convolution makes these numbers that could be replaced; make it for "
            f"{classes} classes"
        )
    for place, part in list(module.named_modules(remove_duplicate=False)):
        of = next((n for n in fresh if layers[n] is part), None)
        if of is not None:
            parent, _, key = place.rpartition(".")
            setattr(module.get_submodule(parent), key, fresh[of])
    return ", ".join(f"'{n}'" for n in fresh)


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _for_classes(layer: nn.Module, width: int, classes: int) -> nn.Module | None:
    """Such a layer for so many classes; None where the layer does not give the `width`, or not all
    of its inputs to each."""
    bias = getattr(layer, "bias", None) is not None
    if isinstance(layer, nn.Linear) and layer.out_features == width:
        return nn.Linear(layer.in_features, classes, bias)
    if isinstance(layer, LAYERS[1:]) and layer.out_channels == width and layer.groups == 1:
        kind: Any = next(kind for kind in LAYERS[1:] if isinstance(layer, kind))
        return kind(
            layer.in_channels, classes, layer.kernel_size, layer.stride, layer.padding,
            layer.dilation, bias=bias, padding_mode=layer.padding_mode,
        )  # fmt: skip
    return None


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
