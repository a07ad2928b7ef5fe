"""Which files a phase reads and writes, by the command line's options, and where they are.

st/config/wiring.py fills this in for a job. Nothing here needs more than Python's own library:
`st --help` and tools/ read it too.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# The inputs of each phase.
INPUTS = {
    "prepare": (),
    "draw": ("data", "weights"),
    "pretrain": ("data", "drawing", "weights"),
    "search": ("supernet", "data", "rewind"),
    "initialize": ("structure", "source"),
    "train": ("data", "init", "teacher"),
    "deploy": ("data", "model"),
    "evaluate": ("data", "models", "exports"),
    "report": (),
}
# Of these, the ones that not every job of the phase has.
OPTIONAL = {
    "draw": ("weights",),
    "pretrain": ("drawing", "weights"),
    "search": ("data", "rewind"),
    "initialize": ("source",),
    "train": ("teacher",),
    "evaluate": ("exports",),
}

# All outputs, with Snakemake's wildcards; {suffix} is none, the kind of an exported file says it.
# A folder per phase, because phases are what DVC versions; below it one per experiment.
_RUN = "{dataset}/{architecture}/seed{seed}"
DATA = "results/prepare/{dataset}/data.safetensors"
DRAWING = "results/prepare/{dataset}/{architecture}/drawing.safetensors"  # of what is imported
SUPERNET = f"results/pretrain/{_RUN}/{{supernet}}/model.safetensors"
REWIND = f"results/pretrain/{_RUN}/{{supernet}}/rewind.safetensors"
SUPERNET_HISTORY = f"results/pretrain/{_RUN}/{{supernet}}/history.csv"
STRUCTURE = f"results/search/{_RUN}/{{search}}/structure.json"
INIT = f"results/initialize/{_RUN}/{{method}}/init.safetensors"
MODEL = f"results/train/{_RUN}/{{method}}/model.safetensors"
HISTORY = f"results/train/{_RUN}/{{method}}/history.csv"
METRICS = f"results/evaluate/{_RUN}/{{method}}/metrics.json"  # supernets by their row's name
PREDICTIONS = f"results/evaluate/{_RUN}/{{method}}/predictions.safetensors"
# A network as a file for other programs lies beside its metrics, as a row of its own: st-int8.
_EXPORT = f"results/evaluate/{_RUN}/{{exported}}"
OUTPUTS = {
    "prepare": {"data": DATA},
    "draw": {"drawing": DRAWING},
    "pretrain": {"model": SUPERNET, "rewind": REWIND, "history": SUPERNET_HISTORY},
    "search": {"structure": STRUCTURE},
    "initialize": {"init": INIT},
    "train": {"model": MODEL, "history": HISTORY},
    "deploy": {
        "exported": f"{_EXPORT}/network{{suffix}}",
        "about": f"{_EXPORT}/network{{suffix}}.json",
        "card": f"{_EXPORT}/MODEL_CARD.md",
    },
    "evaluate": {"metrics": METRICS, "predictions": PREDICTIONS},  # one of each for every row
    "report": {"folder": "results"},
}
LISTS = ("models", "exports", "metrics", "predictions")  # options that take several files


@dataclass(frozen=True)
class Experiment:
    """What a job is about. `name`: of a supernet, search or method, as the phase has it. Phases
    that need less leave the rest out."""

    dataset: str = ""
    architecture: str = ""
    seed: int | str = ""
    name: str = ""


Paths = dict[str, str | list[str] | None]


class Files(NamedTuple):
    """A job's files by their options' names; None for an input that the job does not have."""

    inputs: Paths
    outputs: Paths


def place(
    phase: str, option: str, experiment: Experiment, name: str | None = None, suffix: str = ""
) -> str:
    """The path of an output. `name`: in place of the experiment's own; `suffix`: of a file for
    other programs."""
    name = name or experiment.name
    return OUTPUTS[phase][option].format(
        dataset=experiment.dataset,
        architecture=experiment.architecture,
        seed=experiment.seed,
        suffix=suffix,
        **dict.fromkeys(("supernet", "search", "method", "exported"), name),
    )


def owner(path: str) -> tuple[str, str] | None:
    """The phase and the option whose output a path is; None if it belongs to none."""
    for phase, outputs in OUTPUTS.items():
        for option, pattern in outputs.items():
            if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(pattern)), path):
                return phase, option
    return None


def data_of(model: Path) -> Path | None:
    """The prepared data set of the run in whose results a model lies, wherever these are; None if
    it does not lie as deep as in any."""
    names = MODEL.split("/")[1:]  # below results
    found = model.resolve().parts
    if len(found) <= len(names):
        return None
    dataset = found[-len(names) :][names.index("{dataset}")]
    below = fill(DATA, dataset=dataset).partition("/")[2]
    return Path(*found[: -len(names)], below)


def fill(pattern: str, **names: str) -> str:
    """Fill in some wildcards and leave the others."""
    for key, value in names.items():
        pattern = pattern.replace(f"{{{key}}}", value)
    return pattern
