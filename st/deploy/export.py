"""A trained network as a file for other programs, checked against the network itself."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from st import __version__
from st.config.layout import data_of
from st.core.errors import StError, one_line
from st.core.files import check_apart, together, write_json, write_text
from st.core.registry import targets
from st.core.seeds import stream
from st.core.tensors import read_header
from st.data.dataset import FORMAT, Data, Stored, opened
from st.data.split import evaluated
from st.deploy.card import CARD, check_card, other_reports
from st.deploy.card import card as card_text
from st.deploy.model import Model, Portable, load
from st.deploy.targets import INPUT, OUTPUT, parts, require

AT_ONCE = 256  # images of a batch of the check
CALIBRATION = 512  # training images on which ranges are measured, if there are so many
RANDOM = 64  # images of the check where no prepared data are
# Of the largest logit: far above what another order of additions changes, far below an error.
TOLERANCE = 1e-3
DATA = (
    "the file of a prepared data set, such as results/prepare/DATASET/data.safetensors, or in "
    "Python what st.dataset returned"
)
Report = dict[str, Any]


def export(
    model: Model | str | Path,
    out: str | Path,
    to: str = "onnx",
    *,
    raw: bool = False,
    data: Data | str | Path | None = None,
) -> Report:
    """Write a network for other programs to `out`, a report of the check and a card beside it.

    `model`: what `st.load` returned, or a model file. `to`: onnx, torch (.pt2), int8 (ONNX in
    8-bit integers) or module (source code, .py, with its weights, .safetensors, beside). `raw`: the
    file takes pixels, uint8 of 0 to 255, and normalises them itself; otherwise float32, normalised.
    `data`: what `st.dataset` returned, or a prepared data set's file (data.safetensors): its test
    images check the file, and its training images calibrate int8; default: the one that lies where
    the model's run put it, if there is one.
    Returns the report, which is also written to OUT.json. Raises StError, having written nothing,
    if a package is missing, the data do not fit, or the file computes something else.
    """
    require(targets.get(to).packages, f"export to {to}")
    model = model if isinstance(model, Model) else load(model)
    path = Path(out)
    if not path.name.strip("."):
        raise StError(f"'{out}': is no name of a file; an example: out/net{targets.get(to).suffix}")
    card = path.with_name(CARD)
    data = _usual_data(model.path) if data is None else data
    return write(model, path, to, raw, data, report_file(path), card)


def write(
    model: Model, path: Path, to: str, raw: bool, data: Data | str | Path | None, about: Path,
    card: Path,
) -> Report:  # fmt: skip
    """As `export`, with all its files named; without `data` it is checked on random images."""
    kind = targets.get(to)
    require(kind.packages, f"export to {to}")
    if path.suffix != kind.suffix:
        raise StError(f"{path}: a file of the target '{to}' must end in {kind.suffix}")
    check_card(card, model.provenance["weights"])
    model.normalise  # noqa: B018 - raises where the file does not say it
    files = parts(kind, path)
    for file in (*files, about, card):
        check_apart(file, [model.path, *([data] if isinstance(data, str | Path) else [])])
    with together([*files, about, card]) as folder:
        found, told_of_data = _data(model, data)
        if kind.calibrated and found is None:
            raise StError(
                f"export to {to} measures ranges on training images; give as 'data' (--data) {DATA}"
            )
        calibration = _calibration(found, model) if kind.calibrated and found else None
        made = folder / path.name
        with _in_one_line(f"{model.path}: cannot be exported to {to}"):
            kind(model, made, raw, calibration)
        with _in_one_line(f"{model.path}: what was exported to {to} does not run"):
            split = told_of_data["split"] if told_of_data else "random images"
            check = _check(model, kind, made, raw, found, split, path)
        written = [folder / file.name for file in files]
        report = {
            "file": path.name,
            "files": [file.name for file in files],
            "target": to,
            "bytes": sum(file.stat().st_size for file in written),
            "sha256": {file.name: _sha256(file) for file in written},
            "weights": model.provenance["weights"],
            "input": {
                "name": INPUT[raw],
                "shape": ["batch", *model.input_shape],
                "type": "uint8" if raw else "float32",
            },
            "output": {"name": OUTPUT, "shape": ["batch", len(model.classes)]},
            "data": told_of_data,
            "calibrated_on": 0 if calibration is None else len(calibration),
            "check": check,
            "versions": {"st": __version__, **_versions(("torch", *kind.packages))},
        }
        write_json(folder / about.name, report)
        reports = other_reports(path, about, model.provenance["weights"])
        write_text(folder / card.name, card_text(model, [*reports, report]))
    return report


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """For a plugin's network, and libraries that change: they may fail in any way."""
    try:
        yield
    except (StError, OSError, MemoryError):
        raise
    except Exception as error:
        raise StError(f"{what} ({type(error).__name__}: {one_line(error)})") from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def report_file(path: Path) -> Path:
    """Where the report of an exported file lies: beside it."""
    return path.with_name(f"{path.name}.json")


