"""Data sets and architectures of params.yaml: what is wrong with them, and their supernets."""

import os
from collections.abc import Iterator
from operator import index
from pathlib import Path
from typing import Any

from st.config import changes
from st.config.layout import DATA, DRAWING, fill
from st.config.params import Architecture, DataSet, Params, imported
from st.config.parts import problems_of
from st.core import registry
from st.core.errors import StError
from st.core.tensors import read_header
from st.data.dataset import Shape, check_normalisation
from st.networks.checkpoint import FORMAT
from st.networks.graph import draw
from st.networks.place import code, has, installed, parted
from st.networks.structure import Structure
from st.networks.weights import check_weights

Supernets = dict[tuple[str, str], Structure]  # by data set and architecture


def networks(params: Params) -> tuple[list[str], Supernets, dict[str, dict[str, int]]]:
    """What is wrong with data sets and architectures; the supernets, where a data set tells its
    shape; and the taps of each architecture."""
    problems: list[str] = []
    supernets: Supernets = {}
    shapes, taps = [], {}
    for key, data in params.datasets.items():
        try:
            shapes.append((key, _shape(data)))
        except StError as error:
            problems.append(f"datasets.{key}: {error}")
    for key, architecture in params.architectures.items():
        found = problems_of(registry.inits.check, "random", architecture.init_options)
        problems += [f"architectures.{key}.init_options: {p}" for p in found]
        if imported(architecture.family):
            for dataset, _ in shapes:
                try:
                    network = drawn(dataset, key, architecture)
                except StError as error:
                    problems.append(f"architectures.{key}: {error}")
                    break
                if network:
                    taps[key], supernets[dataset, key] = network.graph.taps, network
            continue
        for dataset, shape in shapes:
            # where only preparing the data tells their shape, any will do to check the options
            any_shape = shape or ((3, 32, 32), 10)
            try:
                taps[key] = draw(architecture.family, architecture.options, *any_shape).taps
            except StError as error:
                problems.append(f"architectures.{key}: {error}")
                break
            options = registry.architectures.check(architecture.family, architecture.options)
            if shape:
                supernets[dataset, key] = Structure(architecture.family, options, *shape)
    return problems, supernets, taps


def _shape(data: DataSet) -> Shape | None:
    """The images' shape and the number of classes, where the source tells them; raises StError if
    its options, or the normalisation, are wrong, or the source cannot tell what it must."""
    options = registry.datasets.check(data.source, data.options)
    changes.parted(data.source, options)
    shape = told_shape(data.source, options)
    if shape and data.normalisation:
        check_normalisation(data.normalisation.model_dump(), shape[0][0], "the images have")
    return shape


def told_shape(source: str, options: dict[str, Any]) -> Shape | None:
    """The images' shape and the number of classes that a source tells of complete options, if it
    does; raises StError if it fails, or tells something else."""
    told = registry.datasets.ask(source, "shape", **options)
    if told is None:
        return None
    try:
        (channels, height, width), classes = told
        channels, height, width, classes = map(index, (channels, height, width, classes))
    except (TypeError, ValueError):
        raise StError(
            f"`shape` of the data set '{source}' must give ((channels, height, width), classes), "
            f"not {told!r:.100}"
        ) from None
    return (channels, height, width), classes


def missing_images(params: Params) -> Iterator[str]:
    """Data sets of which nothing is there: neither images nor results. With the results a machine
    plans, and reruns what needs no images, without them."""
    for key, data in params.datasets.items():
        options = registry.datasets.check(data.source, data.options)
        paths = changes.paths(data.source, options)
        plain = registry.datasets.module(data.source).startswith("st.")
        known = plain or registry.datasets.get(data.source).where
        if not known or options.get("download"):  # others may come from anywhere
            continue
        there = any(map(os.path.exists, paths)) or _has_results(key, data.source, options)
        if paths and not there:
            place = f"datasets.{key}.options" + (".root" if "root" in options else "")
            yield f"{place}: {paths[0]} is not there; name the images' place, or put them there"


def _has_results(dataset: str, source: str, options: dict[str, Any]) -> bool:
    """Whether anything was made of a data set; if it was prepared, of these images."""
    prepared = Path(fill(DATA, dataset=dataset))
    if not prepared.exists():
        return any(path.is_file() for path in Path("results").glob(f"*/{dataset}/**/*"))
    return changes.are_those(source, options, prepared)


def drawn(dataset: str, key: str, architecture: Architecture) -> Structure | None:
    """An imported network, if it has been drawn with these options, and after the last edit;
    raises StError if they are wrong."""
    options = registry.architectures.check(architecture.family, architecture.options)
    path = Path(DRAWING.format(dataset=dataset, architecture=key))
    place, _ = parted(options["module"])
    installed(options["module"])
    for file in (place if place.endswith(".py") else None, options["weights"]):
        if file is not None and not Path(file).is_file():
            raise StError(f"'{file}' is missing; paths are relative to the project")
    if options["weights"] is not None:
        check_weights(Path(options["weights"]))
    files = [*code(options["module"]), *([Path(options["weights"])] if options["weights"] else [])]
    has(options["module"])
    if not path.exists() or any(f.stat().st_mtime > path.stat().st_mtime for f in files):
        return None
    try:
        header = read_header(path, FORMAT)
        if header["facts"]["job"]["options"] != options:
            return None  # it will be drawn anew
        return Structure.from_json(header["structure"], str(path))
    except (StError, KeyError, TypeError):
        return None
