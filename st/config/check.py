"""Reading params.yaml: everything that can be wrong with it is said before any job runs."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from st.config.combinations import without_effect
from st.config.grid import Grid
from st.config.params import (
    Architecture,
    DataSet,
    Export,
    Method,
    Params,
    Search,
    Supernet,
    concerns,
    imported,
    objective,
    recipe,
    weights_file,
)
from st.config.parts import explain, keys, objective_problems, problems_of, search_problems
from st.config.supernets import Supernets, missing_images, networks
from st.core import registry
from st.core.errors import StError, one_line
from st.core.registry import closest
from st.networks.weights import check_weights
from st.pruning.selection import Budget, check_reachable
from st.training.losses import taps_of


class _Loader(yaml.SafeLoader):
    """Refuses a key that is a duplicate, of which YAML's readers silently take the last."""

    def compose_mapping_node(self, anchor):
        """A mapping; raises ComposerError at the second of two equal keys."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.composer.ComposerError(
                        None, None, f"duplicate key '{key.value}'", key.start_mark
                    )
                seen.add(key.value)
        return node


def typed(value: Any) -> Any:
    """Data in which texts that are numbers or truth values in YAML become these."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    if isinstance(value, str):
        try:
            found = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
        return found if isinstance(found, bool | int | float) else value
    return value


def read(path: str | Path) -> Any:
    """A params file's YAML, unchecked but for duplicate keys."""
    try:
        # SafeLoader: only plain data, nothing that a file could run
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        told = f"{path or repr(path)}: cannot be read ({error.strerror})"
        raise StError(f"{told}; name a params file, such as params.yaml") from error
    # others: an impossible date, a list as a key
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        text = one_line(error).replace(' in "<unicode string>",', ",")  # PyYAML's name for a string
        raise StError(f"{path}: is not YAML: {text}") from error


def load(path: str | Path, images: bool = False) -> Params:
    """Read and check a params file; raises StError with one line per problem. `images`: see
    `parse`."""
    return parse(read(path), str(path), images)


def parse(data: Any, source: str = "params.yaml", images: bool = False) -> Params:
    """Check params that were read already. `source` names them in messages; `images`: also whether
    those that would have to be prepared are there."""
    try:
        params = Params.model_validate(data)
    except ValidationError as error:
        raise _refusal(source, [_told(e, data) for e in error.errors()]) from None
    try:
        registry.load_plugins(params.plugins)
    except StError as error:
        raise _refusal(source, [str(error)]) from error
    found, supernets, taps = networks(params)
    found += missing_images(params) if images and not found else []
    problems = [*found, *_contradictions(params, supernets, taps)]
    problems = problems or [*_exports(params), *without_effect(params, supernets)]
    if problems:
        raise _refusal(source, problems)
    return params


def _refusal(source: str, problems: list[str]) -> StError:
    """One line per problem, whatever line breaks the names in it have."""
    return StError(*(f"{source}: {' '.join(p.split())}" for p in dict.fromkeys(problems)))


# Where options stand: their section, the key that names whose they are, what these are, their key.
OPTIONS = (
    ("datasets", "source", registry.datasets, "options"),
    ("architectures", "family", registry.architectures, "options"),
    ("architectures", "init", registry.inits, "init_options"),  # it is always random
    ("searches", "criterion", registry.criteria, "options"),
    ("methods", "init", registry.inits, "init_options"),
)


def _told(error: Any, data: Any) -> str:
    """One of pydantic's errors in one line; of an option one level too high, where it belongs."""
    kind, *names = error["loc"] or ("",)
    if error["type"] == "extra_forbidden" and len(names) == 2:
        for section, key, known, options in OPTIONS:
            if kind == section and known.takes(data[kind][names[0]].get(key, "random"), names[1]):
                return f"{kind}.{names[0]}.{names[1]}: belongs under `{options}`"
    return explain(error, _known_keys)


def _known_keys(location: Sequence) -> list[str]:
    """The keys that a section at `location` may have."""
    sections = {
        "datasets": DataSet,
        "architectures": Architecture,
        "supernets": Supernet,
        "searches": Search,
        "methods": Method,
        "exports": Export,
    }
    model: Any = Params
    if location and location[0] in sections:
        model, location = sections[location[0]], location[2:]
    elif location:
        model, location = Params.model_fields[location[0]].annotation, location[1:]
    return keys(model, location)


def _reference(name: str, known, what: str) -> list[str]:
    return [] if name in known else [f"unknown {what} '{name}'; {closest(name, known)}"]


def _contradictions(
    params: Params, supernets: Supernets, taps: dict[str, dict[str, int]]
) -> Iterator[str]:
    """What the types can't see: names that don't exist, options, budgets. One line each."""
    for key, search in params.searches.items():
        problems = dict.fromkeys(_search(params, key, search, supernets))
        yield from (f"searches.{key}.{p}" for p in problems)
    for key, method in params.methods.items():
        yield from (f"methods.{key}{p}" for p in _method(params, key, method, taps))
    yield from _not_rewound(params)
    yield from _claims(params)
    for name in params.resources.gpu_percent:
        found = _reference(name, params.architectures, "architecture")
        yield from (f"resources.gpu_percent: {p}" for p in found)
    for key, supernet in params.supernets.items():
        yield from (f"supernets.{key}.{p}" for p in _pretraining(params, supernet, supernets))


