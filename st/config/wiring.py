"""What jobs are connected to: the files that they read and write, and the code that they are."""

from pathlib import Path

from st.config.grid import Grid
from st.config.layout import OUTPUTS, Experiment, Files, Paths, fill, place
from st.config.params import imported, weights_file
from st.core import registry
from st.networks.place import code


def files(grid: Grid, phase: str, experiment: Experiment) -> Files:
    """What the job reads and writes."""
    if phase == "evaluate":
        return _measured(grid, experiment)
    if phase == "report":
        inputs: Paths = {
            "measured": made(grid, "evaluate"),
            "histories": made(grid, "pretrain", "history") + made(grid, "train", "history"),
            "structures": made(grid, "search"),
        }
    elif phase == "prepare":
        inputs = {}
    elif phase == "draw":
        weights = grid.options(experiment.architecture)["weights"]
        inputs = {"data": place("prepare", "data", experiment), "weights": weights}
    elif phase == "pretrain":
        inputs = {
            "data": place("prepare", "data", experiment),
            "drawing": _drawing(grid, experiment),
            "weights": weights_file(
                grid.params.supernets[experiment.name], experiment.dataset, experiment.architecture
            ),
        }
    elif phase == "search":
        inputs = _searched(grid, experiment)
    elif phase == "deploy":
        export = grid.exports(experiment.architecture)[experiment.name]
        inputs = {
            "data": place("prepare", "data", experiment),
            "model": _models(grid, experiment)[export["of"]],
        }
    else:
        inputs = _subnet(grid, phase, experiment)
    suffix = _suffix(grid, experiment) if phase == "deploy" else ""
    outputs: Paths = {
        name: place(phase, name, experiment, suffix=suffix) for name in OUTPUTS[phase]
    }
    return Files(inputs, outputs)


def made(grid: Grid, phase: str, *options: str) -> list[str]:
    """The outputs of all jobs of a phase, or those of these options."""
    found: list[str] = []
    for experiment in grid.experiments(phase):
        outputs = files(grid, phase, experiment).outputs
        for option in options or outputs:
            path = outputs[option]
            found += [path] if isinstance(path, str) else path or []
    return found


def deployed(grid: Grid, target: str) -> tuple[list[str], dict[str, str]]:
    """The names in the table of all files of a kind, and what is written for one, with
    Snakemake's wildcards."""
    kind = registry.targets.get(target)
    names = {
        name: None
        for architecture in grid.params.architectures
        for name, export in grid.exports(architecture).items()
        if export["to"] == target
    }
    outputs = OUTPUTS["deploy"]
    found = {key: fill(path, suffix=kind.suffix) for key, path in outputs.items()}
    for suffix in kind.beside:
        found[suffix.removeprefix(".")] = fill(outputs["exported"], suffix=suffix)
    return list(names), found


def beside(grid: Grid, experiment: Experiment) -> list[str]:
    """What lies beside the files for other programs that evaluate measures, and belongs to them."""
    return [
        place("deploy", "exported", experiment, name, suffix)
        for name, export in grid.exports(experiment.architecture).items()
        for suffix in registry.targets.get(export["to"]).beside
    ]


def modules(grid: Grid, phase: str, experiment: Experiment) -> list[str]:
    """The modules that the phase finds by name for this job; their code is a part of it."""
    params, name = grid.params, experiment.name
    if phase == "prepare":
        return [registry.datasets.module(params.datasets[experiment.dataset].source)]
    if phase == "report":
        return []
    family = params.architectures[experiment.architecture].family
    found = [registry.architectures.module(family)]
    if phase == "pretrain":
        found += ["st.networks.inits.random", "st.training.losses.ce"]
    elif phase == "search":
        found += [registry.criteria.module(params.searches[name].criterion)]
        # what the phase imports only for such searches
        found += ["st.pruning.latency"] if grid.search_measures(name) else []
        if grid.search_needs_rewind(name):
            found += ["st.pruning.lottery", "st.training.losses.ce"]
    elif phase == "initialize":
        found += [registry.inits.module(params.methods[name].init)]
    elif phase == "train":
        found += [registry.losses.module(loss) for loss in grid.objectives[name]]
    elif phase in ("deploy", "evaluate"):
        exports = grid.exports(experiment.architecture)
        these = [exports[name]] if phase == "deploy" else list(exports.values())
        found += [registry.targets.module(export["to"]) for export in these]
        found += ["st.deploy.running"] if these and phase == "evaluate" else []
    return found


def own_code(grid: Grid, architecture: str) -> tuple[Path, ...]:
    """The files of a user's own module, where they are not a library's."""
    return code(grid.options(architecture)["module"])


def _drawing(grid: Grid, experiment: Experiment) -> str | None:
    """The imported network, if it is one."""
    family = grid.params.architectures[experiment.architecture].family
    return place("draw", "drawing", experiment) if imported(family) else None


def _searched(grid: Grid, experiment: Experiment) -> Paths:
    """The inputs of a search: the images and early weights only if it looks at them."""
    name = experiment.name
    supernet = grid.params.searches[name].supernet
    data, rewind = grid.search_needs_data(name), grid.search_needs_rewind(name)
    return {
        "supernet": place("pretrain", "model", experiment, supernet),
        "data": place("prepare", "data", experiment) if data else None,
        "rewind": place("pretrain", "rewind", experiment, supernet) if rewind else None,
    }


def _subnet(grid: Grid, phase: str, experiment: Experiment) -> Paths:
    """The inputs of initialize and train."""
    method = grid.params.methods[experiment.name]
    supernet = grid.teacher(experiment.name)
    if phase == "initialize":
        # the option of pretrain's output that the init starts from: model, rewind or none
        source = registry.inits.get(method.init).source
        return {
            "structure": place("search", "structure", experiment, method.search),
            "source": place("pretrain", source, experiment, supernet)
            if source
            else _drawing(grid, experiment),
        }
    taught = grid.needs_teacher(experiment.name)
    return {
        "data": place("prepare", "data", experiment),
        "init": place("initialize", "init", experiment),
        "teacher": place("pretrain", "model", experiment, supernet) if taught else None,
    }


def _models(grid: Grid, experiment: Experiment) -> dict[str, str]:
    """The trained networks of an architecture and seed, by their rows in the table."""
    found = {
        grid.row(name): place("pretrain", "model", experiment, name)
        for name in grid.supernets(experiment.architecture)
    }
    for name in grid.methods(experiment.architecture):
        found[name] = place("train", "model", experiment, name)
    return found


def _measured(grid: Grid, experiment: Experiment) -> Files:
    """The files of evaluate, which has all networks of an architecture, in its job's order."""
    models, exports = _models(grid, experiment), grid.exports(experiment.architecture)
    others = [
        place("deploy", "exported", experiment, name, registry.targets.get(export["to"]).suffix)
        for name, export in exports.items()
    ]
    return Files(
        {
            "data": place("prepare", "data", experiment),
            "models": list(models.values()),
            "exports": others or None,
        },
        {
            option: [place("evaluate", option, experiment, row) for row in (*models, *exports)]
            for option in OUTPUTS["evaluate"]
        },
    )


def _suffix(grid: Grid, experiment: Experiment) -> str:
    """Of the file for other programs that an experiment is about."""
    export = grid.exports(experiment.architecture)[experiment.name]
    return registry.targets.get(export["to"]).suffix
