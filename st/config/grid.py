"""From params to jobs: what every phase of every experiment needs to know, and where its files are.

Nothing here imports torch: the workflow uses it to draw its graph of jobs.
"""

from typing import Any

from st.config.params import Architecture, Params, objective, recipe
from st.core import registry
from st.core.job import Job, fingerprint

# A folder per phase, because phases are what DVC versions; below it one per experiment.
_RUN = "{dataset}/{architecture}/seed{seed}"
DATA = "results/prepare/{dataset}/data.safetensors"
SUPERNET = f"results/pretrain/{_RUN}/{{supernet}}/model.safetensors"
REWIND = f"results/pretrain/{_RUN}/{{supernet}}/rewind.safetensors"
SUPERNET_HISTORY = f"results/pretrain/{_RUN}/{{supernet}}/history.csv"
STRUCTURE = f"results/search/{_RUN}/{{search}}/structure.json"
INIT = f"results/initialize/{_RUN}/{{method}}/init.safetensors"
MODEL = f"results/train/{_RUN}/{{method}}/model.safetensors"
HISTORY = f"results/train/{_RUN}/{{method}}/history.csv"
METRICS = f"results/evaluate/{_RUN}/{{method}}/metrics.json"  # supernets by their row's name
PREDICTIONS = f"results/evaluate/{_RUN}/{{method}}/predictions.safetensors"


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

    # Jobs, phase by phase.

    def prepare(self, dataset: str) -> Job:
        data = self.params.datasets[dataset]
        return {
            "source": data.source,
            "options": registry.datasets.check(data.source, data.options),
            "holdout": data.holdout,
        }

    def pretrain(self, dataset: str, architecture: str, seed: int, supernet: str) -> Job:
        arch, part = self.params.architectures[architecture], self.params.supernets[supernet]
        scale = part.bn_scale
        return {
            "seed": seed,
            "family": arch.family,
            "options": registry.architectures.check(arch.family, arch.options),
            "init_options": self._fresh(arch, {} if scale is None else {"bn_scale": scale}),
            "rewind_epoch": part.rewind_epoch,
            "sparsity": arch.sparsity if part.sparse else 0.0,
            "augment": self.params.datasets[dataset].augment.model_dump(),
            "training": recipe(self.params, arch, part).model_dump(),
        }

    def search(self, dataset: str, architecture: str, seed: int, search: str) -> Job:
        spec, measured = self.params.searches[search], self.params.evaluation
        # said only where it matters, so that changing it reruns only that
        latency = {"batch": measured.latency_batch, "rounds": measured.latency_rounds}
        lottery = None
        if spec.rounds > 1:
            supernet = self.pretrain(dataset, architecture, seed, spec.supernet)
            used = ("seed", "sparsity", "augment", "training")
            lottery = {"rounds": spec.rounds, **{key: supernet[key] for key in used}}
        return {
            "seed": seed,
            "criterion": spec.criterion,
            "options": registry.criteria.check(spec.criterion, spec.options),
            "ranking": spec.ranking,
            "budget": spec.budget.model_dump(),
            "min_channels": spec.min_channels,
            "round_to": spec.round_to,
            "latency": latency if spec.budget.latency is not None else None,
            "lottery": lottery,
        }

    def initialize(self, architecture: str, seed: int, method: str) -> Job:
        arch, spec = self.params.architectures[architecture], self.params.methods[method]
        if spec.init == "random":
            options = self._fresh(arch, spec.init_options)
        else:
            options = registry.inits.check(spec.init, spec.init_options)
        return {"seed": seed, "init": spec.init, "options": options}

    def _fresh(self, architecture: Architecture, changes: dict[str, Any]) -> dict[str, Any]:
        """Options of fresh weights: the architecture's, changed by a supernet or method."""
        return registry.inits.check("random", {**architecture.init_options, **changes})

    def train(self, dataset: str, architecture: str, seed: int, method: str) -> Job:
        arch, spec = self.params.architectures[architecture], self.params.methods[method]
        return {
            "seed": seed,
            "objective": objective(spec),
            "epoch_rule": spec.epoch_rule,
            "max_epoch_factor": spec.max_epoch_factor,
            "augment": self.params.datasets[dataset].augment.model_dump(),
            "training": recipe(self.params, arch, spec).model_dump(),
        }

    def evaluate(self, dataset: str, architecture: str, seed: int) -> Job:
        """One job measures all networks of an experiment's architecture and seed, so that their
        latencies are measured side by side."""
        supernets = self.supernets(architecture)
        rows = [{"method": self.row(name), "teacher": None} for name in supernets]
        rows += [
            {"method": m, "teacher": self.row(self.teacher(m)) if self.needs_teacher(m) else None}
            for m in self.methods(architecture)
        ]
        return {
            "dataset": dataset,
            "architecture": architecture,
            "seed": seed,
            "rows": rows,
            **self.params.evaluation.model_dump(),
        }

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
            "datasets": {name: d.holdout for name, d in self.params.datasets.items()},
            "seeds": self.params.seeds,
            "rows": rows,
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
            "objective": objective(method),
            # as it stands in the params file, to propose other methods like it
            "spec": method.model_dump(mode="json", exclude_defaults=True),
        }

    # What a job reads.

    def evaluated(self, architecture: str) -> tuple[list[str], list[str], list[str]]:
        """File patterns of the models that an evaluate job reads, and of the metrics and
        predictions that it writes."""
        supernets, methods = self.supernets(architecture), self.methods(architecture)
        models = [_fill(SUPERNET, supernet=name) for name in supernets]
        models += [_fill(MODEL, method=name) for name in methods]
        rows = [self.row(name) for name in supernets] + methods
        metrics, predictions = (
            [_fill(pattern, method=row) for row in rows] for pattern in (METRICS, PREDICTIONS)
        )
        return models, metrics, predictions

    def search_needs_rewind(self, search: str) -> bool:
        return self.params.searches[search].rounds > 1

    def search_needs_data(self, search: str) -> bool:
        criterion = registry.criteria.get(self.params.searches[search].criterion)
        return getattr(criterion, "data", False) or self.search_needs_rewind(search)

    def search_uses_torch(self, search: str) -> bool:
        measured = self.params.searches[search].budget.latency is not None
        return measured or self.search_needs_data(search)

    def needs_teacher(self, method: str) -> bool:
        losses = self.params.methods[method].objective
        return any(registry.losses.get(name).teacher for name in losses)

    def init_source(self, method: str) -> str | None:
        """The file pattern of what the method's init starts from."""
        source = registry.inits.get(self.params.methods[method].init).source
        return {None: None, "model": SUPERNET, "rewind": REWIND}[source]

    # File patterns of all that the phases make for an architecture.

    def trained_supernets(self, architecture: str) -> list[str]:
        patterns = (SUPERNET, REWIND, SUPERNET_HISTORY)
        return [_fill(p, supernet=name) for name in self.supernets(architecture) for p in patterns]

    def initialized(self, architecture: str) -> list[str]:
        return [_fill(INIT, method=name) for name in self.methods(architecture)]

    def trained(self, architecture: str) -> list[str]:
        return [_fill(p, method=m) for m in self.methods(architecture) for p in (MODEL, HISTORY)]

    def measured(self, architecture: str) -> list[str]:
        _, metrics, predictions = self.evaluated(architecture)
        return metrics + predictions

    def histories(self, architecture: str) -> list[str]:
        return [
            *(_fill(SUPERNET_HISTORY, supernet=name) for name in self.supernets(architecture)),
            *(_fill(HISTORY, method=name) for name in self.methods(architecture)),
        ]

    def structures(self, architecture: str) -> list[str]:
        used = dict.fromkeys(self.params.methods[m].search for m in self.methods(architecture))
        return [_fill(STRUCTURE, search=name) for name in used]


def _fill(pattern: str, **names: str) -> str:
    """Fill in some wildcards and leave the others."""
    for key, value in names.items():
        pattern = pattern.replace(f"{{{key}}}", value)
    return pattern
