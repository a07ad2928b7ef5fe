"""The source code of a model: its text, and the tensors that go with it."""

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from st.core.errors import StError
from st.deploy.source.imported import imported
from st.deploy.source.modules import renamed
from st.deploy.source.steps import Held, Part, Source, Step, Value, container, drawn
from st.deploy.source.text import WIDTH, text
from st.networks import network

if TYPE_CHECKING:
    from st.deploy.model import Model


def written(model: "Model", name: str, raw: bool) -> tuple[str, dict[str, np.ndarray]]:
    """The file `name`.py, and the tensors of `name`.safetensors by their names in it.

    `raw`: the network takes pixels of 0 to 255. Raises StError if a name can't be told apart.
    """
    structure = model.structure
    tensors = network.tensors(model.network)
    if structure.program:
        source, positions = imported(structure)
        tensors |= positions
    else:
        source = drawn(structure)
        taken = {step.path for step in source.steps if step.layer and step.layer.callee == "Select"}
        tensors |= {f"{path}.index": structure.kept(path) for path in taken}
    if raw:
        tensors |= _normalised(source, model)
    layers = {step.path for step in source.steps if step.layer}
    # training alone may need others
    used = [key for key in tensors if container(key) in layers or key in source.tensors]
    rename = renamed(source)
    named = {rename(key): np.ascontiguousarray(tensors[key]) for key in used}
    if len(named) != len(used):
        raise StError(f"{model.path}: has layers whose names differ in punctuation only")
    code, _ = text(source, structure.label, _about(model, name, raw, source.notes))
    return code, named


def _normalised(source: Source, model: "Model") -> dict[str, np.ndarray]:
    """Put the normalisation before everything else; returns its constants."""
    first = max(n for step in source.steps for n in step.makes if n is not None) + 1
    for step in source.steps:
        step.parts = [Value(first) if part == Value(0) else part for part in step.parts]
    names = {"mean": Held("normalise.mean"), "scale": Held("normalise.scale")}
    parts: list[Part] = ["(", Value(0), ".float() - ", names["mean"], ") * ", names["scale"]]
    source.steps.insert(0, Step([first], "normalise", parts, loose=True))
    found = {}
    for key, held in names.items():
        value = getattr(model.normalise, key).cpu().numpy()
        found[held.name] = value
        source.tensors[held.name] = (value.shape, "float32", False)
    return found


def _about(model: "Model", name: str, raw: bool, notes: list[str]) -> str:
    """The file's docstring."""
    params, macs = model.structure.cost()
    channels, height, width = model.input_shape
    normal = model.normalise.given
    taken = "uint8, 0 to 255" if raw else "float32, (value / 255 - MEAN) / STD"
    shown = ", ".join(model.classes[:20]) + (", ..." if len(model.classes) > 20 else "")
    paragraphs = [
        f"{model.structure.label}: {params:,} parameters, {macs:,} multiply-accumulates an image. "
        "Made by Search-and-Train; needs torch and safetensors only:",
        f"    from {name} import load\n\n"
        f'    network = load("{name}.safetensors")\n'
        f"    logits = network(images)  # (n, {channels}, {height}, {width}), {taken}",
        f"By channel, MEAN is {normal['mean']} and STD is {normal['std']}. "
        f"Classes, in the order of the logits: {shown}.",
        *notes,
    ]
    lines = [
        text if text.startswith(" ") else fill(text, WIDTH - 3, break_long_words=False)
        for text in paragraphs
    ]
    return "\n\n".join(lines).replace('"""', "'''").replace("\\", "\\\\") + "\n"
