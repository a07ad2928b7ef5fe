"""Any folder of class folders."""

import math
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from st.core.errors import StError
from st.core.process import in_order
from st.core.progress import Counter, say, say_all
from st.core.registry import datasets
from st.core.types import Finite, Flag
from st.data.dataset import Data, Shape, Stored
from st.data.decode import Made, area, make
from st.data.folder import (
    BY_PRODUCT,
    NO_IMAGE,
    Layout,
    LeftOut,
    alike,
    by_suffix,
    expanded,
    is_by_product,
    layout,
    told,
    told_but_by_products,
)  # fmt: skip
from st.data.folder import images as images_of
from st.data.shards import Writer, memory

SIDE = Annotated[int, Field(ge=8, le=1024, strict=True)]
SHARE = Annotated[float, Finite(gt=0, lt=1)]


@datasets.register
def imagefolder(
    writer: Writer | None = None,
    *,
    root: str,
    size: SIDE | None = None,
    test_resize: SIDE | None = None,
    train_size: SIDE | None = None,
    grayscale: Flag = False,
    test_fraction: SHARE | None = None,
    val: Literal["test", "holdout"] | None = None,
    per_class: Annotated[int, Field(ge=2, strict=True)] | None = None,
    skip_damaged: Flag = False,
    store: Literal["auto", "pixels", "jpeg"] = "auto",
) -> Data:
    """`root`/train/CLASS/* and `root`/test/CLASS/*, or `root`/CLASS/* split by `test_fraction`.

    Parts may have their other usual names (`st.data.folder.PARTS`). `val`: what a val part is for;
    test: it is the test part, where there is no other; holdout: it is evaluated in place of the
    test part, which is left alone. `size`: resize the shorter side to it and crop the centre;
    without it all images must have one size. `test_resize`: test images' shorter side before that
    crop, `train_size`: the same for training images, which are stored so large for augmentation to
    crop; both are `size` by default. `per_class`: take only so many images of each class
    and part, the first by name. What is done to the images of each class is told, with an example.
    `store`: pixels: all images in memory, as arrays; jpeg: compressed, in shards that the `writer`
    makes; auto: pixels, if they take at most half of the memory that this process may use.
    Raises StError with the path of a file that is not an image, or has more than 8 bits a channel;
    `skip_damaged`: leave these out, and count them in a message.
    """
    _check_sizes(size, test_resize, train_size)
    found = layout(root)
    _check_parts(root, found, test_fraction, val)
    if not val and "val" in found.parts:
        say(f"{found.parts['val']} is not used; the option 'val: holdout' evaluates on it")
    split = "" not in found.parts
    stored = train_size or size
    differ = stored != size or (test_resize or size) != size
    reader = _Reader(grayscale, per_class, skip_damaged, writer, by_contents=differ)
    reader.choose(store, found, _sides(found, val, stored, size))
    images, labels, names = reader.read(found, "train" if split else "", stored)
    as_test = None
    if differ:

        def as_test(files: list[str]) -> Stored:
            return reader.images(files, size, test_resize)

    if split:
        test, test_labels, test_names = reader.read(
            found, "val" if val else "test", size, test_resize
        )
    else:  # not split yet
        shape = images.shape[2:] if size is None else (size, size)
        test = np.empty((0, images.shape[1], *shape), dtype=np.uint8)
        test_labels, test_names = labels[:0], []
    data = Data(
        images, labels, test, test_labels, found.classes, resize=test_resize or size,
        files=(names, test_names), as_test=as_test,
    )  # fmt: skip
    if not split:
        assert test_fraction is not None
        data = data.divided(
            test_fraction, "split", lambda name: f"{found.parts[''] / name}: 'test_fraction'"
        )
    reader.tell()
    beside = {*found.parts.values(), *(part.parent for part in found.parts.values() if split)}
    entries = [entry for folder in sorted(beside) for entry in sorted(folder.iterdir())]
    strays = [str(e) for e in entries if os.path.isfile(e) and not is_by_product(e.name)]
    say_all("files beside the class folders, left out", strays)
    say_all("classes whose names differ in case, blanks or accents only", alike(data.classes))
    return data


def _shape(
    *, root: str, size: int | None, test_resize: int | None, train_size: int | None,
    grayscale: bool, test_fraction: float | None, val: str | None, **others,
) -> Shape | None:  # fmt: skip
    _check_sizes(size, test_resize, train_size)
    if not os.path.exists(expanded(root)):  # where there are results of it, none is needed
        return None
    found = layout(root)
    _check_parts(root, found, test_fraction, val)
    return None if size is None else ((1 if grayscale else 3, size, size), len(found.classes))


def _sides(
    found: Layout, val: str | None, stored: int | None, size: int | None
) -> dict[str, int | None]:
    """The parts that are read, first the training images', and the side of each one's images."""
    if "" in found.parts:
        return {"": stored}
    return {"train": stored, "val" if val else "test": size}