def _usual_data(model: str | Path) -> Path | None:
    """The prepared data set of a model's run, if it is there."""
    found = data_of(Path(model))
    return found if found and found.is_file() else None


def _data(model: Model, given: Data | str | Path | None) -> tuple[Data | None, Report | None]:
    """The images to check and calibrate with, if there are any, and what a report says of them.

    Raises StError if they are not the network's.
    """
    if given is None:
        return None, None
    if not isinstance(given, Data | str | Path):
        raise StError(f"data: must be {DATA}, not {type(given).__name__}")
    name, header = "", {}
    if not isinstance(given, Data):
        if not Path(given).exists():
            raise StError(f"{given}: is missing; name a prepared data set, a data.safetensors")
        name, header = Path(given).resolve().parent.name, read_header(given, FORMAT)
    data, digest = opened(given)
    if data.input_shape != tuple(model.input_shape) or data.classes != model.classes:
        told = "data" if isinstance(given, Data) else given
        raise StError(
            f"{told}: its images or classes are not those of {model.path}; give as 'data' "
            "(--data) what the network was trained on"
        )
    job = header.get("job") or {}
    counts = np.bincount(data.test_labels, minlength=len(data.classes))
    return data, {
        "name": name,
        "source": job.get("source"),
        "split": evaluated(job),
        "training_images": len(data.train_labels),
        "test_images": len(data.test_labels),
        "test_by_class": dict(zip(data.classes, counts.tolist(), strict=True)),
        "sha256": digest,
    }


def _calibration(data: Data, model: Model) -> np.ndarray:
    """Training images as the network sees them, drawn once for all, uint8 (n, c, h, w)."""
    from st.data.images import centred

    count = min(CALIBRATION, len(data.train_images))
    drawn = np.sort(stream(0, "calibration").permutation(len(data.train_images))[:count])
    images = torch.from_numpy(np.ascontiguousarray(data.train_images[drawn]))
    height, width = model.input_shape[1:]
    return centred(images, (height, width)).numpy()


def _check(
    model: Model, kind: Any, file: Path, raw: bool, data: Data | None, split: str, name: Path
) -> Report:
    """How the file's logits differ from the network's, and how accurate both are on test images,
    or what `split` says is in their place.

    Without data the images are random. Raises StError if a file that should compute the same does
    not.
    """
    images: Stored
    if data is None:
        shape = (RANDOM, *model.input_shape)
        images = stream(0, "export").integers(0, 256, shape).astype(np.uint8)
    else:
        images = data.test_images
    logits = logits_of(kind.run(file), model, images, raw)
    expected = logits_of(None, model, images, raw)
    if logits.shape != expected.shape:
        raise StError(f"{name}: gives outputs of shape {logits.shape}, not {expected.shape}")
    difference = float(np.abs(logits - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if kind.exact and not difference <= allowed:
        raise StError(
            f"{name}: its outputs differ from the network's by {difference:.3g}, more than "
            f"rounding; this is a bug of the export"
        )
    predicted, before = logits.argmax(1), expected.argmax(1)
    found: Report = {
        "images": split,
        "count": len(images),
        "largest_difference": difference,
        "largest_logit": float(np.abs(expected).max()),
        "same_class": float(100 * (predicted == before).mean()),
    }
    if data is not None:
        labels = data.test_labels
        found |= {
            "accuracy": float(100 * (predicted == labels).mean()),
            "accuracy_torch": float(100 * (before == labels).mean()),
            "correct": int((predicted == labels).sum()),
            "class_accuracy": {
                label: float(100 * (predicted[labels == n] == n).mean())
                for n, label in enumerate(data.classes)
                if (labels == n).any()
            },
        }
    return found


def logits_of(run: Any, model: Model, images: Stored, raw: bool) -> np.ndarray:
    """Logits, (n, classes), of uint8 images, by a target's `run`; by torch where it is None."""
    portable = Portable(model, raw)
    normalise = Portable(model, True).normalise
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), AT_ONCE):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + AT_ONCE]))
            batch = batch if raw else normalise(batch)
            found.append(run(batch.numpy()) if run else portable(batch).numpy())
    return np.concatenate(found)


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def told(report: Report) -> str:
    """The report in a few words, for a terminal."""
    check = report["check"]
    lines = [f"{report['bytes']:,} bytes"]
    lines += [f"largest difference {check['largest_difference']:.2g} on {check['count']} "
              f"{check['images']}"]  # fmt: skip
    if "accuracy" in check:
        lines += [f"accuracy {check['accuracy']:.2f} %, in torch {check['accuracy_torch']:.2f} %"]
    else:
        lines += ["no prepared data were found to measure accuracy on; --data names them"]
    return "; ".join(lines)
