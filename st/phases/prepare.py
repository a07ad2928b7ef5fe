"""Prepare a data set: decode it once for all jobs."""

from pathlib import Path

from st import registry
from st.data import save_data
from st.job import Job
from st.progress import say


def run(job: Job, data: Path) -> None:
    """Write the data set `job` names to `data`."""
    found = registry.datasets.get(job["source"])(**job["options"])
    if job["holdout"]:
        found = found.holdout(job["holdout"])
    save_data(data, found, job)
    channels, height, width = found.input_shape
    say(
        f"{len(found.train_labels)} training and {len(found.test_labels)} test images, "
        f"{channels} x {height} x {width}, {len(found.classes)} classes"
    )
