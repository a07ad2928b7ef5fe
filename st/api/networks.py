"""`st.supernet`, `st.prune`, `st.save`: networks as torch modules that know their structure."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from st.api.checks import network_of, seed_of, shape_of
from st.api.search import search
from st.config import jobs
from st.config.params import Normalisation
from st.config.parts import section
from st.core import registry
from st.core.device import apart
from st.core.errors import StError
from st.core.guest import INSTEAD, guest
from st.core.job import ordered
from st.core.seeds import derive
from st.data.dataset import check_normalisation
from st.deploy.model import USE, Model, checkpoint
from st.networks.checkpoint import Checkpoint, save_model
from st.networks.imported.export import imported
from st.networks.imported.modules import adapted
from st.networks.inits import initialised
from st.networks.structure import Structure, load_structure
from st.networks.weights import first

SUFFIX = ".safetensors"


@apart()
def supernet(
    network: nn.Module | str,
    input_shape: Sequence[int],
    classes: Sequence[str] | int | None = None,
    *,
    weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    init_options: Mapping[str, Any] | None = None,
    stages: Sequence[str] | None = None,
    streams: Literal["prune", "keep"] = "prune",
    normalisation: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
) -> Model:
    """A network that can be searched: a torch module's, which stays as it is, or a family's.

    `network`: a module that takes one tensor (n, *input_shape) and gives (n, classes); or the name
    of a family (`vgg`, `resnet`, `preresnet`, `densenet`, a plugin's) with its `options` as in
    params.yaml. `input_shape`: (channels, height, width). `classes`: their names, or how many there
    are; default: as many as the module gives. If it gives another number, the layer that makes its
    output is replaced. `weights`: `own`, those that the module has (its default); `random`, drawn
    anew from `seed` as `init_options` say (a family's default); or a safetensors file. `stages`,
    `streams`: see docs/own-network.md. `normalisation`: {mean: [...], std: [...]} for values of 0
    to 1, if the weights were trained with it. `seed`: 0 or more.

    The result computes what the module does, in float32 on the CPU. What is said about the import
    (frozen or unused parameters, ...) is a warning. Raises StError that says what can't be
    imported, or which option is wrong.
    """
    shape, seed = shape_of(input_shape), seed_of(seed)
    count = classes if isinstance(classes, int) or classes is None else len(classes)
    if isinstance(classes, str) or count == 0:
        raise StError(f"classes: must be names, or their number, not {classes!r}")
    source = None
    if isinstance(network, Model):
        raise StError("network: is one already; search, prune or train it as it is")
    if isinstance(network, nn.Module):
        if options:
            raise StError("options: are those of a family; make the module with them")
        if init_options and weights in (None, "own"):
            raise StError(
                "init_options: have no effect on a module's own weights; say weights='random'"
            )
        source = _imported(network, shape, count, list(stages) if stages else None, streams, seed)
        structure = source.structure
        weights = "own" if weights is None else weights
    elif isinstance(network, str):
        if count is None:
            raise StError("classes: are missing; give their names, or how many there are")
        if stages is not None or streams != "prune" or weights == "own":
            raise StError("weights 'own', stages and streams: are a module's, not a family's")
        if network == "import":
            raise StError("network: give the module itself, or the name of a drawn family")
        checked = registry.architectures.check(network, dict(options or {}))
        structure = Structure(network, checked, shape, count)
        _ = structure.graph  # raises what is wrong with the options
    else:
        raise StError(
            f"network: must be a module of torch or a family's name, not {type(network).__name__}"
            + ("; make a module of it first" if callable(network) else "")
        )
    fresh = registry.inits.check("random", dict(init_options or {}))
    start: Any = weights if weights == "own" else None if weights in (None, "random") else weights
    given = Path(start) if start not in (None, "own") else start
    tensors, notes = first(structure, source, seed, fresh, given)
    notes = [*(source.facts["notes"] if source else []), *notes]
    for note in notes:
        warnings.warn(note, stacklevel=3)  # whoever called `apart`'s function
    facts: dict[str, Any] = {"notes": notes} if notes else {}
    if classes is not None and not isinstance(classes, int):
        facts["classes"] = list(classes)
    if normalisation is not None:
        facts["normalisation"] = _normalisation(normalisation, shape[0])
    return Model(Checkpoint(structure.label, tensors, structure, facts))


def _imported(
    module: nn.Module,
    shape: tuple[int, int, int],
    classes: int | None,
    stages: list[str] | None,
    streams: str,
    seed: int,
) -> Checkpoint:
    """A module as the phase `draw` imports it; what is to be said of it are its facts' notes."""
    if streams not in ("prune", "keep"):
        raise StError(f"streams: must be 'prune' or 'keep', not {streams!r}")
    with guest(f"module '{type(module).__name__}'", "when it is run", INSTEAD):
        own, notes = adapted(module, shape, classes, derive(seed, "draw"))
        program, tensors = imported(own, shape, stages, streams == "prune", classes)
    kind = type(own)
    options = {
        "module": f"{kind.__module__}:{kind.__qualname__}", "arguments": None, "weights": None,
        "stages": stages, "streams": streams,
    }  # fmt: skip
    structure = Structure("import", options, shape, program.classes, program=program)
    return Checkpoint(structure.label, tensors, structure, {"notes": [*notes, *program.notes]})


def _normalisation(given: Mapping[str, Sequence[float]], channels: int) -> dict[str, list[float]]:
    found = section(Normalisation, given, "normalisation").model_dump()
    check_normalisation(found, channels, "the network takes")
    return found


@apart()
def prune(
    network: Model,
    structure: Structure | Mapping[str, float] | str | Path,
    init: str = "inherit",
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Model:
    """The part of a network that a structure names; `network` stays as it is.

    `structure`: what `st.search` returned, a structure.json, or a budget such as {"macs": 0.5},
    which is searched as `st.search` does by default. `init`: where the weights come from. inherit:
    the network's, to be fine-tuned; rewind: the same, of a network early in its training; random:
    drawn anew, as Search-and-Train does; or a plugin's, with its `options`. `seed`: of what is
    drawn; the same structure and seed give the same weights, which are never those that `seed` gave
    the supernet.

    Raises StError if the structure is not one of this network, the budget can't be met, or the
    init or its options are wrong.
    """
    whole, seed = network_of(network), seed_of(seed)
    if isinstance(structure, Mapping):
        found = search(whole, structure, seed=seed)
    elif isinstance(structure, str | Path):
        found = load_structure(structure)
    elif isinstance(structure, Structure):
        found = structure
    else:
        raise StError(
            "structure: must be what st.search returned, a structure.json or a budget, not "
            f"{type(structure).__name__}"
        )
    if found.full.to_json() != whole.structure.full.to_json():
        raise StError(f"structure: was found in another network ({found.label}), not in this one")
    job = ordered(jobs.initialize(seed, init, options or {}))
    source = checkpoint(whole)
    tensors = initialised(found, source, seed, init, job["options"])
    used = {name: source.facts[name] for name in USE if name in source.facts}
    return Model(Checkpoint(found.label, tensors, found, {"job": job, **used}))


def save(network: Model, path: str | Path) -> None:
    """Write a network to a file that `st.load` and all of the `st` commands read.

    It holds weights, structure, classes, normalisation and how it came to be; nothing is pickled,
    and it is there whole or not at all. Weights are stored as float32. Raises StError if the path
    does not end in .safetensors or can't be written, or the weights are not finite.
    """
    if Path(path).suffix != SUFFIX:
        raise StError(f"{path}: must end in {SUFFIX}; st.export writes other kinds of files")
    file = checkpoint(network_of(network))
    save_model(path, file.structure, file.tensors, **file.facts)
