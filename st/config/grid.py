"""From params to jobs: what every phase of every experiment needs to know.

Nothing here imports torch: the workflow uses it to draw its graph of jobs.
"""

import json
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from st.config import changes, jobs
from st.config.layout import DATA, HISTORY, SUPERNET_HISTORY, Experiment, fill
from st.config.params import Architecture, Params, concerns, imported, objective, recipe
from st.core import registry
from st.core.job import Job, fingerprint, ordered
from st.core.types import Section


class Grid:
    """All experiments of a params file."""

    def __init__(self, params: Params):
        self.params = params

    @cached_property
    def objectives(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By method: its losses with all options, once for all of its jobs."""
        return {name: objective(spec.objective) for name, spec in self.params.methods.items()}

    def methods(self, architecture: str) -> list[str]:
        """Methods that apply to an architecture, in the file's order."""
        return [
            name for name, method in self.params.methods.items() if concerns(method, architecture)
        ]

    def supernets(self, architecture: str) -> list[str]:
        """Supernets that apply to an architecture, the reference first. Those that no method needs
        are there to be compared with, as one that is trained for longer is."""
        return [
            name
            for name, supernet in self.params.supernets.items()
            if concerns(supernet, architecture)
        ]

    def teacher(self, method: str) -> str:
        """The supernet that a method prunes and learns from."""
        return self.params.searches[self.params.methods[method].search].supernet

    def row(self, supernet: str) -> str:
        """A supernet's name in the table."""
        return self.params.row(supernet)

    def imported(self) -> list[str]:
        """The architectures that the phase `draw` imports."""
        return [name for name, a in self.params.architectures.items() if imported(a.family)]

    def options(self, architecture: str) -> dict[str, Any]:
        """The architecture's options with defaults."""
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
        options = self.options(architecture)
        library = options["module"].partition(":")[0].partition(".")[0]
        try:
            found = version(library)
        except (PackageNotFoundError, ValueError):
            found = None
        return {"options": options, "library": found}

    def prepare(self, dataset: str) -> Job:
        """The images of a data set: source, its options with defaults, the part held out. Apart
        from these, `where` their files lie, which another machine may know otherwise."""
        data = self.params.datasets[dataset]
        options = registry.datasets.check(data.source, data.options)
        what, where = changes.parted(data.source, options)
        job: Job = {"source": data.source, "options": what, "holdout": data.holdout}
        if where:
            job["where"] = where
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
            "options": self.options(architecture),
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
            self.objectives[method],
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
                    "history": fill(SUPERNET_HISTORY, supernet=name),
                    "spec": _spec(self.params.supernets[name]),
                }
                for name in self.supernets(architecture)
            ] + [self._subnet_row(architecture, name) for name in self.methods(architecture)]
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
            # of all parts, which proposed ones may not have
            "names": {
                part: list(getattr(self.params, part))
                for part in ("supernets", "searches", "methods")
            },
            "latency_batch": self.params.evaluation.latency_batch,
            "params": fingerprint(self._deciding()),
        }

    def _deciding(self) -> Job:
        """The params file without what changes no result: what jobs may ask a cluster for, which
        plugins are looked at, where images lie and how their changes are noticed."""
        told = self.params.model_dump(exclude={"resources", "plugins"})
        for data in told["datasets"].values():
            del data["compare"]
            options = registry.datasets.check(data["source"], data["options"])
            data["options"], _ = changes.parted(data["source"], options)
        return told

    def _subnet_row(self, architecture: str, name: str) -> Job:
        method, arch = self.params.methods[name], self.params.architectures[architecture]
        search = self.params.searches[method.search]
        return {
            "method": name,
            "supernet": search.supernet,
            "history": fill(HISTORY, method=name),
            "search": method.search,
            "criterion": search.criterion,
            "blind": registry.criteria.get(search.criterion).blind,
            "budget": search.budget.model_dump(exclude_none=True),
            "rounds": search.rounds,
            "init": method.init,
            "init_options": method.init_options,
            "training": recipe(self.params, arch, method).model_dump(),
            "anew": registry.inits.get(method.init).source is None,
            "epoch_rule": method.epoch_rule,
            "max_epoch_factor": method.max_epoch_factor,
            "objective": self.objectives[name],
            "spec": _spec(method),
            # a criterion that looks at no supernet, for its control
            "no_search": "uniform"
            if registry.architectures.takes(arch.family, "width")
            else "tapered",
        }

    def reads_files(self, dataset: str) -> bool:
        """Whether the source reads image files one by one, which several processes can do."""
        return registry.datasets.get(self.params.datasets[dataset].source).writes

    def search_needs_rewind(self, search: str) -> bool:
        """Whether it returns to the supernet's early weights, as lottery rounds do."""
        return self.params.searches[search].rounds > 1

    def search_needs_data(self, search: str) -> bool:
        """Whether it looks at training images."""
        criterion = registry.criteria.get(self.params.searches[search].criterion)
        return criterion.data or self.search_needs_rewind(search)

    def search_measures(self, search: str) -> bool:
        """Whether it measures latencies, which nothing else may disturb."""
        return self.params.searches[search].budget.latency is not None

    def search_uses_torch(self, search: str) -> bool:
        """Whether its job computes on the device; others read weights only."""
        return self.search_measures(search) or self.search_needs_data(search)

    def needs_teacher(self, method: str) -> bool:
        """Whether one of the method's losses reads a teacher's outputs."""
        return any(registry.losses.get(name).teacher for name in self.objectives[method])

    # Jobs, whatever the phase.

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
        """What the phase is told, in one order of keys: files say what made them, to the byte."""
        names = {
            "prepare": ("dataset",),
            "draw": ("architecture",),
            "initialize": ("architecture", "seed", "name"),
            "deploy": ("architecture", "name"),
            "evaluate": ("dataset", "architecture", "seed"),
            "report": (),
        }.get(phase, ("dataset", "architecture", "seed", "name"))
        told = getattr(self, phase)(*(getattr(experiment, name) for name in names))
        return told if phase == "report" else ordered(told)  # the report's rows have an order

    def targets(self) -> list[str]:
        """The kinds of files for other programs that are made."""
        return sorted({target for export in self.params.exports.values() for target in export.to})


def _spec(part: Section) -> Job:
    """A part as it stands in the params file, to propose others like it."""
    return part.model_dump(mode="json", exclude_defaults=True)
