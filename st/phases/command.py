"""A phase as a command: which files and settings it gets, from a person or from the workflow.

Imports are lazy, so that `st --help` is instant.
"""

import argparse
import importlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from st.config import layout
from st.core.errors import StError, explained, one_line
from st.core.files import check_apart
from st.training.launch import Member, launch

# phase -> (help, whether it computes with torch)
PHASES = {
    "prepare": ("decode a data set once for all jobs", False),
    "draw": ("import a network of one's own", False),
    "pretrain": ("train a supernet", True),
    "search": ("find a subnet's structure in a supernet", True),
    "initialize": ("give a structure its first weights", False),
    "train": ("train a subnet on labels and the supernet's knowledge", True),
    "deploy": ("write a trained network as a file for other programs", False),
    "evaluate": ("measure accuracy, size and latency", True),
    "report": ("aggregate all metrics to tables and figures", False),
}
PARALLEL = ("pretrain", "train")  # phases that several processes can compute
READS = ("prepare",)  # phases that read images by as many processes as they have threads


def load_phase(name: str) -> ModuleType:
    """The phase's module."""
    return importlib.import_module(f"st.phases.{name}")


def run_phase(options: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Run the phase that the command line asks for; the exit status. `options`: as st/cli.py's
    parser gives them, with all `arguments`; `tell`: says what went wrong with the processes that
    share a training. Raises StError if an argument is wrong."""
    from st.core import progress, registry

    _, torch = PHASES[options.command]
    inputs, outputs = layout.INPUTS[options.command], layout.OUTPUTS[options.command]
    if options.job is None:
        if options.plugin:
            raise StError("--plugin: is for --job; the params file names its plugins")
        from st.config.check import load
        from st.config.grid import Grid
        from st.config.named import named_job

        job, usual, label = named_job(
            Grid(load(options.params)), options.command, getattr(options, "experiment", None)
        )
    else:
        registry.load_plugins(options.plugin)
        job, usual, label = _job(options.job), {}, _label(options)
    files: dict[str, Any] = {}
    for name in (*inputs, *outputs):
        given = getattr(options, name)
        if given is not None and usual and usual.get(name) is None:
            raise StError(f"--{name}: this job has no such file; leave it out")
        files[name] = given if given is not None else usual.get(name)
        if files[name] is None and name not in layout.OPTIONAL.get(options.command, ()):
            raise StError(f"--{name} is missing")
    read = [] if options.job is not None else [Path(options.params)]
    _check_apart(files, inputs, outputs, options.log, read)
    member, processes = None, 1
    if options.command in PARALLEL:
        member, processes = Member.here(), options.processes
    if member:
        member.begin()
        files["member"], processes = member, member.neighbours
    if torch:
        threads = options.threads and max(1, options.threads // processes)
        if threads:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
        files |= {"device": options.device, "threads": threads}
    elif options.command in READS:
        files["threads"] = options.threads
    if not member or member.rank == 0:
        begun = member is not None and member.folder is not None  # by the parent
        progress.start(f"{options.command} {label}".strip(), options.log, new=not begun)
    if processes > 1 and options.device not in ("auto", "cpu", "cuda"):
        raise StError(
            f"--device {options.device}: with --processes {processes} each takes a GPU of its own; "
            "use auto, cpu or cuda"
        )
    if processes > 1 and not member:
        return launch(options.arguments, processes, options.device, tell=tell)
    try:
        load_phase(options.command).run(job, **files)
    except StError:
        raise
    except Exception as error:
        told = explained(error, _batch(job))
        if told is None:
            raise
        raise StError(told) from error
    return 0


def _check_apart(
    files: dict[str, Any],
    inputs: Iterable[str],
    outputs: Iterable[str],
    log: Path | None,
    others: list[Path],
) -> None:
    """Raise StError if what is written would replace what is read, `others` too, or something else
    that is."""

    def flat(names: Iterable[str]) -> list[Path]:
        given = (files[name] for name in names if files[name])
        return [path for value in given for path in (value if isinstance(value, list) else [value])]

    read, written = [*flat(inputs), *others], [*flat(outputs), *([log] if log else [])]
    for number, path in enumerate(written):
        check_apart(path, read)
        if os.path.realpath(path) in map(os.path.realpath, written[:number]):
            raise StError(f"{path}: is named twice as what is to be written")


def _batch(job: dict[str, Any]) -> str:
    """The key that says how many images a job computes at once, and its value."""
    for section, key in (("training", "batch_size"), ("options", "batch_size")):
        size = (job.get(section) or {}).get(key)
        if size:
            return f"{section}.{key}, which is {size}"
    return "evaluation.latency_batch or training.batch_size"


class _Job(dict):
    """A job from the command line, which may lack anything."""

    def __missing__(self, key: str) -> Any:
        raise StError(
            f"--job: lacks '{key}'; the workflow passes complete jobs; without it name the "
            "experiment instead"
        )


def _job(text: str) -> dict[str, Any]:
    try:
        job = json.loads(text, object_hook=_Job)
    except (ValueError, RecursionError) as error:
        raise StError(f"--job: is not JSON ({one_line(error)})") from error
    if not isinstance(job, dict):
        raise StError("--job: must be a JSON object")
    return job


def _label(options: argparse.Namespace) -> str:
    """What progress lines call the job: its folder under results/."""
    path = getattr(options, next(iter(layout.OUTPUTS[options.command])))
    path = path[0] if isinstance(path, list) else path
    if path is None:
        return ""
    parts = path.parts[2:-1] if options.command != "evaluate" else path.parts[2:-2]
    return "/".join(parts)