def _method(
    params: Params, key: str, method: Method, taps: dict[str, dict[str, int]]
) -> Iterator[str]:
    """What is wrong with a method, from after its name on."""
    if key.startswith("supernet"):
        yield ": names that begin with 'supernet' are the supernets' own"
    found = _reference(method.search, params.searches, "search")
    yield from (f".search: {p}" for p in found)
    found = problems_of(registry.inits.check, method.init, method.init_options)
    found = found or problems_of(_weights_fit, params, method)
    yield from (f".init: {p}" for p in found)
    yield from (f".objective: {p}" for p in _objective(params, method, taps))
    for name in _untrained(params, method):
        yield (
            f".training.epochs: 0 for {name} with init '{method.init}' leaves the network "
            "untrained; use init: inherit, or train it"
        )
    yield from (f".architectures: {p}" for p in _unknown(params, method))
    supernet = _supernet(params, method.search)
    lacking = _concerned(params, method) - _concerned(params, supernet) if supernet else ()
    if lacking:
        yield (
            f".search: supernet '{params.searches[method.search].supernet}' is not for "
            f"{', '.join(sorted(lacking))}; name the method's `architectures`, or more in the "
            "supernet's"
        )


def _unknown(params: Params, part: Supernet | Method) -> Iterator[str]:
    """Names in a part's `architectures` that are none."""
    for name in part.architectures or []:
        yield from _reference(name, params.architectures, "architecture")


def _objective(params: Params, method: Method, taps: dict[str, dict[str, int]]) -> Iterator[str]:
    """What is wrong with a method's losses."""
    wrong = problems_of(objective, method.objective)
    if not wrong:
        for name, options in objective(method.objective).items():
            del options["weight"]
            for architecture, available in taps.items():
                if concerns(method, architecture):
                    found = problems_of(taps_of, name, options, available)
                    wrong += [f"{architecture}: {p}" for p in found]
    if not wrong:
        mixing = [name for name, data in params.datasets.items() if data.augment.mixes]
        place = f"datasets.{mixing[0]}.augment" if mixing else None
        wrong += objective_problems(objective(method.objective), place)
    yield from wrong


def _claims(params: Params) -> Iterator[str]:
    rows = [params.row(name) for name in params.supernets] + list(params.methods)
    for key, against in params.claims.items():
        found = _reference(key, params.methods, "method")
        yield from (f"claims.{key}: {p}" for p in found)
        for name in against:
            found = _reference(name, [row for row in rows if row != key], "row")
            yield from (f"claims.{key}: {p}" for p in found)
            lacking = _architectures(params, key) - _architectures(params, name)
            if lacking and not found:
                told = ", ".join(sorted(lacking))
                yield f"claims.{key}: '{name}' is no row of {told}, as {key} is"


def _pretraining(params: Params, supernet: Supernet, supernets: Supernets) -> Iterator[str]:
    """What is wrong with a way to train supernets. `supernets`: by data set and architecture."""
    yield from (f"architectures: {p}" for p in _unknown(params, supernet))
    if supernet.architectures and supernet is next(iter(params.supernets.values())):
        yield "architectures: the first supernet is every architecture's reference; leave it out"
    mine = {name: a for name, a in params.architectures.items() if concerns(supernet, name)}
    drawn = [name for name, a in mine.items() if not imported(a.family)]
    if supernet.weights == "own" and drawn:
        yield (
            f"weights: own: {drawn[0]} has no weights of its own, as only imported networks have; "
            "name a safetensors file"
        )
    for name in mine:
        for dataset in params.datasets:
            file = weights_file(supernet, dataset, name)
            if file is not None and not Path(file).is_file():
                yield (
                    f"weights: '{file}' is missing; name a safetensors file, relative to the "
                    "project, or say own"
                )
            elif file is not None:
                found = problems_of(check_weights, Path(file), supernets.get((dataset, name)))
                yield from (f"weights: {p}" for p in found)
    for name, architecture in mine.items():
        epochs = recipe(params, architecture, supernet).epochs
        if not epochs and not supernet.weights:
            yield f"training.epochs: 0 for {name}: needs weights: own or a file"
        if supernet.rewind_epoch > epochs:
            yield (
                f"rewind_epoch: {supernet.rewind_epoch} is after the last epoch, {epochs}, of "
                f"{name}"
            )


def _architectures(params: Params, row: str) -> set[str]:
    """Those that have this row of the table."""
    parts = {params.row(name): supernet for name, supernet in params.supernets.items()}
    found = (parts | params.methods).get(row)
    return _concerned(params, found) if found else set()


def _concerned(params: Params, part: Supernet | Method) -> set[str]:
    return {name for name in params.architectures if concerns(part, name)}


