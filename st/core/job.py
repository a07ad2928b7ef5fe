"""What a phase is told."""

import hashlib
import json
from typing import Any

# Plain JSON that says all that a phase's result depends on, apart from its input files and the
# code. st/config/grid.py makes jobs from params.yaml; the workflow passes them on as a rule's
# params, so that Snakemake sees what changed and nothing else.
Job = dict[str, Any]

# what an interrupted training goes on from, beside what it makes
STATE = "resume.safetensors"


def ordered(job: Job) -> Job:
    """The same with its keys in the order in which all jobs are run, and written into files."""
    return json.loads(json.dumps(job, sort_keys=True))


def deciding(job: Job) -> str:
    """What of a job decides whether it has to run again, as JSON: all but `where` files lie, so
    that moved ones are the same."""
    return json.dumps({key: value for key, value in job.items() if key != "where"})


def fingerprint(value: Any) -> str:
    """A short hash of JSON data, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
