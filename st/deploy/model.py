"""`st.load`: a trained network with all that using it needs, as an ordinary torch module."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from st.core.device import apart
from st.core.errors import StError
from st.core.registry import load_plugins
from st.data.images import standardised
from st.deploy.pictures import as_tested, listed
from st.networks import network
from st.networks.checkpoint import Checkpoint, load_model, verify
from st.networks.structure import Structure

AT_ONCE = 64  # pictures that are decoded and computed together
EXPORTED = "a file for other programs; name the model that it was made of, a model.safetensors"
TORCHS = (
    "a file of torch's; `st convert` makes a safetensors file of it, which the architecture "
    "`import` takes as weights"
)
# what is not a model, by its suffix
OTHERS = {
    **dict.fromkeys((".onnx", ".pt2", ".py"), EXPORTED),
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt"), TORCHS),
}
USE = ("classes", "normalisation", "resize")  # facts of a model that say how it is used


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image. `label`: the likeliest class; `probability`: its softmax
    output; `probabilities`: those of all classes, in the order of `Model.classes`."""

    label: str
    probability: float
    probabilities: tuple[float, ...]


class Normalise(nn.Module):
    """(n, channels, height, width) of 0...255, of any type, to what networks see, as float32.

    `given`: mean and std of each channel for values from 0 to 1, as the model's file has them.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.given = {"mean": list(mean), "std": list(std)}
        values = {"mean": 255 * np.array(mean), "scale": 1 / (255 * np.array(std))}
        for name, value in values.items():
            column = torch.from_numpy(value).float()[:, None, None]
            self.register_buffer(name, column, persistent=False)

    def forward(self, batch: Tensor) -> Tensor:
        """Mean 0 and deviation 1 per channel, over the training images."""
        return standardised(batch, self.mean, self.scale)


class Model(nn.Module):
    """A trained network: normalised images of shape (n, channels, height, width) to logits of shape
    (n, classes). In evaluation mode, on the CPU and in float32, until it is told otherwise.

    `classes`: their names, in the order of the logits. `structure`: the architecture and the
    channels that are left of it. `provenance`: what the file says of how it was made: the
    training's job, epochs, environment, and a digest of the weights. `history`: of `st.train`, a
    row each epoch; empty for a file's. `network`: the network itself.
    `resize`: to what an image's shorter side is scaled before its centre is cropped; None: to the
    input's.
    """

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        facts = checkpoint.facts
        self.path = checkpoint.path
        self.structure: Structure = checkpoint.structure
        self.classes: list[str] = _classes(checkpoint)
        self.provenance: dict[str, Any] = {
            **{name: value for name, value in facts.items() if name not in USE},
            "weights": checkpoint.digest(),
        }
        self.history: list[dict[str, Any]] = []
        self.network = network.load(checkpoint)
        self._normalise, self.resize = _rule(checkpoint)
        self.eval()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.structure.input_shape

    @property
    def normalisation(self) -> dict[str, list[float]] | None:
        """What of values from 0 to 1 is subtracted, and what they are divided by: {"mean": [...],
        "std": [...]} of each channel; None where the file does not say it."""
        return self._normalise.given if self._normalise else None

    @property
    def normalise(self) -> Normalise:
        """What turns pixels of 0...255 into the network's input; raises StError if the file does
        not say it, as first weights don't."""
        if self._normalise is None:
            raise StError(
                f"{self.path}: does not say how images are normalised; train it, or name it in "
                "st.supernet(normalisation=...)"
            )
        return self._normalise

    def forward(self, batch: Tensor) -> Tensor:
        """Logits, (n, classes), of normalised images, (n, channels, height, width)."""
        return self.network(batch)

    def preprocess(self, images: Any) -> Tensor:
        """Pictures as the network's input, (n, channels, height, width), on its device and in the
        type of its weights (float32, until it is told otherwise).

        `images`: a path, a Pillow image, an array or tensor (integers of 0 to 255, or floats of 0
        to 1), a list of these, a batch (4 axes; 3 of gray images), or a folder. Each is treated as
        the test images were: see `st.deploy.pictures.as_tested`.
        Raises StError that names the picture which can't be read.
        """
        pictures = listed(images, self.input_shape[0])
        return self._normalised([as_tested(p, self.input_shape, self.resize) for p in pictures])

    def predict(self, images: Any) -> list[Prediction]:
        """The class of each picture; `images` as for `preprocess`, in the same order."""
        found = []
        for one in self.predictions(listed(images, self.input_shape[0])):
            if isinstance(one, StError):
                raise one
            found.append(one)
        return found

    @torch.inference_mode()
    def predictions(self, images: Sequence[Any]) -> Iterator[Prediction | StError]:
        """The same, a batch at a time, so that any number of files needs little memory; in place of
        a picture that can't be read, the reason."""
        was = self.training
        self.eval()
        try:
            for start in range(0, len(images), AT_ONCE):
                read = [self._read(image) for image in images[start : start + AT_ONCE]]
                good = [one for one in read if not isinstance(one, StError)]
                logits = self(self._normalised(good)) if good else torch.empty(0, 0)
                rows = iter(logits.float().softmax(1).tolist())
                for one in read:
                    yield one if isinstance(one, StError) else self._told(next(rows))
        finally:
            self.train(was)

    def _told(self, row: list[float]) -> Prediction:
        best = max(range(len(row)), key=row.__getitem__)
        return Prediction(self.classes[best], row[best], tuple(row))

    def _read(self, image: Any) -> np.ndarray | StError:
        try:
            return as_tested(image, self.input_shape, self.resize)
        except StError as error:
            return error

    def _normalised(self, pictures: Sequence[np.ndarray]) -> Tensor:
        normalise = self.normalise
        batch = normalise(torch.from_numpy(np.stack(pictures)).to(normalise.mean.device))
        return batch.to(next(self.network.parameters()).dtype)

    def extra_repr(self) -> str:
        """What `print` says beside the layers."""
        params, macs = self.structure.cost()
        return f"{len(self.classes)} classes, {params:,} parameters, {macs:,} MACs"


