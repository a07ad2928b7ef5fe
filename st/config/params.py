"""The types of params.yaml: its keys, bounds, defaults and descriptions.

workflow/schemas/params.schema.json is generated from these classes (`st schema`);
st/config/check.py reads params files.
"""

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, WithJsonSchema

from st.core import registry
from st.core.errors import StError
from st.core.types import Distinct, Finite, Flag, Fraction, Number, Section, Several, Whole
from st.data.augment import Augment
from st.data.split import held_out
from st.training.recipe import Training, TrainingChange


def _no_period(name: str) -> str:
    """Snakemake takes a name that ends in many repetitions for one that its rules made longer."""
    if re.search(r"(.+?)\1{19,}$", name):
        raise ValueError("should end in fewer repetitions of the same")
    return name


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100), AfterValidator(_no_period)
]
Module = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
Options = dict[str, Any]
_weight = TypeAdapter(Annotated[float, Finite(ge=0)])


class _Schema(GenerateJsonSchema):
    """pydantic's, with what it leaves out."""

    def float_schema(self, schema):
        """A finite number without an upper bound: infinity is above the largest float."""
        result = super().float_schema(schema)
        if schema.get("allow_inf_nan") is False and not {"lt", "le"} & schema.keys():
            result["maximum"] = sys.float_info.max
        return result

    def dict_schema(self, schema):
        """A key that does not match the pattern is refused, not ignored."""
        result = super().dict_schema(schema)
        for pattern, values in result.pop("patternProperties", {}).items():
            result |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
        return result


def _json_schema(types: TypeAdapter) -> dict[str, Any]:
    return types.json_schema(schema_generator=_Schema)


# The type says less than this, so that `objective` can say which option of which loss is wrong.
Loss = Annotated[
    Number | Options,
    WithJsonSchema(
        {
            "anyOf": [
                _json_schema(_weight),
                {
                    "properties": {"weight": _json_schema(_weight)},
                    "required": ["weight"],
                    "type": "object",
                },
            ]
        }
    ),
]


Channels = Annotated[list[Annotated[float, Finite(ge=0, le=1)]], Field(min_length=1, max_length=4)]


class Normalisation(Section):
    """Of each channel, for values from 0 to 1."""

    mean: Channels = Field(description="Subtracted.")
    std: Annotated[list[Fraction], Field(min_length=1, max_length=4)] = Field(
        description="Divided by afterwards."
    )


class DataSet(Section):
    """A data set of the table."""

    source: str = Field(description="digits, cifar10, imagefolder, ... or a plugin's.")
    options: Options = Field({}, description="The source's options, such as root or size.")
    augment: Augment = Augment()
    holdout: Annotated[float, Finite(ge=0, lt=1)] = Field(
        0.0,
        description="Above 0: leave the test images alone and evaluate on this fraction of each "
        "class's training images instead. For choosing settings.",
    )
    normalisation: Normalisation | None = Field(
        None,
        description="What is subtracted from each channel and what it is then divided by, for "
        "pretrained networks; default: mean and deviation of the training images.",
    )
    compare: Literal["dates", "contents"] = Field(
        "dates",
        description="How changes of the source's files are noticed. dates: by names, sizes and "
        "dates, and if these differ by the contents; contents: by reading all files at each start.",
    )

    @property
    def held_out(self) -> str:
        """What is evaluated in place of the test part, '' if nothing is."""
        return held_out(self.holdout, self.options)


class Architecture(Section):
    """A supernet's architecture."""

    family: str = Field(description="vgg, resnet, preresnet, densenet, import, or a plugin's.")
    options: Options = Field({}, description="The family's options, such as depth and width.")
    sparsity: Annotated[float, Finite(ge=0, le=1)] = Field(
        1e-4, description="Weight of the L1 penalty on BatchNorm scales in sparse supernets."
    )
    init_options: Options = Field(
        {},
        description="Options of the init `random` for all networks of this architecture that start "
        "anew, supernets and subnets: {bn_scale: 0.5, linear: uniform}.",
    )
    training: TrainingChange = Field(
        TrainingChange(), description="Changes to the recipe for this architecture."
    )


class Supernet(Section):
    """A way to train the supernet."""

    sparse: Flag = Field(False, description="Network slimming's L1 penalty while training.")
    weights: str | None = Field(
        None,
        description="Start from trained weights: a safetensors file, in whose name {architecture} "
        "and {dataset} stand for these; or `own`, those that an imported module has. With "
        "training: {epochs: 0} they are taken as they are.",
    )
    bn_scale: Annotated[float, Finite(gt=0, le=10)] | None = Field(
        None,
        description="Initial BatchNorm scale (network slimming: 0.5); default: the architecture's.",
    )
    rewind_epoch: Annotated[Whole, Field(ge=0)] = Field(
        0, description="The epoch whose weights are kept for the init `rewind`; 0: initial ones."
    )
    training: TrainingChange = Field(TrainingChange(), description="Changes to the recipe.")
    architectures: Several[str] | None = Field(
        None, description="Only for these architectures; default: all."
    )


