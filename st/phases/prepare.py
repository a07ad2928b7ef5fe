"""Prepare a data set: decode it once for all jobs."""

import os
from importlib.metadata import version
from pathlib import Path

import numpy as np

from st.config import changes
from st.core import registry, sources
from st.core.job import Job, fingerprint
from st.core.progress import say, say_all
from st.data.dataset import Data, check_made, save_data
from st.data.shards import Writer
from st.data.split import evaluated

FEW = 10  # training images of a class; the log warns of fewer


def run(job: Job, data: Path, threads: int = 0) -> None:
    """Write the data set `job` names to `data`, and images that stay compressed into shards beside
    it. `threads`: processes that read images, by default one for each core.

    Raises StError if the source's files are not as they should be, or the job's normalisation does
    not fit them.
    """
    options = changes.whole(job)
    # before they are read: what changes meanwhile will be noticed
    source = changes.facts(job["source"], options)
    read = registry.datasets.get(job["source"])
    if not read.writes:
        found = read(**options)
        if source and not source["quick"]:  # downloaded only now
            source = changes.facts(job["source"], options)
        _write(job, found, data, source)
        return
    depends_on = {
        "source": job["source"], "options": job["options"], "holdout": job["holdout"],
        "contents": source and source["contents"],
        "code": sources.digest(read.__module__),
        "pillow": version("pillow"),
    }  # fmt: skip
    threads = threads or len(os.sched_getaffinity(0))
    with Writer(data.with_suffix(".shards"), fingerprint(depends_on), threads) as writer:
        _write(job, read(writer, **options), data, source)
        writer.finish()


def _write(job: Job, found: Data, data: Path, source: dict[str, str] | None) -> None:
    check_made(found, job["source"], bool(job["holdout"]))
    if job["holdout"]:
        found = found.holdout(job["holdout"])
    if job.get("normalisation"):
        found = found.normalised(**job["normalisation"])
    save_data(data, found, changes.stated(job), source and {"contents": source["contents"]})
    if source:
        changes.note(data, source, job)
    channels, height, width = found.input_shape
    tested = evaluated(job)
    say(
        f"{len(found.train_labels)} training images, {len(found.test_labels)} {tested}, "
        f"{channels} x {height} x {width}, {len(found.classes)} classes"
    )
    stored = found.train_images.shape[2:]
    if stored != (height, width):
        say(f"training images are stored at {stored[0]} x {stored[1]}, to be cropped in training")
    # of what is left of the training images, whatever took a part of them
    counts = np.bincount(found.train_labels, minlength=len(found.classes))
    few = [f"{n} ({count})" for n, count in zip(found.classes, counts, strict=True) if count < FEW]
    say_all(f"classes with fewer than {FEW} training images", few)
    say_all(f"{tested} that are training images too, to the pixel", found.repeated())
