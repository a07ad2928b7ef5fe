"""Keys of params.yaml that have no effect beside others. Each is refused: who wrote it expects one.

Values that are the default's pass, so that a completed file (`st params`) is a good one.
"""

from collections.abc import Iterator

from st.config.params import Method, Params, Supernet, objective, recipe
from st.core import registry
from st.core.types import Section
from st.networks.structure import Structure
from st.training.recipe import Training


def without_effect(params: Params, supernets: dict[tuple[str, str], Structure]) -> Iterator[str]:
    """One line per problem. `supernets`: by data set and architecture, where their shape is known.

    All names in `params` must be known ones.
    """
    yield from _augmentations(params, supernets)
    yield from _recipes(params)
    if not any(supernet.sparse for supernet in params.supernets.values()):
        for key, architecture in params.architectures.items():
            if _given(architecture, "sparsity"):
                yield f"architectures.{key}.sparsity: has no effect, because no supernet is sparse"
    for key, search in params.searches.items():
        if not registry.criteria.get(search.criterion).ranks:
            for name in ("ranking", "min_channels", "round_to"):
                if _given(search, name):
                    yield (
                        f"searches.{key}.{name}: has no effect, because criterion "
                        f"'{search.criterion}' ranks no channels; leave it out"
                    )
    for key, method in params.methods.items():
        if _given(method, "max_epoch_factor") and method.epoch_rule != "computation":
            yield (
                f"methods.{key}.max_epoch_factor: has no effect; it needs epoch_rule: computation"
            )


def _given(section: Section, name: str) -> bool:
    """Whether a key has another value than its default."""
    return getattr(section, name) != type(section).model_fields[name].default


def _augmentations(params: Params, supernets: dict[tuple[str, str], Structure]) -> Iterator[str]:
    """Crops that may show nothing of an image, bounds that are none, changes of no effect."""
    for dataset, data in params.datasets.items():
        where, augment = f"datasets.{dataset}.augment", data.augment
        if data.holdout and data.options.get("val") == "holdout":
            yield (
                f"datasets.{dataset}.holdout: {data.holdout} would leave the val images unused, "
                "which the option 'val: holdout' evaluates on; leave one of them out"
            )
        if augment.resized_crop:
            if augment.crop:
                yield f"{where}.crop: has no effect beside resized_crop; leave one of them out"
            for key, bounds in augment.resized_crop:
                if bounds[0] > bounds[1]:
                    yield f"{where}.resized_crop.{key}: must go from low to high, not {bounds}"
        for channels in {s.input_shape[0] for (d, _), s in supernets.items() if d == dataset}:
            for key, problem in augment.misfits(channels):
                yield f"{where}.{key}: {problem}"
    for (dataset, _), supernet in supernets.items():
        side = min(supernet.input_shape[1:])
        crops = {f"datasets.{dataset}.augment.crop": params.datasets[dataset].augment.crop}
        for key, search in params.searches.items():
            options = registry.criteria.check(search.criterion, search.options)
            crops[f"searches.{key}.options.crop"] = options.get("crop", 0)
        for key, crop in crops.items():
            if crop >= side:
                yield f"{key}: {crop} is as large as the images of {dataset}, {side} pixels"


def _recipes(params: Params) -> Iterator[str]:
    """Keys of recipes which no training that they concern looks at."""
    trainings: dict[str, list[tuple[Training, set[str]]]] = {}  # with their losses
    for name, architecture in params.architectures.items():
        parts: dict[str, Supernet | Method] = {
            f"supernets.{key}": part for key, part in params.supernets.items()
        }
        for key, method in params.methods.items():
            if method.architectures is None or name in method.architectures:
                parts[f"methods.{key}"] = method
        for key, part in parts.items():
            losses = set(objective(part.objective)) if isinstance(part, Method) else {"ce"}
            found = recipe(params, architecture, part), losses
            for section in ("training", f"architectures.{name}.training", f"{key}.training"):
                trainings.setdefault(section, []).append(found)
    for section, concerned in trainings.items():
        recipes = [found for found, _ in concerned]
        kind, _, name = section.removesuffix("training").rstrip(".").partition(".")
        given = getattr(params, kind)[name].training if kind else params.training
        for key in ("milestones", "decay"):
            if _given_in_recipe(given, key) and all(r.schedule != "step" for r in recipes):
                yield f"{section}.{key}: has no effect; it needs schedule: step"
        if given.warmup and all(r.schedule == "onecycle" for r in recipes):
            yield f"{section}.warmup: has no effect; schedule: onecycle has a rise of its own"
        if given.nesterov and all(r.momentum == 0 for r in recipes):
            yield f"{section}.nesterov: has no effect without momentum"
        for key in ("momentum", "nesterov"):
            if _given_in_recipe(given, key) and all(r.optimiser == "adamw" for r in recipes):
                yield f"{section}.{key}: has no effect; it needs optimiser: sgd"
        if given.label_smoothing and not any("ce" in losses for _, losses in concerned):
            yield f"{section}.label_smoothing: has no effect; it needs the loss 'ce'"
        usual = Training.model_fields["lr"].default
        if given.optimiser == "adamw" and any(
            r.optimiser == "adamw" and r.lr == usual for r in recipes
        ):
            yield f"{section}.lr: {usual} is for sgd; optimiser: adamw takes about 0.001"


def _given_in_recipe(section: Section, key: str) -> bool:
    return getattr(section, key) not in (None, Training.model_fields[key].default)