class BudgetSection(Section):
    """Upper bounds on the subnet, as fractions of the supernet; all that are given hold."""

    params: Fraction | None = Field(None, description="Parameters.")
    macs: Fraction | None = Field(None, description="Multiply-accumulates.")
    channels: Fraction | None = Field(
        None,
        description="Prunable channels, of all layers together: 0.3 is network slimming at 70 %.",
    )
    latency: Fraction | None = Field(
        None,
        description="Time of a call, measured while searching as `evaluation` says. The structure "
        "then depends on the machine and on what else it does.",
    )


class Search(Section):
    """A way to find the subnet's structure in a supernet."""

    supernet: str = Field("plain", description="The supernet to search, and the subnets' teacher.")
    criterion: str = Field(description="bn_scale, l1_norm, uniform, ... or a plugin's.")
    options: Options = Field({}, description="The criterion's options.")
    ranking: Literal["global", "normalized", "local"] = Field(
        "global",
        description="Rank channels over all layers; the same by score over the mean magnitude of "
        "their layer's scores; or within each layer, so that all keep the same fraction. Criteria "
        "whose scores grow with a layer's size refuse `global`.",
    )
    budget: BudgetSection = BudgetSection()
    min_channels: Annotated[Whole, Field(ge=1, le=65536)] = Field(
        1, description="What every layer keeps at least."
    )
    round_to: Annotated[Whole, Field(ge=1, le=1024)] = Field(
        1,
        description="Keep multiples of so many channels (8 suits tensor cores); of those that go "
        "together, as one of each group of a grouped convolution, multiples of so many sets. A "
        "layer of another number may be kept whole: structure.json lists these as `not_rounded`.",
    )
    rounds: Annotated[Whole, Field(ge=1, le=100)] = Field(
        1,
        description="Above 1: prune in so many steps, by the same fraction each; between them the "
        "rest restarts from the supernet's weights at `rewind_epoch` and trains with its recipe. "
        "With the init `rewind` these are iterative lottery tickets.",
    )


class Method(Section):
    """A row of the table: a search, an init, an objective and a training rule."""

    search: str = Field(description="Where the structure comes from: a key of `searches`.")
    init: str = Field("random", description="random (re-initialise), inherit, rewind, ...")
    init_options: Options = Field(
        {}, description="The init's options; for `random` they change the architecture's."
    )
    objective: dict[str, Loss] = Field(
        {"ce": 1.0},
        json_schema_extra={"minProperties": 1},
        description="Weighted sum of losses: {ce: 0.1, kd: {weight: 0.9, temperature: 4}}.",
    )
    training: TrainingChange = Field(TrainingChange(), description="Changes to the recipe.")
    epoch_rule: Literal["same", "computation"] = Field(
        "same",
        description="same: the recipe's epochs. computation: so many more as the subnet needs "
        "fewer MACs than its supernet (Scratch-B).",
    )
    max_epoch_factor: Annotated[float, Finite(ge=1)] | None = Field(
        None, description="computation: at most this factor (Liu et al. 2019 stop at 2)."
    )
    architectures: Several[str] | None = Field(
        None, description="Only for these architectures; default: all."
    )


class Export(Section):
    """Files for other programs that are made of a row's networks; each is a row of its own."""

    to: Several[str] = Field(
        ["onnx"],
        description="onnx: the same network in ONNX; int8: in 8-bit integers, by onnxruntime's "
        "static quantisation with ranges measured on training images; torch: torch.export's "
        "program (.pt2); module: source code in plain PyTorch, with its weights as safetensors.",
    )
    raw: Flag = Field(
        False,
        description="The file takes pixels of 0 to 255 and normalises them itself.",
    )


class Evaluation(Section):
    """How latency is measured."""

    latency_batch: Annotated[Whole, Field(ge=1, le=65536)] = Field(1, description="Images a call.")
    latency_rounds: Annotated[Whole, Field(ge=1, le=10_000)] = Field(
        30, description="Calls per network; the median counts. Networks take turns."
    )


Minutes = Annotated[Whole, Field(ge=1, description="Minutes.")]
Megabytes = Annotated[Whole, Field(ge=1, description="Megabytes.")]