def _sample(most: int, **options: Any) -> tuple[Data, int, int]:
    """About `most` images, the first of each class and part, kept as all would be; and the numbers
    of training and test images that there are. For estimates, which need not read a million."""
    root, val, limit = (options[name] for name in ("root", "val", "per_class"))
    found = layout(root)
    _check_parts(root, found, options["test_fraction"], val)
    reader = _Reader(options["grayscale"], limit, True, None, by_contents=False)
    sides = _sides(found, val, options["train_size"] or options["size"], options["size"])
    reader.choose(options["store"], found, sides)
    train, *others = (reader.counts(found, part) for part in sides)
    share = options["test_fraction"]
    test = others[0] if others else [max(1, round(share * count)) for count in train]
    few = max(2, math.ceil(most / len(found.classes)))
    read = {
        "store": "jpeg" if reader.compressed else "pixels",
        "per_class": few if limit is None else min(few, limit),
    }
    data = imagefolder(**{**options, **read})
    return data, sum(train) - (0 if others else sum(test)), sum(test)


imagefolder.shape = _shape
imagefolder.sample = _sample
imagefolder.writes = True  # shards
imagefolder.paths = lambda *, root, **others: [expanded(root)]
imagefolder.where = ("root",)


def _check_sizes(size: int | None, test_resize: int | None, train_size: int | None) -> None:
    """Raise StError unless the centre crop is within what is scaled."""
    for name, larger in (("test_resize", test_resize), ("train_size", train_size)):
        if larger is None:
            continue
        if size is None:
            raise StError(f"data set 'imagefolder': option '{name}' needs 'size', the network's")
        if larger < size:
            raise StError(
                f"data set 'imagefolder': option '{name}': {larger} is less than 'size', {size}"
            )


def _check_parts(root: str, found: Layout, test_fraction: float | None, val: str | None) -> None:
    """Raise StError unless the options say what to do with each part."""
    has = [path.name for path in found.parts.values()]
    if "" in found.parts:
        if test_fraction is None:
            raise StError(f"{root}: give 'test_fraction', or sort the images into train/ and test/")
        if val:
            raise StError(f"{root}: the option 'val' needs a folder val/ beside train/")
        return
    if test_fraction is not None:
        raise StError(f"{root}: has {', '.join(has)}, so 'test_fraction' must not be given")
    if val and "val" not in found.parts:
        raise StError(f"{root}: the option 'val' needs a folder val/ beside {', '.join(has)}")
    if val == "test" and "test" in found.parts:
        raise StError(
            f"{root}: has a test part too, so 'val: test' would leave it unused; 'val: holdout' "
            "evaluates on val"
        )
    if not val and "test" not in found.parts:
        advice = (
            "say 'val: test' to test on val, or 'val: holdout' to choose settings on it"
            if "val" in found.parts
            else "add test/, or let 'root' name train/ and give 'test_fraction'"
        )
        raise StError(f"{root}: has {', '.join(has)}, but no test part; {advice}")


