"""Images for training, from disk to a normalised batch: both stores beside the usual ways.

    python benchmarks/loading.py                     # speed: generated files, two processes
    python benchmarks/loading.py --side 500          # ... of larger files
    python benchmarks/loading.py --prepare 100000    # preparation, and memory by number of images

Contestants take turns of an epoch each (random-resized crop to 224 pixels, flip, normalised,
batches of 64); ratios are of the same round, and of processor time, so that other work on the
machine changes them little: images/s are what so many idle cores would do (and, in the csv, what
was). webdataset and litdata, where they are installed, read
shards of the same stored images by their own recipes. Writes loading-speed.csv, or
loading-prepare.csv, row by row.
"""

import argparse
import gc
import importlib.util
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from common import Table, add_out, machine
from turns import race

SIZE, STORED, BATCH, CLASSES = 224, 256, 64, 10


def generate(root: Path, images: int, width: int, height: int) -> Path:
    """JPEG files, parts of one large picture of smooth shapes and noise, about as many bytes as of
    photographs; kept for the next time."""
    from PIL import Image

    folder = root / f"{images}-{width}x{height}"
    done = folder.with_suffix(".done")
    if done.exists():
        return folder
    rng = np.random.default_rng(0)
    side = 2000 + max(width, height)
    shapes = rng.integers(0, 256, (side // 24, side // 24, 3), dtype=np.uint8)
    smooth = Image.fromarray(shapes).resize((side, side), Image.Resampling.BICUBIC)
    noise = rng.integers(-10, 11, (side, side, 3))
    whole = Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))
    for number in range(images):
        place = (
            folder / ("test" if number % 10 == 0 else "train") / f"class{number // 10 % CLASSES}"
        )
        place.mkdir(parents=True, exist_ok=True)
        left, top = (int(n) for n in rng.integers(0, 2000, 2))
        part = whole.crop((left, top, left + width, top + height))
        part.save(place / f"{number:07}.jpg", quality=90)
    done.touch()
    return folder


def prepared(root: Path, place: Path, store: str, threads: int, **options) -> Path:
    """The folder's prepared data; made once."""
    from st.core.registry import datasets
    from st.phases import prepare

    path = place / store / "data.safetensors"
    if not path.exists():
        options = datasets.check("imagefolder", {"root": str(root), "store": store, **options})
        prepare.run({"source": "imagefolder", "options": options, "holdout": None}, path, threads)
    return path


def ours(path: Path, threads: int, decode_only: bool):
    """Epochs as the training loop has them."""
    from st.core.device import choose
    from st.data.augment import Augment, ResizedCrop
    from st.data.dataset import load_data
    from st.data.images import Images

    images = Images(load_data(path)[0], choose("cpu", threads))
    augment = Augment(resized_crop=ResizedCrop(), flip=True)
    show = None if decode_only else partial(augment.apply, size=images.size)
    total = len(images.train_images)
    for epoch in range(10**6):
        order = torch.randperm(total, generator=torch.Generator().manual_seed(epoch))
        views = augment.draw(total, 0, epoch)
        seen = 0
        for batch in images.train_images.batches(order.split(BATCH), show, views):
            seen += len(batch if decode_only else images.normalise(batch))
        yield seen


def usual_transform():
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(),
            transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )  # fmt: skip


def loaded(dataset, threads: int, **options):
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, num_workers=threads, prefetch_factor=4, persistent_workers=True, **options
    )
    while True:
        yield sum(len(images) for images, _ in loader)


def imagefolder(root: Path, threads: int):
    from torchvision import datasets

    return loaded(datasets.ImageFolder(root / "train", usual_transform()), threads, shuffle=True)


