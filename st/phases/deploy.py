"""Deploy: write a trained network as a file for other programs."""

from pathlib import Path

from st.core.job import Job
from st.core.progress import say
from st.deploy.export import told, write
from st.deploy.model import load


def run(job: Job, data: Path, model: Path, exported: Path, about: Path, card: Path) -> None:
    """Write the network of `model` to `exported`, the report of the check on the test images to
    `about`, and the model card."""
    report = write(load(model), exported, job["to"], job["raw"], data, about, card)
    say(told(report))
