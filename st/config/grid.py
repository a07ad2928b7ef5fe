"""From params to jobs: what every phase of every experiment needs to know, and where its files are.

Nothing here imports torch: the workflow uses it to draw its graph of jobs.
"""

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from st.config import changes, jobs
from st.config.layout import (
    DATA,
    HISTORY,
    OUTPUTS,
    SUPERNET_HISTORY,
    Experiment,
    Files,
    Paths,
    place,
)
from st.config.params import Architecture, Params, imported, objective, recipe, weights_file
from st.config.sources import beside, module_file, sources
from st.core import registry
from st.core.job import Job, fingerprint


class Grid:
    """All experiments of a params file."""

    def __init__(self, params: Params):
        self.params = params

    def methods(self, architecture: str) -> list[str]:
        """Methods that apply to an architecture, in the file's order."""
        return [
            name
            for name, method in self.params.methods.items()
            if method.architectures is None or architecture in method.architectures
        ]

    def supernets(self, architecture: str) -> list[str]:
        """The supernets to evaluate: the reference, those that the methods need, and those that
        claims are about."""
        reference = next(iter(self.params.supernets))
        methods = self.methods(architecture)
        used = {self.teacher(name) for name in methods} | {reference}
        compared = {row for name in methods for row in self.params.claims.get(name, ())}
        return [s for s in self.params.supernets if s in used or self.row(s) in compared]

    def teacher(self, method: str) -> str:
        """The supernet that a method prunes and learns from."""
        return self.params.searches[self.params.methods[method].search].supernet

    def row(self, supernet: str) -> str:
        """A supernet's name in the table."""
        return self.params.row(supernet)

    def imported(self) -> list[str]:
        """The architectures that the phase `draw` imports."""
        return [name for name, a in self.params.architectures.items() if imported(a.family)]

    def own_code(self, architecture: str) -> list[Path]:
        """The files of a user's own module, where they are not a library's."""
        place = self._options(architecture)["module"].rpartition(":")[0]
        if place.endswith(".py"):
            return beside(Path(place))
        file = module_file(place)
        here, libraries = Path.cwd(), Path(sys.prefix)  # an environment may lie in the project
        if file is None or not file.is_relative_to(here) or file.is_relative_to(libraries):
            return []
        return list(sources(place))

    def _options(self, architecture: str) -> dict[str, Any]:
        spec = self.params.architectures[architecture]
        return registry.architectures.check(spec.family, spec.options)

    def rows(self, architecture: str) -> list[str]:
        """The names of the trained networks in the table: supernets, then methods."""
        return [self.row(s) for s in self.supernets(architecture)] + self.methods(architecture)

    def exports(self, architecture: str) -> dict[str, Job]:
        """The files for other programs that are made, by their names in the table: of which row,
        to which target, and whether they take raw pixels."""
        rows = self.rows(architecture)
        return {
            f"{row}-{target}": {"of": row, "to": target, "raw": export.raw}
            for row, export in self.params.exports.items()
            if row in rows
            for target in export.to
        }

    # Jobs, phase by phase.

    def draw(self, architecture: str) -> Job:
        """The import of a network, which depends on the library that it comes from."""
        options = self._options(architecture)
        library = options["module"].partition(":")[0].partition(".")[0]
        try:
            found = version(library)
        except (PackageNotFoundError, ValueError):
            found = None
        return {"options": options, "library": found}

    def prepare(self, dataset: str) -> Job:
        """The images of a data set: source, its options with defaults, the part held out."""
        data = self.params.datasets[dataset]
        options = registry.datasets.check(data.source, data.options)
        job: Job = {"source": data.source, "options": options, "holdout": data.holdout}
        if data.normalisation:
            job["normalisation"] = data.normalisation.model_dump()
        prepared = Path(DATA.format(dataset=dataset))
        found = changes.fingerprint(data.source, json.dumps(options), data.compare, prepared)
        if found is not None:
            job["fingerprint"] = found
        return job

    def pretrain(self, dataset: str, architecture: str, seed: int, supernet: str) -> Job:
        """The training of a supernet."""
        arch, part = self.params.architectures[architecture], self.params.supernets[supernet]
        scale = part.bn_scale
        return {
            "seed": seed,
            "family": arch.family,
            "options": self._options(architecture),
            **({"weights": part.weights} if part.weights else {}),
            "init_options": self._fresh(arch, {} if scale is None else {"bn_scale": scale}),
            "rewind_epoch": part.rewind_epoch,
            "sparsity": arch.sparsity if part.sparse else 0.0,
            "augment": self.params.datasets[dataset].augment.model_dump(),
            "training": recipe(self.params, arch, part).model_dump(),
        }

    def search(self, dataset: str, architecture: str, seed: int, search: str) -> Job:
        """What of a supernet is kept, and by which criterion and budget."""
        spec, measured = self.params.searches[search], self.params.evaluation
        lottery = None
        if spec.rounds > 1:
            supernet = self.pretrain(dataset, architecture, seed, spec.supernet)
            used = ("seed", "sparsity", "augment", "training")
            lottery = {"rounds": spec.rounds, **{key: supernet[key] for key in used}}
        return jobs.search(seed, spec, measured, lottery)

    def initialize(self, architecture: str, seed: int, method: str) -> Job:
        """Where a subnet's first weights come from."""
        arch, spec = self.params.architectures[architecture], self.params.methods[method]
        own = arch.init_options if spec.init == "random" else {}
        return jobs.initialize(seed, spec.init, {**own, **spec.init_options})

    def _fresh(self, architecture: Architecture, changes: dict[str, Any]) -> dict[str, Any]:
        """Options of fresh weights: the architecture's, changed by a supernet or method."""
        return registry.inits.check("random", {**architecture.init_options, **changes})

    def train(self, dataset: str, architecture: str, seed: int, method: str) -> Job:
        """The training of a method's subnet."""
        arch, spec = self.params.architectures[architecture], self.params.methods[method]
        return jobs.train(
            seed,
            objective(spec.objective),
            recipe(self.params, arch, spec),
            self.params.datasets[dataset].augment,
            spec.epoch_rule,
            spec.max_epoch_factor,
        )

    def evaluate(self, dataset: str, architecture: str, seed: int) -> Job:
        """One job measures all networks of an experiment's architecture and seed, so that their
        latencies are measured side by side."""
        supernets = self.supernets(architecture)
        rows = [{"method": self.row(name), "teacher": None} for name in supernets]
        rows += [
            {"method": m, "teacher": self.row(self.teacher(m)) if self.needs_teacher(m) else None}
            for m in self.methods(architecture)
        ]
        teachers = {row["method"]: row["teacher"] for row in rows}
        rows += [
            {"method": name, "teacher": teachers[export["of"]], **export}
            for name, export in self.exports(architecture).items()
        ]
        return {
            "dataset": dataset,
            "architecture": architecture,
            "seed": seed,
            "rows": rows,
            **self.params.evaluation.model_dump(),
        }

    def deploy(self, architecture: str, name: str) -> Job:
        """A file for other programs."""
        export = self.exports(architecture)[name]
        return {"to": export["to"], "raw": export["raw"]}

    def report(self) -> Job:
        """What the report is about: the rows, and how each came to be."""
        rows = {}
        for architecture in self.params.architectures:
            rows[architecture] = [
                {
                    "method": self.row(name),
                    "supernet": name,
                    "history": _fill(SUPERNET_HISTORY, supernet=name),
                }
                for name in self.supernets(architecture)
            ] + [self._subnet_row(name) for name in self.methods(architecture)]
        return {
            "datasets": {name: d.held_out for name, d in self.params.datasets.items()},
            "seeds": self.params.seeds,
            "rows": rows,
            "exports": {
                architecture: [
                    {"method": name, "of": export["of"], "to": export["to"]}
                    for name, export in self.exports(architecture).items()
                ]
                for architecture in self.params.architectures
            },
            "claims": self.params.claims,
            "latency_batch": self.params.evaluation.latency_batch,
            # what jobs may ask a cluster for changes no result
            "params": fingerprint(self.params.model_dump(exclude={"resources"})),
        }

    def _subnet_row(self, name: str) -> Job:
        method = self.params.methods[name]
        search = self.params.searches[method.search]
        return {
            "method": name,
            "supernet": search.supernet,
            "history": _fill(HISTORY, method=name),
            "search": method.search,
            "criterion": search.criterion,
            "budget": search.budget.model_dump(exclude_none=True),
            "rounds": search.rounds,
            "init": method.init,
            "anew": registry.inits.get(method.init).source is None,
            "epoch_rule": method.epoch_rule,
            "max_epoch_factor": method.max_epoch_factor,
            "objective": objective(method.objective),
            # as it stands in the params file, to propose other methods like it
            "spec": method.model_dump(mode="json", exclude_defaults=True),
        }

    def reads_files(self, dataset: str) -> bool:
        """Whether the source reads image files one by one, which several processes can do."""
        source = registry.datasets.get(self.params.datasets[dataset].source)
        return getattr(source, "writes", False)

    def search_needs_rewind(self, search: str) -> bool:
        """Whether it returns to the supernet's early weights, as lottery rounds do."""
        return self.params.searches[search].rounds > 1

    def search_needs_data(self, search: str) -> bool:
        """Whether it looks at training images."""
        criterion = registry.criteria.get(self.params.searches[search].criterion)
        return getattr(criterion, "data", False) or self.search_needs_rewind(search)

    def search_measures(self, search: str) -> bool:
        """Whether it measures latencies, which nothing else may disturb."""
        return self.params.searches[search].budget.latency is not None

    def search_uses_torch(self, search: str) -> bool:
        """Whether its job computes on the device; others read weights only."""
        return self.search_measures(search) or self.search_needs_data(search)

    def needs_teacher(self, method: str) -> bool:
        """Whether one of the method's losses reads a teacher's outputs."""
        losses = self.params.methods[method].objective
        return any(registry.losses.get(name).teacher for name in losses)

    # Jobs and their files, whatever the phase.

    def experiments(self, phase: str) -> list[Experiment]:
        """What the jobs of a phase that the table needs are about."""
        if phase == "report":
            return [Experiment()]
        if phase == "prepare":
            return [Experiment(dataset) for dataset in self.params.datasets]
        if phase == "draw":
            return [Experiment(d, a) for d in self.params.datasets for a in self.imported()]
        return [
            Experiment(dataset, architecture, seed, name)
            for dataset in self.params.datasets
            for architecture in self.params.architectures
            for seed in self.params.seeds
            for name in self._names(phase, architecture)
        ]

    def _names(self, phase: str, architecture: str) -> list[Any]:
        """The fourth part of a phase's experiments."""
        methods = self.methods(architecture)
        if phase == "search":
            return list(dict.fromkeys(self.params.methods[m].search for m in methods))
        others: dict[str, list[Any]] = {
            "pretrain": self.supernets(architecture),
            "deploy": list(self.exports(architecture)),
            "evaluate": [""],
        }
        return others.get(phase, methods)

    def job(self, phase: str, experiment: Experiment) -> Job:
        """What the phase is told."""
        names = {
            "prepare": ("dataset",),
            "draw": ("architecture",),
            "initialize": ("architecture", "seed", "name"),
            "deploy": ("architecture", "name"),
            "evaluate": ("dataset", "architecture", "seed"),
            "report": (),
        }.get(phase, ("dataset", "architecture", "seed", "name"))
        return getattr(self, phase)(*(getattr(experiment, name) for name in names))

    def modules(self, phase: str, experiment: Experiment) -> list[str]:
        """The modules that the phase finds by name for this job; their code is a part of it."""
        params, name = self.params, experiment.name
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
            found += ["st.pruning.latency"] if self.search_measures(name) else []
            if self.search_needs_rewind(name):
                found += ["st.pruning.lottery", "st.training.losses.ce"]
        elif phase == "initialize":
            found += [registry.inits.module(params.methods[name].init)]
        elif phase == "train":
            found += [registry.losses.module(loss) for loss in params.methods[name].objective]
        elif phase in ("deploy", "evaluate"):
            exports = self.exports(experiment.architecture)
            made = [exports[name]] if phase == "deploy" else list(exports.values())
            found += [registry.targets.module(export["to"]) for export in made]
            found += ["st.deploy.running"] if made and phase == "evaluate" else []
        return found

    def files(self, phase: str, experiment: Experiment) -> Files:
        """What the job reads and writes."""
        if phase == "evaluate":
            return self._measured(experiment)
        if phase == "report":
            inputs: Paths = {
                "measured": self.made("evaluate"),
                "histories": self.made("pretrain", "history") + self.made("train", "history"),
                "structures": self.made("search"),
            }
        elif phase == "prepare":
            inputs = {}
        elif phase == "draw":
            weights = self._options(experiment.architecture)["weights"]
            inputs = {"data": place("prepare", "data", experiment), "weights": weights}
        elif phase == "pretrain":
            inputs = {
                "data": place("prepare", "data", experiment),
                "drawing": self._drawing(experiment),
                "weights": weights_file(
                    self.params.supernets[experiment.name],
                    experiment.dataset,
                    experiment.architecture,
                ),
            }
        elif phase == "search":
            inputs = self._searched(experiment)
        elif phase == "deploy":
            export = self.exports(experiment.architecture)[experiment.name]
            inputs = {
                "data": place("prepare", "data", experiment),
                "model": self._models(experiment)[export["of"]],
            }
        else:
            inputs = self._subnet(phase, experiment)
        suffix = self._suffix(experiment) if phase == "deploy" else ""
        outputs: Paths = {
            name: place(phase, name, experiment, suffix=suffix) for name in OUTPUTS[phase]
        }
        return Files(inputs, outputs)

    def _suffix(self, experiment: Experiment) -> str:
        """Of the file for other programs that an experiment is about."""
        export = self.exports(experiment.architecture)[experiment.name]
        return registry.targets.get(export["to"]).suffix

    def targets(self) -> list[str]:
        """The kinds of files for other programs that are made."""
        return sorted({target for export in self.params.exports.values() for target in export.to})

    def deployed(self, target: str) -> tuple[list[str], dict[str, str]]:
        """The names in the table of all files of a kind, and what is written for one, with
        Snakemake's wildcards."""
        kind = registry.targets.get(target)
        names = {
            name: None
            for architecture in self.params.architectures
            for name, export in self.exports(architecture).items()
            if export["to"] == target
        }
        outputs = OUTPUTS["deploy"]
        found = {key: _fill(path, suffix=kind.suffix) for key, path in outputs.items()}
        for suffix in kind.beside:
            found[suffix.removeprefix(".")] = _fill(outputs["exported"], suffix=suffix)
        return list(names), found

    def beside(self, experiment: Experiment) -> list[str]:
        """What lies beside the files for other programs that evaluate measures, and belongs to
        them."""
        return [
            place("deploy", "exported", experiment, name, suffix)
            for name, export in self.exports(experiment.architecture).items()
            for suffix in registry.targets.get(export["to"]).beside
        ]

    def made(self, phase: str, *options: str) -> list[str]:
        """The outputs of all jobs of a phase, or those of these options."""
        found: list[str] = []
        for experiment in self.experiments(phase):
            outputs = self.files(phase, experiment).outputs
            for option in options or outputs:
                path = outputs[option]
                found += [path] if isinstance(path, str) else path or []
        return found

    def _drawing(self, experiment: Experiment) -> str | None:
        """The imported network, if it is one."""
        family = self.params.architectures[experiment.architecture].family
        return place("draw", "drawing", experiment) if imported(family) else None

    def _searched(self, experiment: Experiment) -> Paths:
        """The inputs of a search: the images and early weights only if it looks at them."""
        name = experiment.name
        supernet = self.params.searches[name].supernet
        data, rewind = self.search_needs_data(name), self.search_needs_rewind(name)
        return {
            "supernet": place("pretrain", "model", experiment, supernet),
            "data": place("prepare", "data", experiment) if data else None,
            "rewind": place("pretrain", "rewind", experiment, supernet) if rewind else None,
        }

    def _subnet(self, phase: str, experiment: Experiment) -> Paths:
        """The inputs of initialize and train."""
        method = self.params.methods[experiment.name]
        supernet = self.teacher(experiment.name)
        if phase == "initialize":
            # the option of pretrain's output that the init starts from: model, rewind or none
            source = registry.inits.get(method.init).source
            return {
                "structure": place("search", "structure", experiment, method.search),
                "source": place("pretrain", source, experiment, supernet)
                if source
                else self._drawing(experiment),
            }
        taught = self.needs_teacher(experiment.name)
        return {
            "data": place("prepare", "data", experiment),
            "init": place("initialize", "init", experiment),
            "teacher": place("pretrain", "model", experiment, supernet) if taught else None,
        }

    def _models(self, experiment: Experiment) -> dict[str, str]:
        """The trained networks of an architecture and seed, by their rows in the table."""
        found = {
            self.row(name): place("pretrain", "model", experiment, name)
            for name in self.supernets(experiment.architecture)
        }
        for name in self.methods(experiment.architecture):
            found[name] = place("train", "model", experiment, name)
        return found

    def _measured(self, experiment: Experiment) -> Files:
        """The files of evaluate, which has all networks of an architecture, in its job's order."""
        models, exports = self._models(experiment), self.exports(experiment.architecture)
        files = [
            place("deploy", "exported", experiment, name, registry.targets.get(export["to"]).suffix)
            for name, export in exports.items()
        ]
        return Files(
            {
                "data": place("prepare", "data", experiment),
                "models": list(models.values()),
                "exports": files or None,
            },
            {
                option: [place("evaluate", option, experiment, row) for row in (*models, *exports)]
                for option in OUTPUTS["evaluate"]
            },
        )


def _fill(pattern: str, **names: str) -> str:
    """Fill in some wildcards and leave the others."""
    for key, value in names.items():
        pattern = pattern.replace(f"{{{key}}}", value)
    return pattern