def checkpoint(model: Model) -> Checkpoint:
    """A model as its file has it, with the weights that it has now, in the types of its structure.

    Raises StError if they are no longer those of its structure, or not finite.
    """
    found, structure = network.tensors(model.network), model.structure
    types = {tensor.name: tensor.dtype for tensor in structure.graph.tensors()}
    tensors = {name: v.astype(types[name]) if name in types else v for name, v in found.items()}
    verify(model.path, tensors, structure, "undo what changed it, or import it anew by st.supernet")
    facts = {name: value for name, value in model.provenance.items() if name != "weights"}
    rule = {"normalisation": model.normalisation} if model.normalisation else {}
    facts |= {"classes": model.classes, **rule, "resize": model.resize}
    return Checkpoint(model.path, tensors, structure, facts)


class Portable(nn.Module):
    """What is exported: a copy of a model's network, after the normalisation if it is `raw`."""

    def __init__(self, model: Model, raw: bool):
        super().__init__()
        self._shape, self._type = model.input_shape, torch.uint8 if raw else torch.float32
        normalise = copy.deepcopy(model.normalise).cpu()
        self.normalise = normalise if raw else nn.Identity()
        self.network = copy.deepcopy(model.network).cpu().float()
        self.eval()

    def forward(self, batch: Tensor) -> Tensor:
        """Logits, (n, classes), of pixels or normalised images, (n, channels, height, width)."""
        return self.network(self.normalise(batch))

    def example(self) -> Tensor:
        """A batch of the shape and type that it takes."""
        return torch.zeros(2, *self._shape, dtype=self._type)


@apart()
def load(path: str | Path, plugins: Sequence[str] = ()) -> Model:
    """A model file (`model.safetensors`) as a torch module that knows its classes and how images
    are prepared for it.

    `plugins`: modules that define the model's architecture, if it is not a built-in one.
    Raises StError, which names the file, if it is missing, damaged or no model.
    """
    if plugins:
        load_plugins(plugins)
    path = Path(path)
    if path.is_dir():
        raise StError(f"{path}: is a folder; name the model.safetensors in it")
    if not path.exists():
        raise StError(f"{path}: is missing; name a model.safetensors")
    if path.suffix in OTHERS:
        raise StError(f"{path}: is {OTHERS[path.suffix]}")
    return Model(load_model(path))


def _classes(checkpoint: Checkpoint) -> list[str]:
    """The classes' names; their numbers where the file has none, as first weights."""
    found, count = checkpoint.facts.get("classes"), checkpoint.structure.classes
    if found is None:
        return [str(number) for number in range(count)]
    if not isinstance(found, list) or len(found) != count or {type(n) for n in found} != {str}:
        raise StError(f"{checkpoint.path}: 'classes' must be {count} names; build it again")
    return found


def _rule(checkpoint: Checkpoint) -> tuple[Normalise | None, int | None]:
    """How images are normalised, and their shorter side before the crop."""
    channels, resize = checkpoint.structure.input_shape[0], checkpoint.facts.get("resize")
    if resize is not None and not (type(resize) is int and 0 < resize <= 65536):
        raise StError(f"{checkpoint.path}: 'resize' must be a number of pixels; build it again")
    match checkpoint.facts.get("normalisation"):
        case None:
            return None, resize
        case {"mean": [*mean], "std": [*std]} if (
            len(mean) == len(std) == channels
            and all(type(v) in (int, float) and np.isfinite(v) for v in (*mean, *std))
            and min(std) > 0
        ):
            return Normalise(mean, std), resize
    raise StError(
        f"{checkpoint.path}: 'normalisation' must be a mean and std for each of its {channels} "
        "channels; build it again"
    )
