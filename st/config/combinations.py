"""Keys of params.yaml that have no effect beside others. Each is refused: who wrote it expects one.

Values that are the default's pass, so that a completed file (`st params`) is a good one.
"""

from collections.abc import Iterator

from st.config.params import Method, Params, Supernet, concerns, objective, recipe
from st.config.parts import is_given, recipe_problems
from st.core import registry
from st.networks.structure import Structure
from st.training.recipe import Training


def without_effect(params: Params, supernets: dict[tuple[str, str], Structure]) -> Iterator[str]:
    """One line per problem. `supernets`: by data set and architecture, where their shape is known.

    All names in `params` must be known ones.
    """
    yield from _augmentations(params, supernets)
    yield from _recipes(params)
    for key, architecture in params.architectures.items():
        sparse = any(s.sparse and concerns(s, key) for s in params.supernets.values())
        if is_given(architecture, "sparsity") and not sparse:
            yield f"architectures.{key}.sparsity: has no effect, because no supernet is sparse"
    yield from _supernets(params)
    for key, method in params.methods.items():
        if is_given(method, "max_epoch_factor") and method.epoch_rule != "computation":
            yield (
                f"methods.{key}.max_epoch_factor: has no effect; it needs epoch_rule: computation"
            )
        for name, architecture in params.architectures.items():
            untrained = concerns(method, name) and not recipe(params, architecture, method).epochs
            if untrained and is_given(method, "objective"):
                yield f"methods.{key}.objective: has no effect on {name}, which has 0 epochs"


def _supernets(params: Params) -> Iterator[str]:
    for key, supernet in params.supernets.items():
        trained = {
            name: architecture.sparsity
            for name, architecture in params.architectures.items()
            if concerns(supernet, name) and recipe(params, architecture, supernet).epochs
        }
        if supernet.sparse and not trained:
            yield f"supernets.{key}.sparse: has no effect, because it is not trained"
        for name, sparsity in trained.items():
            if supernet.sparse and not sparsity:
                yield (
                    f"supernets.{key}.sparse: has no effect on {name}, whose sparsity is 0; leave "
                    "it out of the supernet's `architectures`"
                )
        if supernet.bn_scale is not None and supernet.weights:
            yield f"supernets.{key}.bn_scale: has no effect beside weights, which have scales"


def _augmentations(params: Params, supernets: dict[tuple[str, str], Structure]) -> Iterator[str]:
    """Crops that may show nothing of an image, bounds that are none, changes of no effect."""
    for dataset, data in params.datasets.items():
        where, augment = f"datasets.{dataset}.augment", data.augment
        if data.holdout and data.options.get("val") == "holdout":
            yield (
                f"datasets.{dataset}.holdout: {data.holdout} would leave the val images unused, "
                "which the option 'val: holdout' evaluates on; leave one of them out"
            )
        shapes = {s.input_shape for (d, _), s in supernets.items() if d == dataset}
        for shape in shapes or (None,):
            for key, problem in augment.misfits(shape):
                yield f"{where}.{key}: {problem}"
    for (dataset, _), supernet in supernets.items():
        side = min(supernet.input_shape[1:])
        for key, search in params.searches.items():
            crop = registry.criteria.check(search.criterion, search.options).get("crop", 0)
            if crop >= side:
                yield (
                    f"searches.{key}.options.crop: {crop} is as large as the images of {dataset}, "
                    f"{side} pixels"
                )


def _recipes(params: Params) -> Iterator[str]:
    """Keys of recipes which no training that they concern looks at."""
    trainings: dict[str, list[tuple[Training, set[str]]]] = {}  # with their losses
    for name, architecture in params.architectures.items():
        parts: dict[str, Supernet | Method] = {
            f"supernets.{key}": part for key, part in params.supernets.items()
        }
        parts |= {f"methods.{key}": part for key, part in params.methods.items()}
        for key, part in parts.items():
            if not concerns(part, name):
                continue
            losses = set(objective(part.objective)) if isinstance(part, Method) else {"ce"}
            found = recipe(params, architecture, part), losses
            for section in ("training", f"architectures.{name}.training", f"{key}.training"):
                trainings.setdefault(section, []).append(found)
    for section, concerned in trainings.items():
        kind, _, name = section.removesuffix("training").rstrip(".").partition(".")
        given = getattr(params, kind)[name].training if kind else params.training
        yield from (f"{section}.{p}" for p in recipe_problems(given, concerned))