def _untrained(params: Params, method: Method) -> Iterator[str]:
    """The architectures for which a method's networks would be evaluated with fresh weights."""
    if method.init not in registry.inits.names():
        return
    source, supernet = registry.inits.get(method.init).source, _supernet(params, method.search)
    fresh = supernet and source == "rewind" and not (supernet.rewind_epoch or supernet.weights)
    if source is None or fresh:
        for name, architecture in params.architectures.items():
            if concerns(method, name) and not recipe(params, architecture, method).epochs:
                yield name


def _supernet(params: Params, search: str) -> Supernet | None:
    """The supernet of a search, if both exist."""
    found = params.searches.get(search)
    return params.supernets.get(found.supernet) if found else None


def _not_rewound(params: Params) -> Iterator[str]:
    """Methods and searches that rewind a supernet which is not trained: its early weights are those
    that it has in the end."""
    rewinding = {
        f"methods.{key}.init: rewind": (method.search, method.architectures)
        for key, method in params.methods.items()
        if method.init in registry.inits.names()
        and registry.inits.get(method.init).source == "rewind"
    }
    rewinding |= {
        f"searches.{key}.rounds: {search.rounds}": (key, None)
        for key, search in params.searches.items()
        if search.rounds > 1
    }
    for where, (search, architectures) in rewinding.items():
        supernet = _supernet(params, search)
        for name in architectures or params.architectures if supernet else ():
            architecture = params.architectures.get(name)
            if architecture and supernet and not recipe(params, architecture, supernet).epochs:
                yield (
                    f"{where}: there is nothing to rewind to, as supernet "
                    f"'{params.searches[search].supernet}' has 0 epochs of training; use init: "
                    "inherit and 1 round, or train it"
                )
                break


def _exports(params: Params) -> Iterator[str]:
    """What is wrong with the files for other programs. All other names in `params` must be known
    ones."""
    grid = Grid(params)
    rows = dict.fromkeys(row for name in params.architectures for row in grid.rows(name))
    for key, export in params.exports.items():
        found = _reference(key, rows, "row of the table")
        yield from (f"exports.{key}: {p}" for p in found)
        for target in export.to:
            found = _reference(target, registry.targets.names(), "target")
            yield from (f"exports.{key}.to: {p}" for p in found)
            if found:
                continue
            if f"{key}-{target}" in rows:
                yield f"exports.{key}.to: '{key}-{target}' is a row already; rename that method"
            needed = registry.targets.get(target).packages
            missing = [name for name in needed if importlib.util.find_spec(name) is None]
            if missing:
                yield (
                    f"exports.{key}.to: '{target}' needs {', '.join(missing)}; install the extra: "
                    "pip install 'search-and-train[export]'"
                )


def _weights_fit(params: Params, method: Method) -> None:
    """Raise StError if the init needs the supernet's weights for a structure that has no use for
    them."""
    search = params.searches.get(method.search)
    if registry.inits.get(method.init).source is None or search is None:
        return
    if registry.inits.get(method.init).source == "model" and search.rounds > 1:
        raise StError(
            f"'{method.init}' takes the supernet's weights, not those of the search's rounds, by "
            "which its channels were chosen; use 'rewind' or 'random', or 1 round"
        )
    name = search.criterion
    known = name in registry.criteria.names()
    if known and not registry.criteria.get(name).inherits:
        raise StError(
            f"'{method.init}' takes the supernet's weights, which fit no network that criterion "
            f"'{name}' finds; use 'random'"
        )


def _search(params: Params, key: str, search: Search, supernets: Supernets) -> Iterator[str]:
    """What is wrong with a search. `supernets`: by data set and architecture."""
    found = _reference(search.supernet, params.supernets, "supernet")
    yield from (f"supernet: {p}" for p in found)
    found = problems_of(registry.criteria.check, search.criterion, search.options)
    yield from (f"criterion: {p}" for p in found)
    if found:
        return
    # a search may be meant for some architectures only: those of its methods
    methods = [m for m in params.methods.values() if m.search == key]
    names = {
        name for name in params.architectures if any(concerns(method, name) for method in methods)
    }
    searched = {place: supernet for place, supernet in supernets.items() if place[1] in names}
    criterion = registry.criteria.get(search.criterion)
    for name in params.architectures if criterion.drawn else ():
        if name in names and imported(params.architectures[name].family):
            yield (
                f"criterion: {name}: '{search.criterion}' searches drawn families, no imported "
                "networks; use another, such as tapered, or name its methods' architectures"
            )
            return
    budget = Budget(**search.budget.model_dump())
    yield from search_problems(search)
    if criterion.ranks:
        told = set()
        for (dataset, architecture), supernet in searched.items():
            arguments = (supernet.graph, budget, search.min_channels, search.round_to)
            for message in problems_of(check_reachable, *arguments):
                if architecture not in told:
                    told.add(architecture)
                    yield f"budget: {architecture} on {dataset}: {message}"
    options = registry.criteria.check(search.criterion, search.options)
    ask = registry.criteria.ask
    for (_, architecture), supernet in searched.items():
        found = problems_of(ask, search.criterion, "suits", supernet, budget, **options)
        yield from (f"criterion: {architecture}: {p}" for p in found)
