"""Prepare a data set: decode it once for all jobs."""

from pathlib import Path

from st.core import registry
from st.core.job import Job
from st.core.progress import say
from st.data.dataset import save_data


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