class _Reader:
    """Reads the parts of a layout, and keeps what is to be told of them."""

    def __init__(
        self, grayscale: bool, most: int | None, skip: bool, writer: Writer | None,
        by_contents: bool,
    ):  # fmt: skip
        self._grayscale, self._most, self._skip = grayscale, most, skip
        self._by_contents = by_contents
        self._writer = writer
        self.compressed = False
        self._listed: dict[tuple[str, str], tuple[list[str], LeftOut]] = {}  # by part and class
        self._shape: tuple[int, ...] | None = None
        self._told: list[str] = []
        self._damaged: list[str] = []
        self._unread: list[str] = []
        self._by_products: list[str] = []

    def choose(self, store: str, found: Layout, parts: dict[str, int | None]) -> None:
        """List the parts' files, and decide how their images are kept. `parts`: the side of the
        images of each, if it is known."""
        whole = 0
        for part, side in parts.items():
            files: list[str] = []
            for name in found.classes:
                listed = self._files(found.parts[part] / name)
                self._listed[part, name] = listed
                files += listed[0][: self._most]
            pixels = side**2 if side else area(files)
            whole += len(files) * pixels * (1 if self._grayscale else 3)
        self.compressed = store == "jpeg" or (store == "auto" and whole > memory() // 2)
        if self.compressed:
            self._writer = self._writer or Writer.temporary()
            say(
                f"images stay compressed: as pixels they would take {whole / 2**30:.2g} GiB, of "
                f"{memory() / 2**30:.2g} GiB of memory"
            )

    def counts(self, found: Layout, part: str) -> list[int]:
        """How many images each class has, by suffix."""
        return [len(self._listed[part, name][0][: self._most]) for name in found.classes]

    def read(
        self, found: Layout, part: str, size: int | None, resize: int | None = None
    ) -> tuple[Stored, np.ndarray, list[str]]:
        """A part's images, labels and files; `size` and `resize` are decode's. Images are written
        where they stay: a list of them and then an array would need the memory twice."""
        if size is not None:
            self._shape = None  # each part has its own
        first = [f for name in found.classes for f in self._listed[part, name][0][: self._most]]
        bar = Counter("images", len(first))
        ahead = self._made(first, size, resize)
        images = np.empty((0, 0, 0, 0), dtype=np.uint8)
        labels: list[int] = []
        names: list[str] = []
        for label, name in enumerate(found.classes):
            listed, left_out = self._listed.pop((part, name))

            def made(listed: list[str] = listed) -> Iterator[Made]:
                for one in islice(ahead, len(listed[: self._most])):
                    bar.count()
                    yield one
                # in place of damaged ones, where only so many are taken
                for file in listed[self._most :] if self._most else ():
                    yield from self._made([file], size, resize)

            for one in self._class(found.parts[part] / name, made(), left_out):
                if one.pixels is not None:
                    if not labels:
                        images = np.empty((len(first), *one.shape), dtype=np.uint8)
                    images[len(labels)] = one.pixels
                labels.append(label)
                names.append(one.file)
        if self._damaged and not self._skip:
            first_line, *more = self._damaged
            if more:
                say_all("images that cannot be read", self._damaged)
            raise StError(first_line + (f" ({len(more)} more like this)" if more else ""))
        if self.compressed:
            assert self._writer and self._shape
            kept: Stored = self._writer.part(self._shape)
        else:
            kept = images[: len(labels)]
        return kept, np.array(labels, dtype=np.int64), names

    def images(self, files: list[str], size: int | None, resize: int | None) -> Stored:
        """Those of files that could be read before; raises StError if one no longer can."""
        images = np.empty((0, 0, 0, 0), dtype=np.uint8)
        shape: tuple[int, ...] = ()
        for number, one in enumerate(self._made(files, size, resize)):
            if one.error:
                raise StError(one.error)
            shape = one.shape
            if one.pixels is not None:
                if not number:
                    images = np.empty((len(files), *shape), dtype=np.uint8)
                images[number] = one.pixels
        return self._writer.part(shape) if self.compressed and self._writer else images

    def _made(self, files: list[str], size: int | None, resize: int | None) -> Iterator[Made]:
        """What becomes of each file."""
        maker = partial(
            make, size=size, grayscale=self._grayscale, resize=resize,
            compressed=self.compressed, by_contents=self._by_contents,
        )  # fmt: skip
        if self.compressed:
            assert self._writer
            return self._writer.made(files, maker)
        return in_order(maker, files, self._writer.threads if self._writer else 1)

    def _files(self, folder: Path) -> tuple[list[str], LeftOut]:
        """A class's files that may be images, and what is left out."""
        left_out: LeftOut = defaultdict(list)
        return list(map(str, images_of(folder, left_out))), left_out

    def _class(self, folder: Path, made: Iterator[Made], left_out: LeftOut) -> Iterator[Made]:
        """Those of a class's images that can be read."""
        converted: list[str] = []
        skipped: list[str] = []
        count = 0
        for one in made:
            if one.error:
                skipped.append(one.error)
                continue
            if one.done:
                converted.append(f"{one.file} ({one.done})")
            self._shape = self._shape or one.shape
            if one.shape != self._shape:
                height, width = self._shape[1:]
                raise StError(
                    f"{one.file}: is {one.shape[2]}x{one.shape[1]}, others are "
                    f"{width}x{height}; give the option 'size'"
                )
            count += 1
            yield one
            if count == self._most:
                break
        self._damaged += skipped
        kinds = {"converted": converted, "skipped": skipped}
        parts = [f"{len(f)} {kind}, the first: {f[0]}" for kind, f in kinds.items() if f]
        by_products = left_out[BY_PRODUCT]
        self._unread += left_out[NO_IMAGE]
        self._by_products += by_products
        parts += told_but_by_products(left_out)
        passed_over = told(BY_PRODUCT, by_products) if by_products else "it is empty"
        if parts:
            self._told.append(f"{folder}: {count} images read; {'; '.join(parts)}")
        if not count:
            reason = (
                f"all {len(skipped)} are damaged, the first: {skipped[0]}"
                if skipped
                else "; ".join(parts) or passed_over
            )
            raise StError(f"{folder}: has no images that can be read ({reason})")

    def tell(self) -> None:
        """Say what was left out as no image, of all classes, then what was converted, skipped and
        left out class by class, last the by-products, which nobody misses."""
        kinds = f"({by_suffix(self._unread)}; images among them: convert them to JPEG or PNG)"
        say_all(
            f"files left out because their suffix is of no readable image {kinds}", self._unread
        )
        say_all("class folders with files that were converted, skipped or left out", self._told)
        say_all("hidden files and by-products, passed over", self._by_products)