def of_webdataset(path: Path, threads: int):
    """Tar files of the images that the shards hold, decoded by Pillow, shuffled in a buffer."""
    import webdataset as wds
    from PIL import Image

    from st.data.dataset import load_data

    images, place = load_data(path)[0].train_images, path.parent / "tar"
    if not place.exists():
        place.mkdir()
        with wds.ShardWriter(f"{place}/%05d.tar", maxcount=max(1, len(images) // 8)) as sink:
            for number in range(len(images)):
                sink.write({"__key__": f"{number:07}", "jpg": images.payload(number), "cls": 0})
    transform = usual_transform()
    files = sorted(str(file) for file in place.iterdir())
    dataset = (
        wds.WebDataset(files, shardshuffle=100)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(lambda b: transform(Image.open(io.BytesIO(b)).convert("RGB")), int)
    )
    return loaded(dataset, threads)


def picture(item: dict, transform):
    """An image of litdata's."""
    from PIL import Image

    return transform(Image.open(io.BytesIO(item["bytes"])).convert("RGB")), item["class"]


def of_litdata(path: Path, threads: int):
    """Its own chunks of the same images."""
    import litdata

    from st.data.dataset import load_data

    images, place = load_data(path)[0].train_images, path.parent / "lit"
    if not place.exists():
        writer = litdata.streaming.writer.BinaryWriter(str(place), chunk_bytes="64MB")
        for number in range(len(images)):
            writer.add_item(number, {"bytes": images.payload(number), "class": 0})
        writer.done()
        writer.merge()
    dataset = litdata.StreamingDataset(
        str(place), shuffle=True, transform=partial(picture, transform=usual_transform())
    )
    loader = litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=threads)
    while True:
        yield sum(len(images) for images, _ in loader)


def processor_seconds() -> float:
    """Of this process and those that read for it."""
    own = psutil.Process()
    found = [own.cpu_times()]
    for child in own.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found.append(child.cpu_times())
    return sum(times.user + times.system for times in found)


def worker(pipe, name: str, root: Path, place: Path, threads: int) -> None:
    """A contestant's process: an epoch whenever the pipe says so."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    pixels, shards = place / "pixels/data.safetensors", place / "jpeg/data.safetensors"
    epochs = {
        "pixels": lambda: ours(pixels, 1, False),
        "shards": lambda: ours(shards, threads, False),
        "shards, decoding alone": lambda: ours(shards, threads, True),
        "ImageFolder": lambda: imagefolder(root, threads),
        "webdataset": lambda: of_webdataset(shards, threads),
        "litdata": lambda: of_litdata(shards, threads),
    }[name]()
    next(epochs)
    pipe.send(None)
    while True:
        pipe.recv()
        started, before = time.perf_counter(), processor_seconds()
        images = next(epochs)
        seconds, used = time.perf_counter() - started, processor_seconds() - before
        pipe.send((images / seconds, images * threads / used))


def speed(options, facts: dict) -> None:
    root = generate(options.work, options.images, options.side, options.side * 3 // 4)
    place = options.work / f"prepared-{root.name}"
    sizes = {"size": SIZE, "train_size": STORED, "test_resize": STORED}
    for store in ("pixels", "jpeg"):
        prepared(root, place, store, options.threads, **sizes)
    names = ["shards", "ImageFolder", "shards, decoding alone", "pixels"]
    names += [name for name in ("webdataset", "litdata") if importlib.util.find_spec(name)]
    names = options.only or names
    table, found = Table(options.out, f"loading-speed-{options.side}"), {n: [] for n in names}
    for name, number, (wall, used) in race(
        worker, names, options.rounds, root, place, options.threads
    ):
        found[name].append(used)
        table.add(
            {"contestant": name, "round": number, "images_per_s": round(wall, 1),
             "images_per_processor_s": round(used / options.threads, 1),
             "files": f"{options.side}x{options.side * 3 // 4}", "processes": options.threads,
             **facts}
        )  # fmt: skip
    for name, values in found.items():
        ratios = sorted(a / b for a, b in zip(found[names[0]], values, strict=True))
        print(
            f"{name}: {statistics.median(values):,.0f} images/s of processor time; {names[0]} are "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times as fast"
        )


def peak() -> dict[str, int]:
    """MiB at most of this process, and of the largest of its children."""
    kinds = {"own_mib": resource.RUSAGE_SELF, "largest_child_mib": resource.RUSAGE_CHILDREN}
    return {name: resource.getrusage(kind).ru_maxrss // 1024 for name, kind in kinds.items()}


def part(what: str, root: Path, place: Path, store: str, images: int, threads: int) -> None:
    """A measurement in a process of its own: prints seconds, and MiB."""
    started, before = time.perf_counter(), os.times()
    if what == "prepare":
        each = max(2, images // CLASSES)
        prepared(root, place, store, threads, size=96, train_size=112, per_class=each)
    else:
        next(ours(place / store / "data.safetensors", threads, False))
    seconds = time.perf_counter() - started
    gc.collect()  # processes that read end, and are counted then
    after = os.times()
    used = sum(after[:4]) - sum(before[:4])
    print(round(seconds, 1), round(used, 1), *peak().values(), flush=True)


def memory(options, facts: dict) -> None:
    root = generate(options.work, options.prepare, 160, 120)
    table, images, last = Table(options.out, "loading-prepare"), 100, 0
    while (images := min(options.prepare, images * 10)) > last:
        last = images
        for store in ("jpeg", "pixels"):
            place = options.work / f"prepared-{root.name}-{images}"
            shutil.rmtree(place / store, ignore_errors=True)
            for what in ("prepare", "epoch"):
                arguments = [what, str(root), str(place), store, str(images), str(options.threads)]
                command = [sys.executable, __file__, "--part", *arguments]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                seconds, used, own, child = told.split()
                files = [f for f in (place / store).rglob("*") if f.is_file()]
                row = {
                    "what": what, "store": store, "files": images, "seconds": float(seconds),
                    "processor_seconds": float(used),
                    "files_per_s": round(images * options.threads / float(used)),
                    "own_peak_mib": int(own),
                    "child_peak_mib": int(child),
                    "disk_mib": sum(f.stat().st_size for f in files) >> 20,
                }  # fmt: skip
                table.add({**row, "processes": options.threads, **facts})
                print(row, flush=True)
            shutil.rmtree(place / store, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("/tmp/st-loading"), help="for files")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=500, help="the files' width")
    parser.add_argument("--prepare", type=int, metavar="N", help="prepare so many files instead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="processes that read")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contestants")
    parser.add_argument("--part", nargs=6, help=argparse.SUPPRESS)
    add_out(parser)
    options = parser.parse_args()
    if options.part:
        what, root, place, store, images, threads = options.part
        part(what, Path(root), Path(place), store, int(images), int(threads))
        return
    facts = machine("cpu")
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    (memory if options.prepare else speed)(options, facts)


if __name__ == "__main__":
    main()
