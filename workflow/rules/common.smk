"""What all rules share: the checked params, the grid, and functions for params and inputs."""

import hashlib
import json
import math
import os
import platform
import re
import shlex
import sys
from importlib.metadata import version
from shutil import which

sys.path.insert(0, str(workflow.basedir))

from snakemake import caching
from snakemake.exceptions import WorkflowError

from st.config import check, grid
from st.config.grid import Grid
from st.config.sources import sources
from st.core import registry, slots
from st.core.errors import StError

PARAMS_FILES = workflow.overwrite_configfiles or ["params.yaml"]

try:
    # finds what Snakemake's reader lets pass: keys that are there twice
    for path in PARAMS_FILES:
        check.read(path)
    PARAMS = check.parse(config, PARAMS_FILES[-1])
except StError as error:
    raise WorkflowError(str(error)) from None
GRID = Grid(PARAMS)

# Jobs run `python -m st`: from the working directory, so that a clone uses its own package, and with
# the python that runs this workflow, whether its environment has been activated or not.
os.environ |= {"PATH": os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()])}

PLUGINS = " ".join(shlex.quote(f"--plugin={name}") for name in PARAMS.plugins)

GPUS = slots.gpus() if which("nvidia-smi") else []

# A GPU for jobs that compute on one. On a cluster the profile says how to ask for it (`gpu` or `gres`
# in default-resources), because the machine that submits jobs may have none; rules that say nothing
# else get it. Elsewhere Snakemake only counts GPUs, and without any, jobs must not wait for one.
ASKED = {
    name: getattr(value, "raw", value)
    for name, value in (workflow.resource_settings.default_resources or {}).items()
}
GPU = ASKED.get("gpu", 1 if GPUS and "gres" not in ASKED else 0)
GRES = ASKED.get("gres")

# On this machine jobs take GPUs by slots (st/core/slots.py): one a GPU, unless --resources gpu=N says how
# many jobs may use GPUs at once (0: none). Elsewhere it is the cluster that gives them.
if GPUS and workflow.nodes is None:
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", len(GPUS))
    SLOTS = math.ceil(workflow.global_resources["gpu"].value / len(GPUS))
    os.environ |= {slots.SLOTS: str(SLOTS), slots.VISIBLE: ",".join(GPUS if SLOTS else [])}


# The between-workflow cache. Absolute, because results are for a moment links into it.
CACHE = workflow.enable_cache and caching.LOCATION_ENVVAR in os.environ
if CACHE and "://" not in os.environ[caching.LOCATION_ENVVAR]:
    os.environ |= {caching.LOCATION_ENVVAR: os.path.abspath(os.environ[caching.LOCATION_ENVVAR])}


def final_output():
    """The one list of targets."""
    return ["results/table.csv"]


def one_of(names):
    """A wildcard that matches these names only."""
    return "|".join(re.escape(str(name)) for name in names) or "(?!)"


def job(phase, *names):
    """The param `job`: what the phase is told, as JSON, for the values of the wildcards `names`;
    a name that begins with '=' is a value itself."""

    def value(wildcards, name):
        if name.startswith("="):
            return name[1:]
        return int(wildcards.seed) if name == "seed" else wildcards[name]

    def from_wildcards(wildcards):
        arguments = [value(wildcards, name) for name in names]
        # The report's rows have an order; elsewhere the order of keys must not matter.
        return json.dumps(getattr(GRID, phase)(*arguments), sort_keys=phase != "report")

    return from_wildcards


def code(phase, *modules):
    """The source files that a phase and these registered modules consist of."""
    return [os.path.relpath(path) for path in sources(f"st.phases.{phase}", *modules)]


