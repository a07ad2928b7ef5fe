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

sys.path.insert(0, str(workflow.basedir))

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import update_config

from st.config import check, layout, wiring
from st.config.grid import Grid
from st.config.layout import Experiment
from st.core.sources import sources
from st.core import mps, slots
from st.core import snakemake_internals as internals
from st.core.errors import StError
from st.core.job import deciding, fingerprint

# Jobs import st from the working directory and find each other's results there.
if not os.path.samefile(os.getcwd(), workflow.basedir):
    raise WorkflowError(
        f"the workflow runs in its own folder: `cd {shlex.quote(str(workflow.basedir))}` instead of "
        "--directory or --snakefile; for other results clone it once more, or link results/"
    )

if {"{", "}"} & set(str(workflow.basedir)):
    raise WorkflowError(
        f"{workflow.basedir}: Snakemake takes braces in a path for wildcards; move the clone elsewhere"
    )

PARAMS_FILES = internals.configfiles(workflow) or ["params.yaml"]

try:
    # finds what Snakemake's reader lets pass, keys that are there twice, and says what that does not
    for path in PARAMS_FILES:
        check.read(path)
except StError as error:
    raise WorkflowError(str(error)) from None

# A params file chosen with --configfile describes its grid whole; Snakemake would merge it with a
# default one key by key.
if not internals.configfiles(workflow):

    configfile: "params.yaml"


try:
    given = check.typed(internals.config_option(workflow))
    named = [os.path.relpath(path) for path in PARAMS_FILES] + ["--config"] * bool(given)
    update_config(config, given)
    PARAMS = check.parse(config, " + ".join(named), images=True)
except StError as error:
    raise WorkflowError(str(error)) from None
GRID = Grid(PARAMS)

# A cluster's jobs read the params file again. One that was edited meanwhile is another run's.
MAIN, READ, NOW = (
    internals.is_started_by_a_person(workflow),
    "ST_PARAMS_OF_THE_RUN",
    fingerprint(config),
)
if MAIN:
    os.environ[READ] = NOW
elif os.environ.get(READ, NOW) != NOW:
    raise WorkflowError(
        f"{' + '.join(named)}: has changed since the run was started that this job belongs to; run "
        "again, and what it changes is made of the new one"
    )

# Jobs run `python -m st`: from the working directory, so that a clone uses its own package, and with
# the python that runs this workflow, whether its environment has been activated or not.
os.environ |= {"PATH": os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()])}

# The user's own settings must not decide how figures look, or whether they can be drawn.
for name in ("MPLBACKEND", "MATPLOTLIBRC", "PYTHONSTARTUP"):
    os.environ.pop(name, None)

PLUGINS = " ".join(shlex.quote(f"--plugin={name}") for name in PARAMS.plugins)

GPUS = slots.here()

# A GPU for jobs that compute on one. On a cluster the profile says how to ask for it (`gpu` or `gres`
# in default-resources), because the machine that submits jobs may have none; rules that say nothing
# else get it. Elsewhere Snakemake only counts GPUs, and without any, jobs must not wait for one.
ASKED = internals.default_resources(workflow)
GPU = ASKED.get("gpu", 1 if GPUS and "gres" not in ASKED else 0)
GRES = ASKED.get("gres")

# On this machine jobs take GPUs by slots (st/core/slots.py): one a GPU, unless --resources gpu=N says how
# many jobs may use GPUs at once (0: none). Elsewhere it is the cluster that gives them.
AT_ONCE = internals.limit_jobs_on_gpus(workflow, len(GPUS)) if GPUS else None
if AT_ONCE is not None:
    SLOTS = min(math.ceil(AT_ONCE / len(GPUS)), slots.MOST)
    os.environ |= {slots.SLOTS: str(SLOTS), slots.VISIBLE: ",".join(GPUS if SLOTS else [])}


def share_gpus():
    """Let jobs that share a GPU compute at the same time, where that can be had."""
    if AT_ONCE is not None and SLOTS > 1:
        logger.info(mps.start())


# The between-workflow cache. Absolute, because results are for a moment links into it.
CACHE_VARIABLE = "SNAKEMAKE_OUTPUT_CACHE"
CACHE = internals.uses_cache(workflow) and CACHE_VARIABLE in os.environ
if CACHE and "://" not in os.environ[CACHE_VARIABLE]:
    os.environ |= {CACHE_VARIABLE: os.path.abspath(os.environ[CACHE_VARIABLE])}


def final_output():
    """The one list of targets: the table and all that is made with it."""
    return [*rules.report.output, *rules.notebook.output]


def one_of(names):
    """A wildcard that matches these names only."""
    return "|".join(re.escape(str(name)) for name in names) or "(?!)"


def experiment(wildcards, architecture=""):
    """What a job with these wildcards is about; a rule of one architecture has no wildcard for it."""
    names = [wildcards.get(key) for key in ("supernet", "search", "method", "exported")]
    return Experiment(
        wildcards.get("dataset", ""),
        wildcards.get("architecture", architecture),
        int(wildcards.seed) if "seed" in wildcards.keys() else "",
        next((name for name in names if name), ""),
    )


def job(phase, architecture=""):
    """The param `job`: what the phase is told, as JSON."""

    return lambda wildcards: deciding(GRID.job(phase, experiment(wildcards, architecture)))


def prepare_job(wildcards, input):
    """The param `job` of prepare, with where the files lie. As it derives from inputs it makes nothing
    run again: `images` does."""
    return json.dumps(GRID.job("prepare", experiment(wildcards)))


def inputs(phase):
    """The job's input files, to be unpacked: of those that it does not have, none."""

    def from_wildcards(wildcards):
        files = wiring.files(GRID, phase, experiment(wildcards)).inputs
        return {name: path or [] for name, path in files.items()}

    return from_wildcards


def code(phase, architecture=None):
    """The source files that a job consists of."""

    def from_wildcards(wildcards):
        modules = wiring.modules(GRID, phase, experiment(wildcards, architecture))
        return [os.path.relpath(path) for path in sources(f"st.phases.{phase}", *modules)]

    return from_wildcards


def contents(wildcards, input):
    """The param `contents`: what the job's inputs and libraries are, for the between-workflow cache.

    Snakemake's key for a job knows the code and params of all that the job depends on, but not the
    images behind a data set's path, nor torch; and what was trained twice may differ (on GPUs).
    Without the cache it is empty; params that derive from inputs never make Snakemake run a job again.
    """
    if not CACHE:
        return {}
    found = {name: version(name) for name in ("numpy", "torch")}
    if "search" in wildcards.keys() and GRID.search_measures(wildcards.search):
        found["machine"] = platform.node()
    for name, path in input.items():
        if name != "code" and path:
            with open(path, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def plugins(wildcards, input):
    """The param `plugins`. One more makes nothing run again, as it derives from inputs: the code of what
    a job names is an input of its own."""
    return PLUGINS


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


def readers(wildcards):
    """Threads of prepare, or the cores if they are fewer: so many processes read a folder of images."""
    return 8 if GRID.reads_files(wildcards.dataset) else 1


def gpu_percent(wildcards):
    """What a job needs of a GPU that jobs share (st/core/slots.py); 0: one slot."""
    return PARAMS.resources.gpu_percent.get(wildcards.architecture, 0)


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


def option(name, value):
    """A command-line option, left out without a value."""
    return f"--{name} {shlex.quote(str(value))}" if value else ""


def options(name, values):
    """A command-line option of several values, left out without any."""
    return " ".join([f"--{name}", *(shlex.quote(str(value)) for value in values)]) if values else ""
