"""All that the project knows of Snakemake beyond its documentation, each with the reason.

A new release of Snakemake may change these; tests/core/test_snakemake_internals.py says which, and
this is the file to adapt. Tried with Snakemake 9.17, 9.18, 9.20 and 9.27. Before 9.17 default
resources have another form, and there is no `persistence_backend`.

Snakemake is not imported: the rules hand over their `workflow`, and tools/ read records without it.
"""

import json
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

from st.core.files import write_text

# Its records of finished jobs, which travel with the results (st/core/records.py).
RECORDS = Path(".snakemake/metadata")
# What `snakemake --dry-run` prints when all is made; its exit status is 0 in any case.
NOTHING_TO_DO = "Nothing to be done"


def configfiles(workflow: Any) -> list[str]:
    """The files of --configfile. A params file chosen so must not be merged with params.yaml, as
    Snakemake would do."""
    return [str(path) for path in workflow.overwrite_configfiles]


def config_option(workflow: Any) -> dict[str, Any]:
    """What --config gives: mistakes may be its, and numbers in its lists come as text."""
    return dict(workflow.config_settings.config or {})


def is_default_config(workflow: Any) -> bool:
    """Whether neither --configfile nor --config is given. DVC's stages describe only that."""
    return not workflow.overwrite_configfiles and not workflow.config_settings.config


def default_resources(workflow: Any) -> dict[str, Any]:
    """The profile's or command line's default-resources, by which a cluster is asked for a GPU.
    Rules can't say 'the default' where some of their jobs want it and others do not."""
    found = workflow.resource_settings.default_resources or {}
    return {name: getattr(value, "raw", value) for name, value in found.items()}


def limit_jobs_on_gpus(workflow: Any, gpus: int) -> int | None:
    """How many jobs may use this machine's GPUs at once: `gpu` in --resources, or else one a GPU,
    which is stated to Snakemake here, because a profile can't count GPUs. None if a cluster runs
    the jobs."""
    if workflow.nodes is not None:
        return None
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", gpus)
    return workflow.global_resources["gpu"].value


def uses_cache(workflow: Any) -> bool:
    """Whether --cache is given. Only then are the contents of all inputs worth reading."""
    return workflow.enable_cache


def persistence_backend(workflow: Any) -> str:
    """Where records are kept: 'file' or 'db'. Only files can travel with the results."""
    found = workflow.workflow_settings.persistence_backend
    return getattr(found, "name", found).lower()  # 9.17 has what the command line says


def is_started_by_a_person(workflow: Any) -> bool:
    """Whether this is the run itself, and not one of its jobs on a cluster, where Snakemake reads
    the workflow again."""
    return workflow.is_main_process


def is_made(workflow: Any, rule: str) -> bool:
    """After a run: whether the job of this rule was part of it and is made. A run for other targets
    succeeds without it."""
    dag = workflow.dag
    return any(
        job.rule.name == rule and (dag.finished(job) or not dag.needrun(job)) for job in dag.jobs
    )


# A record's name is that of the output in base64. If it is too long for a file name it is cut in
# pieces, and all but the last are folders whose names begin with '@'.


def records(folder: Path = RECORDS) -> dict[str, Path]:
    """The files of all records, by their names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "".join(part.removeprefix("@") for part in path.relative_to(folder).parts): path
        for path in sorted(files)
    }


def record_path(name: str, folder: Path = RECORDS) -> Path:
    """The file of a record in a folder that exists. Raises ValueError if the name can't be a
    record's, such as one that leads out of the folder."""
    _check(name)
    length = os.pathconf(folder, "PC_NAME_MAX") - 1
    *outer, last = [name[start : start + length] for start in range(0, len(name), length)]
    return folder.joinpath(*(f"@{part}" for part in outer), last)


def is_noted(path: str, param: str) -> bool:
    """Whether an output's record says that it was made with this one param."""
    try:
        told = json.loads(_record_of(path).read_text(encoding="utf-8"))
        return told["params"] == [repr(param)]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def note(path: str, param: str) -> None:
    """Record of an output with which param it was made, and nothing else: what a record does not
    say Snakemake decides by the dates of files."""
    told = {"params": [repr(param)], "incomplete": False, "record_format_version": 6}
    RECORDS.mkdir(parents=True, exist_ok=True)
    write_text(_record_of(path), json.dumps(told))


def _record_of(path: str) -> Path:
    return record_path(urlsafe_b64encode(path.encode()).decode())


def output(name: str) -> str:
    """The file that a record is about. Raises ValueError if the name is none of a record."""
    _check(name)
    return urlsafe_b64decode(name).decode()


def _check(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_=-]+", name):
        raise ValueError(f"'{name}' is the name of no record")