class Runtime(Section):
    """How long a job of each phase may take; a cluster stops it then. draw has prepare's limit,
    deploy evaluate's; initialize and report, which take seconds, have 30 minutes."""

    prepare: Minutes = 30
    pretrain: Minutes = 720
    search: Minutes = Field(30, description="Minutes; a search that trains gets pretrain's too.")
    train: Minutes = 720
    evaluate: Minutes = 60


class Memory(Section):
    """How much memory a job of each phase may use. draw has prepare's limit, deploy evaluate's;
    initialize has 4000 MB, report 2000."""

    prepare: Megabytes = 4000
    pretrain: Megabytes = 8000
    search: Megabytes = 8000
    train: Megabytes = 8000
    evaluate: Megabytes = 8000


Percent = Annotated[Whole, Field(ge=1, le=100)]


class Resources(Section):
    """What jobs ask a cluster or a GPU for. Nothing runs again because of it."""

    runtime: Runtime = Runtime()
    mem_mb: Memory = Memory()
    gpu_percent: dict[Name, Percent] = Field(
        {},
        description="By architecture, how much of a GPU each of its jobs takes at least, where "
        "jobs share GPUs; otherwise one of the GPU's slots. {densenet40: 50}: two at a time.",
    )


class Params(Section):
    """A grid of experiments: data sets x architectures x seeds x methods."""

    plugins: Distinct[Module] = Field([], description="One's own modules, imported first.")
    seeds: Several[Annotated[Whole, Field(ge=0, lt=2**32)]]
    datasets: Annotated[dict[Name, DataSet], Field(min_length=1)]
    architectures: Annotated[dict[Name, Architecture], Field(min_length=1)]
    training: Training = Training()
    supernets: Annotated[dict[Name, Supernet], Field(min_length=1)] = Field(
        {"plain": Supernet()},
        description="The first is the table's reference row, `supernet`, of all architectures. One "
        "that no method needs is trained too, to be compared with.",
    )
    searches: dict[Name, Search] = Field({}, description="Ways to find structures.")
    methods: dict[Name, Method] = Field({}, description="The table's rows beside the supernets.")
    claims: dict[Name, Several[str]] = Field(
        {},
        description="Verdicts for unusual grids: a method, and the rows of the table that it must "
        "beat, in this order. Otherwise each method that starts anew in a structure which was "
        "searched for, and learns from its supernet, must beat that supernet, the reference and "
        "any that was trained for longer.",
    )
    exports: dict[Name, Export] = Field(
        {},
        description="Rows of the table (methods, supernets) that are also written as files for "
        "other programs and measured as such: {st: {to: [onnx, int8]}}.",
    )
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()

    def row(self, supernet: str) -> str:
        """A supernet's name in the table."""
        reference = next(iter(self.supernets))
        return "supernet" if supernet == reference else f"supernet-{supernet}"


def concerns(part: Supernet | Method, architecture: str) -> bool:
    """Whether a supernet or method is one of this architecture's rows."""
    return part.architectures is None or architecture in part.architectures


def schema() -> dict[str, Any]:
    """The JSON schema of params.yaml."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_json_schema(TypeAdapter(Params)),
    }


def imported(family: str) -> bool:
    """Whether the phase `draw` imports networks of this family, if there is such a family."""
    try:
        return registry.architectures.get(family).imported
    except StError:
        return False


def weights_file(supernet: Supernet, dataset: str, architecture: str) -> str | None:
    """The file that the supernet's weights are taken from, if any."""
    if supernet.weights in (None, "own"):
        return None
    named = supernet.weights.replace("{dataset}", dataset)
    return named.replace("{architecture}", architecture)


def objective(losses: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """An objective's losses, each with its weight and all options, without those of weight 0;
    raises StError that names the loss and the option."""
    result = {}
    for name, value in losses.items():
        given = {"weight": value} if not isinstance(value, dict) else dict(value)
        if "weight" not in given:
            raise StError(f"loss '{name}': option 'weight' is missing")
        weight = given.pop("weight")
        try:
            number = _weight.validate_python(weight)
        except ValidationError:
            raise StError(
                f"loss '{name}': option 'weight' must be 0 or more, not {weight!r}"
            ) from None
        options = registry.losses.check(name, given)
        if number:
            result[name] = {"weight": number, **options}
    return result


def recipe(params: Params, architecture: Architecture, part: Supernet | Method) -> Training:
    """The recipe of a supernet or method: the general one, changed by architecture, then by it."""
    changes = [
        change.model_dump(exclude_none=True) for change in (architecture.training, part.training)
    ]
    return Training(**{**params.training.model_dump(), **changes[0], **changes[1]})
