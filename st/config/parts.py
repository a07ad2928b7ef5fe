"""What can be wrong with single parts of params.yaml, which the Python API is given as well."""

import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from st.config.params import BudgetSection, Search
from st.core import registry
from st.core.errors import StError, one_line
from st.core.registry import closest
from st.core.types import Section
from st.training.recipe import Training

Kind = TypeVar("Kind", bound=Section)


def section(kind: type[Kind], given: Any, name: str = "") -> Kind:
    """A section of params.yaml; raises StError in one line that names the first wrong key.

    `name`: what messages call the section.
    """
    if not isinstance(given, Mapping):
        raise StError(f"{name}: must be a mapping of keys to values, not {reprlib.repr(given)}")
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        told = explain(error.errors()[0], lambda location: keys(kind, location))
        raise StError(one_line(f"{name}.{told}" if name else told)) from None


def keys(model: Any, location: Sequence) -> list[str]:
    """The keys that the section at `location` within `model` may have."""
    for part in location:
        model = model.model_fields[part].annotation
    sections_of = [m for m in get_args(model) or (model,) if m is not NoneType]  # or None
    return list(sections_of[0].model_fields)


def explain(error: Any, known: Callable[[Sequence], list[str]]) -> str:
    """One of pydantic's errors in one line that begins with the key. `known`: the keys that may
    stand at a location."""
    location = [part for part in error["loc"] if part != "[key]"]
    if location[2:3] == ["objective"] and len(location) > 4:  # one error per type it may have
        location, error = location[:4], {**error, "type": "weight"}
    key = ".".join(str(part) for part in location) or "the file"
    kind, given = error["type"], reprlib.repr(error["input"])
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {closest(str(location[-1]), known(location[:-1]))}"
    if kind == "missing":
        return f"{key}: is missing; add it"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key}: must be a mapping of keys to values, not {given}"
    if kind == "weight":
        return f"{key}: must be a weight or {{weight: ..., OPTION: ...}}, not {given}"
    if kind == "too_short" and not error["input"]:
        return f"{key}: must not be empty"
    if kind in ("too_short", "too_long"):
        bound = "at least" if kind == "too_short" else "at most"
        count = next(n for name, n in error["ctx"].items() if name in ("min_length", "max_length"))
        return f"{key}: must have {bound} {count} values, not {given}"
    if "[key]" in error["loc"]:
        if kind == "string_type":
            return (
                f"{key}: must be a string, not {type(error['input']).__name__}; write it in quotes"
            )
        if kind in ("string_too_long", "value_error"):
            return f"{key}: names should {error['msg'].partition('should ')[2]}"
        return (
            f"{key}: names are letters, digits, '_', '.' and '-', and begin with one of the first"
        )
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"{key}: {message}, not {given}"


def problems_of(function, /, *arguments, **options) -> list[str]:
    """What the function complains about, if it does."""
    try:
        function(*arguments, **options)
    except StError as error:
        return [str(error)]
    return []


def search_problems(search: Search) -> Iterator[str]:
    """What is wrong with a search whatever the supernet. Its criterion and options are known."""
    criterion = registry.criteria.get(search.criterion)
    given = any(bound is not None for bound in search.budget.model_dump().values())
    if given and not criterion.budget:
        yield f"budget: criterion '{search.criterion}' takes none; leave it out"
    elif not given and criterion.budget:
        *most, last = BudgetSection.model_fields
        yield f"budget: is missing; give {', '.join(most)}, {last} or several"
    if search.rounds > 1 and not criterion.ranks:
        yield f"rounds: criterion '{search.criterion}' ranks no channels and has one round only"
    elif search.rounds > 1 and criterion.blind:
        yield f"rounds: criterion '{search.criterion}' looks at no weights and has one round only"
    for name in ("ranking", "min_channels", "round_to") if not criterion.ranks else ():
        if is_given(search, name):
            yield (
                f"{name}: has no effect, because criterion '{search.criterion}' ranks no channels; "
                "leave it out"
            )
    options = registry.criteria.check(search.criterion, search.options)
    try:
        comparable = registry.criteria.ask(search.criterion, "comparable", **options)
    except StError as error:
        yield f"criterion: {error}"
        return
    if search.ranking == "global" and not comparable:
        yield (
            f"ranking: scores of criterion '{search.criterion}' cannot be compared between layers; "
            "use ranking: local (the same fraction of every layer) or ranking: normalized"
        )
    if search.ranking != "global" and criterion.shares:
        yield (
            f"ranking: criterion '{search.criterion}' says how much of each layer to keep, of "
            f"which {search.ranking} takes no notice; use ranking: global"
        )


def objective_problems(objective: Mapping[str, Any], mixing: str | None) -> Iterator[str]:
    """What is wrong with an objective whatever the network. `mixing`: the place of augmentations
    that mix images, if there are any."""
    for name, options in objective.items():
        loss = registry.losses.get(name)
        if loss.parts and not any(options[part] for part in loss.parts):
            parts = " and ".join(loss.parts)
            yield f"loss '{name}': {parts} are 0, so it does nothing; leave it out"
        if mixing and not loss.soft:
            yield (
                f"loss '{name}' needs images of one class each, but {mixing} mixes them; leave "
                "out mixup and cutmix, or it"
            )
    if not objective:
        yield "needs a loss whose weight is above 0"


def recipe_problems(
    given: Any, concerned: Sequence[tuple[Training, Collection[str]]]
) -> Iterator[str]:
    """Keys of a recipe at which no training looks. `concerned`: the whole recipe and the losses of
    each training for which these keys, of a Training or a change to one, are `given`."""
    recipes = [found for found, _ in concerned]
    changed = {
        key
        for key, field in Training.model_fields.items()
        if getattr(given, key) not in (None, field.default)
    }
    for key in ("milestones", "decay"):
        if key in changed and all(r.schedule != "step" for r in recipes):
            yield f"{key}: has no effect; it needs schedule: step"
    if given.warmup and all(r.schedule == "onecycle" for r in recipes):
        yield "warmup: has no effect; schedule: onecycle has a rise of its own"
    if given.nesterov and all(r.momentum == 0 for r in recipes):
        yield "nesterov: has no effect without momentum"
    for key in ("momentum", "nesterov"):
        if key in changed and all(r.optimiser == "adamw" for r in recipes):
            yield f"{key}: has no effect; it needs optimiser: sgd"
    if given.label_smoothing and not any("ce" in losses for _, losses in concerned):
        yield "label_smoothing: has no effect; it needs the loss 'ce'"
    usual = Training.model_fields["lr"].default
    if given.optimiser == "adamw" and any(
        r.optimiser == "adamw" and r.lr == usual for r in recipes
    ):
        yield f"lr: {usual} is for sgd; optimiser: adamw takes about 0.001"


def is_given(section: Section, name: str) -> bool:
    """Whether a key has another value than its default."""
    return getattr(section, name) != type(section).model_fields[name].default
