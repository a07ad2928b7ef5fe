"""params.yaml: its types, bounds, defaults and descriptions, and the messages when it is wrong.

workflow/schemas/params.schema.json is generated from these classes (`st schema`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from st import registry
from st.errors import StError
from st.graph import draw
from st.registry import closest
from st.search import Budget, check_reachable


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
Fraction = Annotated[Number, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Flag = Annotated[bool, Field(strict=True)]
Options = dict[str, Any]


class Section(BaseModel):
    """A mapping that knows all its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Section):
    """A training recipe: SGD with momentum."""

    epochs: Annotated[Whole, Field(ge=1, le=100_000)] = Field(160, description="Epochs.")
    batch_size: Annotated[Whole, Field(ge=2, le=65536)] = Field(
        64, description="Images a step; an epoch's incomplete last batch is left out."
    )
    lr: Annotated[Number, Field(gt=0, le=100)] = Field(0.1, description="Highest learning rate.")
    schedule: Literal["step", "cosine", "onecycle", "constant"] = Field(
        "step", description="How the learning rate changes over the training."
    )
    milestones: list[Annotated[Number, Field(gt=0, lt=1)]] = Field(
        [0.5, 0.75], description="step: when to multiply by `decay`, as fractions of the training."
    )
    decay: Fraction = Field(0.1, description="step: the factor at each milestone.")
    momentum: Annotated[Number, Field(ge=0, lt=1)] = Field(0.9, description="Momentum.")
    nesterov: Flag = Field(False, description="Nesterov's momentum.")
    weight_decay: Annotated[Number, Field(ge=0, le=1)] = Field(1e-4, description="L2 penalty.")
    test_every: Annotated[Whole, Field(ge=0)] = Field(
        10,
        description="Epochs between test accuracies in history.csv (0: only after the last). They "
        "are for the curves; nothing is selected by them.",
    )


TrainingChange = create_model(
    "TrainingChange",
    __base__=Section,
    __doc__="Changes to the training recipe; what is not given stays.",
    **{
        name: (
            field.rebuild_annotation() | None,
            Field(None, description=field.description),
        )
        for name, field in Training.model_fields.items()
    },
)


class Augment(Section):
    """Random changes of the training images."""

    crop: Annotated[Whole, Field(ge=0, le=64)] = Field(
        0, description="Pad by so many pixels and crop back at random."
    )
    flip: Flag = Field(False, description="Mirror half of the images left to right.")


class DataSet(Section):
    """A data set of the table."""

    source: str = Field(description="digits, cifar10, imagefolder, ... or a plugin's.")
    options: Options = Field({}, description="The source's options, such as root or size.")
    augment: Augment = Augment()
    holdout: Annotated[Number, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Above 0: leave the test images alone and evaluate on this fraction of the "
        "training images instead. For choosing settings.",
    )


class Architecture(Section):
    """A supernet's architecture."""

    family: str = Field(description="vgg, resnet, preresnet, densenet, or a plugin's.")
    options: Options = Field({}, description="The family's options, such as depth and width.")
    sparsity: Annotated[Number, Field(ge=0, le=1)] = Field(
        1e-4, description="Weight of the L1 penalty on BatchNorm scales in sparse supernets."
    )
    training: TrainingChange = Field(
        TrainingChange(), description="Changes to the recipe for this architecture."
    )


class Supernet(Section):
    """A way to train the supernet."""

    sparse: Flag = Field(False, description="Network slimming's L1 penalty while training.")
    bn_scale: Annotated[Number, Field(gt=0, le=10)] = Field(
        1.0, description="Initial BatchNorm scale (network slimming: 0.5)."
    )
    rewind_epoch: Annotated[Whole, Field(ge=0)] = Field(
        0, description="The epoch whose weights are kept for the init `rewind`; 0: initial ones."
    )
    training: TrainingChange = Field(TrainingChange(), description="Changes to the recipe.")


class BudgetSection(Section):
    """Upper bounds on the subnet, as fractions of the supernet; both hold where both are given."""

    params: Fraction | None = Field(None, description="Parameters.")
    macs: Fraction | None = Field(None, description="Multiply-accumulates.")


