"""What a phase is told."""

from typing import Any

# Plain JSON that says all that a phase's result depends on, apart from its input files and the
# code. st/grid.py makes jobs from params.yaml; the workflow passes them on as a rule's params, so
# that Snakemake sees what changed and nothing else.
Job = dict[str, Any]