def contents(wildcards, input):
    """The param `contents`: what the job's inputs and libraries are, for the between-workflow cache.

    Snakemake's key for a job knows the code and params of all that the job depends on, but not the
    images behind a data set's path, nor torch; and what was trained twice may differ (on GPUs).
    Without the cache it is empty; params that derive from inputs never make Snakemake run a job again.
    """
    if not CACHE:
        return {}
    found = {name: version(name) for name in ("numpy", "torch")}
    if (
        "search" in wildcards.keys()
        and PARAMS.searches[wildcards.search].budget.latency is not None
    ):
        found["machine"] = platform.node()
    for name, path in input.items():
        if name != "code" and path:
            with open(path, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def family(architecture):
    """The module that defines an architecture's family."""
    return registry.architectures.module(PARAMS.architectures[architecture].family)


def method(wildcards):
    return PARAMS.methods[wildcards.method]


def supernet_of(wildcards):
    """The name of the supernet that a method, or a search, is about."""
    search = wildcards.get("search") or method(wildcards).search
    return PARAMS.searches[search].supernet


def prepare_code(wildcards):
    source = PARAMS.datasets[wildcards.dataset].source
    return code("prepare", registry.datasets.module(source))


def pretrain_code(wildcards):
    modules = ["st.networks.inits.random", "st.training.losses.ce"]
    return code("pretrain", family(wildcards.architecture), *modules)


def search_code(wildcards):
    search = PARAMS.searches[wildcards.search]
    modules = [family(wildcards.architecture), registry.criteria.module(search.criterion)]
    # what the phase imports only for such searches
    modules += ["st.pruning.latency"] if search.budget.latency is not None else []
    modules += ["st.pruning.lottery", "st.training.losses.ce"] if search.rounds > 1 else []
    return code("search", *modules)


def initialize_code(wildcards):
    init = registry.inits.module(method(wildcards).init)
    return code("initialize", family(wildcards.architecture), init)


def train_code(wildcards):
    losses = [registry.losses.module(name) for name in method(wildcards).objective]
    return code("train", family(wildcards.architecture), *losses)


def search_supernet(wildcards):
    """The supernet that a search reads."""
    return grid.SUPERNET.format(supernet=supernet_of(wildcards), **wildcards)


def search_data(wildcards):
    """The prepared data, if the search looks at images."""
    return grid.DATA.format(**wildcards) if GRID.search_needs_data(wildcards.search) else []


def search_rewind(wildcards):
    """The supernet's early weights, if the search has lottery rounds."""
    if not GRID.search_needs_rewind(wildcards.search):
        return []
    return grid.REWIND.format(supernet=supernet_of(wildcards), **wildcards)


def memory(phase):
    """The resource `mem_mb`: twice as much when a job is tried again, in case it had too little. Not
    more: trainings that are longer than a cluster's limit are tried many times."""
    megabytes = getattr(PARAMS.resources.mem_mb, phase)
    return lambda wildcards, attempt: megabytes * min(attempt, 2)


def runtime(phase):
    """The resource `runtime`: what begins anew when tried again gets more time then. Trainings go on
    where they were, and keep to the time that they have."""
    minutes = getattr(PARAMS.resources.runtime, phase)
    return lambda wildcards, attempt: minutes * attempt


def search_runtime(wildcards, attempt):
    """Searches that look at images may train, and each lottery round but the last is a training."""
    trainings = PARAMS.searches[wildcards.search].rounds - 1
    trainings = trainings or GRID.search_needs_data(wildcards.search)
    return runtime("search")(wildcards, attempt) + PARAMS.resources.runtime.pretrain * trainings


def search_gpu(wildcards):
    """Searches that only read weights leave the GPU to others."""
    return GPU if GRID.search_uses_torch(wildcards.search) else 0


def search_gres(wildcards):
    return GRES if GRID.search_uses_torch(wildcards.search) else None


def structure(wildcards):
    """The structure of a method's subnet."""
    return grid.STRUCTURE.format(search=method(wildcards).search, **wildcards)


def init_source(wildcards):
    """What a method's init starts from, if anything."""
    pattern = GRID.init_source(wildcards.method)
    return pattern.format(supernet=supernet_of(wildcards), **wildcards) if pattern else []


def teacher(wildcards):
    """The supernet that a method's objective learns from, if it does."""
    if not GRID.needs_teacher(wildcards.method):
        return []
    return grid.SUPERNET.format(supernet=supernet_of(wildcards), **wildcards)


def option(name, value):
    """A command-line option, left out without a value."""
    return f"--{name} {shlex.quote(str(value))}" if value else ""


def over_grid(pattern_lists):
    """Files of all data sets, architectures and seeds; `pattern_lists`: architecture -> patterns."""
    return [
        pattern.format(dataset=dataset, architecture=architecture, seed=seed)
        for dataset in PARAMS.datasets
        for architecture in PARAMS.architectures
        for seed in PARAMS.seeds
        for pattern in pattern_lists(architecture)
    ]