class Search(Section):
    """A way to find the subnet's structure in a supernet."""

    supernet: str = Field("plain", description="The supernet to search, and the subnets' teacher.")
    criterion: str = Field(description="bn_scale, l1_norm, uniform, ... or a plugin's.")
    options: Options = Field({}, description="The criterion's options.")
    ranking: Literal["global", "local"] = Field(
        "global", description="Rank channels over all layers, or within each layer."
    )
    budget: BudgetSection
    min_channels: Annotated[Whole, Field(ge=1, le=65536)] = Field(
        1, description="What every layer keeps at least."
    )
    round_to: Annotated[Whole, Field(ge=1, le=1024)] = Field(
        1, description="Keep multiples of so many channels (8 suits tensor cores)."
    )


class Method(Section):
    """A row of the table: a search, an init, an objective and a training rule."""

    search: str = Field(description="Where the structure comes from: a key of `searches`.")
    init: str = Field("random", description="random (re-initialise), inherit, rewind, ...")
    init_options: Options = Field({}, description="The init's options.")
    objective: dict[str, Number | Options] = Field(
        {"ce": 1.0},
        description="Weighted sum of losses: {ce: 0.1, kd: {weight: 0.9, temperature: 4}}.",
    )
    training: TrainingChange = Field(TrainingChange(), description="Changes to the recipe.")
    epoch_rule: Literal["same", "computation"] = Field(
        "same",
        description="same: the recipe's epochs. computation: so many more as the subnet needs "
        "fewer MACs than its supernet (Scratch-B).",
    )
    max_epoch_factor: Annotated[Number, Field(ge=1)] | None = Field(
        None, description="computation: at most this factor (Liu et al. 2019 stop at 2)."
    )
    architectures: list[str] | None = Field(
        None, description="Only for these architectures; default: all."
    )


class Evaluation(Section):
    """How latency is measured."""

    latency_batch: Annotated[Whole, Field(ge=1, le=65536)] = Field(1, description="Images a call.")
    latency_rounds: Annotated[Whole, Field(ge=1, le=10_000)] = Field(
        30, description="Calls per network; the median counts. Networks take turns."
    )


