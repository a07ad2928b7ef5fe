"""What benchmarks share: networks, data, a description of the machine, csv files."""

import argparse
import csv
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from st.core.provenance import processor
from st.core.registry import architectures, inits
from st.data.dataset import Data
from st.networks import network as networks
from st.networks.layers import Executable
from st.networks.structure import Structure

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
OBJECTIVE = {
    "ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}, "cc": {"weight": 10.0},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An architecture and how it is trained; `steps`: batches of a measured epoch."""

    family: str
    options: dict[str, Any]
    batch: int
    steps: int


CASES = {
    "cpu": {
        "ResNet-20": Case("resnet", {"depth": 20}, 64, 10),
        "VGG-16, quarter width": Case("vgg", {"depth": 16, "width": 0.25}, 64, 20),
        "DenseNet-22, growth 8": Case("densenet", {"depth": 22, "growth": 8}, 64, 8),
    },
    "cuda": {
        "VGG-19": Case("vgg", {"depth": 19}, 128, 300),
        "ResNet-56": Case("resnet", {"depth": 56}, 128, 300),
        "PreResNet-164": Case("preresnet", {"depth": 164}, 128, 100),
        "DenseNet-40": Case("densenet", {"depth": 40, "growth": 12}, 128, 100),
    },
}


def cases(kind: str, only: str | None, batch: int | None) -> dict[str, Case]:
    """Those of a kind of device whose name contains `only`, with other batches if asked."""
    found = {name: case for name, case in CASES[kind].items() if (only or "") in name}
    if not found:
        raise SystemExit(f"--only {only}: known are {', '.join(CASES[kind])}")
    if batch:  # as many images
        found = {
            n: replace(c, batch=batch, steps=c.steps * c.batch // batch) for n, c in found.items()
        }
    return found


def structure(case: Case, student: bool = False) -> Structure:
    """The network of a case; the student has half of the channels of every prunable group."""
    options = architectures.check(case.family, case.options)
    full = Structure(case.family, options, (3, 32, 32), 10)
    if not student:
        return full
    keep = {name: np.arange(0, group.size, 2) for name, group in full.graph.groups.items()}
    return Structure(full.family, full.options, full.input_shape, full.classes, keep)


def network(case: Case, student: bool = False) -> Executable:
    built = structure(case, student)
    return networks.build(built, inits.get("random")(built, None, 0))


def plain_selections() -> None:
    """From now on this process' networks select channels as others do, in any memory layout."""
    networks.Selection.forward = lambda self, x: x.index_select(1, self.index)


def random_data(images: int, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> Data:
    """Noise in the shape of CIFAR-10: what an image shows does not change how long it takes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, *shape), dtype=np.uint8)
    labels = np.arange(images, dtype=np.int64) % classes
    return Data(pixels, labels, pixels[:64], labels[:64], [str(n) for n in range(classes)])


def folder_data(folder: Path, images: int) -> Data:
    """So many images of a folder of class folders, as 32x32 pixels."""
    from st.core.registry import datasets

    source = datasets.get("imagefolder")
    part = {} if (folder / "train").is_dir() else {"test_fraction": 0.1}
    options = datasets.check("imagefolder", {"root": str(folder), "size": 32, **part})
    full = source(**options)
    index = np.random.default_rng(0).permutation(len(full.train_labels))[:images]
    return Data(
        full.train_images[index], full.train_labels[index], full.test_images[:64],
        full.test_labels[:64], full.classes,
    )  # fmt: skip


class Pictures(torch.utils.data.Dataset):
    """As torchvision's CIFAR10: each image becomes a PIL image and is transformed on its own."""

    def __init__(self, data: Data, transform):
        self._images = data.train_images.transpose(0, 2, 3, 1)
        self._labels, self._transform = data.train_labels, transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int):
        from PIL import Image

        return self._transform(Image.fromarray(self._images[index])), int(self._labels[index])


def transformed(data: Data, folder: Path | None) -> torch.utils.data.Dataset:
    """The usual data set: random crops and flips, tensors, normalised, image by image. With a
    folder, its JPEG files are decoded each time, as torchvision's ImageFolder does."""
    from torchvision import datasets, transforms

    mean, deviation = (value / 255 for value in data.statistics())
    steps = [
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize(mean.tolist(), deviation.tolist()),
    ]  # fmt: skip
    if folder is None:
        return Pictures(data, transforms.Compose(steps))
    part = folder / "train" if (folder / "train").is_dir() else folder
    square = [transforms.Resize(32), transforms.CenterCrop(32)]
    files = datasets.ImageFolder(part, transforms.Compose(square + steps))
    chosen = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
    return torch.utils.data.Subset(files, chosen[: len(data.train_labels)].tolist())


def machine(device: str) -> dict[str, str]:
    """A description for csv files. `load`: what else ran when the benchmark began."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.1f}",
        "torch": torch.__version__,
    }


def add_out(parser: argparse.ArgumentParser) -> None:
    """The option that says where results go."""
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder for csv files (default: %(default)s)"
    )


class Table:
    """A csv file that gets a row as soon as it is measured, so that what is cut off is not lost."""

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.rows = folder / f"{name}.csv", []
        self._columns: list[str] = []

    def add(self, row: dict) -> None:
        """A row; all have the columns of the first."""
        if not self.rows:
            self._columns = list(row)
        with self.path.open("a" if self.rows else "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self._columns, lineterminator="\n")
            if not self.rows:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)

    def frame(self) -> pd.DataFrame:
        """All rows. Ends the benchmark if there are none."""
        if not self.rows:
            raise SystemExit(f"{self.path.name}: nothing could be measured, see above")
        return pd.DataFrame(self.rows)