class Params(Section):
    """A grid of experiments: data sets x architectures x seeds x methods."""

    plugins: list[str] = Field([], description="One's own modules, imported first.")
    seeds: Annotated[list[Annotated[Whole, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    datasets: Annotated[dict[Name, DataSet], Field(min_length=1)]
    architectures: Annotated[dict[Name, Architecture], Field(min_length=1)]
    training: Training = Training()
    supernets: Annotated[dict[Name, Supernet], Field(min_length=1)] = Field(
        {"plain": Supernet()},
        description="The first is the table's reference row, `supernet`.",
    )
    searches: dict[Name, Search] = {}
    methods: dict[Name, Method] = {}
    evaluation: Evaluation = Evaluation()


def schema() -> dict[str, Any]:
    """The JSON schema of params.yaml."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Params.model_json_schema(),
    }


def load(path: str | Path) -> Params:
    """Read and check a params file; raises StError with one line per problem."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    return parse(data, str(path))


def parse(data: Any, source: str = "params.yaml") -> Params:
    """Check params that were read already. `source` names them in messages."""
    try:
        params = Params.model_validate(data)
    except ValidationError as error:
        problems = [_explain(e) for e in error.errors()]
        raise StError("\n".join(f"{source}: {p}" for p in dict.fromkeys(problems))) from None
    registry.load_plugins(params.plugins)
    problems = list(_contradictions(params))
    if problems:
        raise StError("\n".join(f"{source}: {p}" for p in problems))
    return params


def _explain(error: Any) -> str:
    """One of pydantic's errors in one line that begins with the key."""
    location = [part for part in error["loc"] if part != "[key]"]
    key = ".".join(str(part) for part in location) or "the file"
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {closest(str(location[-1]), _known_keys(location[:-1]))}"
    if kind == "missing":
        return f"{key}: is missing; add it"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key}: must be a mapping of keys to values, not {error['input']!r}"
    if "[key]" in error["loc"]:
        return f"{key}: names are letters, digits, '_', '.' and '-'"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"{key}: {message}, not {error['input']!r}"


def _known_keys(location: list) -> list[str]:
    """The keys that a section at `location` may have."""
    sections = {
        "datasets": DataSet,
        "architectures": Architecture,
        "supernets": Supernet,
        "searches": Search,
        "methods": Method,
    }
    model: Any = Params
    if location and location[0] in sections:
        model, location = sections[location[0]], location[2:]
    elif location:
        model, location = Params.model_fields[location[0]].annotation, location[1:]
    for part in location:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def objective(method: Method) -> dict[str, dict[str, Any]]:
    """The method's losses, each with its weight and all options."""
    result = {}
    for name, value in method.objective.items():
        given = {"weight": value} if not isinstance(value, dict) else dict(value)
        if "weight" not in given:
            raise StError(f"loss '{name}': option 'weight' is missing")
        weight = given.pop("weight")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise StError(f"loss '{name}': option 'weight' must be 0 or more, not {weight!r}")
        result[name] = {"weight": float(weight), **registry.losses.check(name, given)}
    return result


def _contradictions(params: Params) -> Iterator[str]:
    """What the types can't see: names that don't exist, options, budgets. One line each."""

    def problem(function, *arguments) -> list[str]:
        try:
            function(*arguments)
        except StError as error:
            return [str(error)]
        return []

    def reference(name: str, known, what: str) -> list[str]:
        return [] if name in known else [f"unknown {what} '{name}'; {closest(name, known)}"]

    for seed in sorted({s for s in params.seeds if params.seeds.count(s) > 1}):
        yield f"seeds: {seed} is there twice"
    shapes = []
    for key, data in params.datasets.items():
        found = problem(registry.datasets.check, data.source, data.options)
        yield from (f"datasets.{key}: {p}" for p in found)
        if not found:
            options = registry.datasets.check(data.source, data.options)
            shapes.append((key, registry.datasets.get(data.source).shape(**options)))
    graphs = {}
    for key, architecture in params.architectures.items():
        for dataset, shape in shapes:
            # where only preparing the data tells their shape, any will do to check the options
            arguments = (architecture.family, architecture.options, *(shape or ((3, 32, 32), 10)))
            found = problem(draw, *arguments)
            yield from (f"architectures.{key}: {p}" for p in found)
            if found:
                break
            if shape:
                graphs[dataset, key] = draw(*arguments)
    impossible = set()
    for key, search in params.searches.items():
        where = f"searches.{key}"
        found = reference(search.supernet, params.supernets, "supernet")
        yield from (f"{where}.supernet: {p}" for p in found)
        found = problem(registry.criteria.check, search.criterion, search.options)
        yield from (f"{where}.criterion: {p}" for p in found)
        if search.budget.params is None and search.budget.macs is None:
            yield f"{where}.budget: give params, macs or both"
        budget = Budget(search.budget.params, search.budget.macs)
        for (dataset, architecture), graph in graphs.items():
            found = problem(check_reachable, graph, budget, search.min_channels, search.round_to)
            for message in found:
                if (key, architecture) not in impossible:
                    impossible.add((key, architecture))
                    yield f"{where}.budget: {architecture} on {dataset}: {message}"
    for key, method in params.methods.items():
        where = f"methods.{key}"
        if key.startswith("supernet"):
            yield f"{where}: names that begin with 'supernet' are the supernets' own"
        found = reference(method.search, params.searches, "search")
        yield from (f"{where}.search: {p}" for p in found)
        found = problem(registry.inits.check, method.init, method.init_options)
        yield from (f"{where}.init: {p}" for p in found)
        yield from (f"{where}.objective: {p}" for p in problem(objective, method))
        if not method.objective:
            yield f"{where}.objective: needs a loss"
        for name in method.architectures or []:
            found = reference(name, params.architectures, "architecture")
            yield from (f"{where}.architectures: {p}" for p in found)
    for key, supernet in params.supernets.items():
        for name, architecture in params.architectures.items():
            epochs = recipe(params, architecture, supernet).epochs
            if supernet.rewind_epoch > epochs:
                yield (
                    f"supernets.{key}.rewind_epoch: {supernet.rewind_epoch} is after the last "
                    f"epoch, {epochs}, of {name}"
                )


def recipe(params: Params, architecture: Architecture, part: Supernet | Method) -> Training:
    """The recipe of a supernet or method: the general one, changed by architecture, then by it."""
    changes = [
        change.model_dump(exclude_none=True) for change in (architecture.training, part.training)
    ]
    return Training(**{**params.training.model_dump(), **changes[0], **changes[1]})
