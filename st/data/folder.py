"""Folders of images on disk: which parts, classes and files there are, and whether they changed.

Needs no torch, and the image library's list of suffixes only where files lie beside folders: the
workflow reads folders at every start.
"""

import errno
import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from st.core.errors import StError
from st.data.decode import suffixes

# What each part of a split is called, in any case.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# What systems and programs leave in folders, beside everything whose name begins with a dot.
BY_PRODUCTS = {
    "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db",
    "desktop.ini", "icon\r", "__pycache__",
}  # fmt: skip
# Why entries of a folder are left out: reason -> their names. By-products are expected anywhere.
LeftOut = defaultdict[str, list[str]]
BY_PRODUCT = "hidden, or a by-product"
NO_IMAGE = "no suffix of images that can be read; if it is an image, convert it to JPEG or PNG"
DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@dataclass(frozen=True)
class Layout:
    """`parts`: the folder of each part by its name in PARTS, or one of '' that is not split;
    `classes`: the names of the class folders, sorted, the same in all parts."""

    parts: dict[str, Path]
    classes: list[str]


def layout(root: str | Path) -> Layout:
    """How a folder of images is laid out: class folders, or parts of class folders.

    A folder is a part if its name says so and it holds folders, whatever files lie beside them:
    'train' may be a class, of images. Raises StError that names the folders which are in the way.
    """
    folder = expanded(root)
    if not folder.is_dir():
        raise StError(f"{root}: is not a folder; the option 'root' names a folder of class folders")
    names = _folders(folder)
    inner = {name: _folders(folder / name) for name in names}
    found: dict[str, list[str]] = {}
    for part, known in PARTS.items():
        for name in names:
            if name.lower() in known and inner[name]:
                found.setdefault(part, []).append(name)
    if not found:
        return Layout({"": folder}, _classes(folder, inner))
    for part, several in found.items():
        if len(several) > 1:
            raise StError(f"{root}: {_listed(several)} are both the {part} part; keep one")
    others = [name for name in names if [name] not in found.values()]
    if others:
        split = _listed([several[0] for several in found.values()])
        raise StError(
            f"{root}: {_listed(others)} beside {split}; keep only the folders of a split "
            "(train, val, test) or only class folders"
        )
    parts = {part: folder / several[0] for part, several in found.items()}
    if "train" not in parts:
        raise StError(
            f"{root}: has {_listed([p.name for p in parts.values()])}, but no train; add it, or "
            "let 'root' name a folder of class folders"
        )
    classes = {
        part: _classes(path, {name: _folders(path / name) for name in _folders(path)})
        for part, path in parts.items()
    }
    every = sorted(set().union(*classes.values()))
    missing = {part: [c for c in every if c not in found] for part, found in classes.items()}
    if any(missing.values()):
        lacks = {parts[part].name: names for part, names in missing.items() if names}
        told = "; ".join(f"{name}/ lacks {_listed(names)}" for name, names in lacks.items())
        same = alike(every)
        if same:
            told += f" (the same but for case, blanks or how accents are stored: {_listed(same)})"
        raise StError(f"{root}: all parts must have the same class folders: {told}")
    return Layout(parts, every)


def files(folder: Path, left_out: LeftOut | None = None) -> Iterator[Path]:
    """All files below a folder, by name, through links to folders, but for by-products.

    What is not followed, links to nothing and links back to a folder above, is added to `left_out`
    under its reason, and so are by-products.
    """
    for name in _walk(str(folder), defaultdict(list) if left_out is None else left_out):
        if not name.endswith(os.sep):
            yield Path(name)


def images(folder: Path, left_out: LeftOut) -> list[Path]:
    """The same, if they are images by their suffix; others are added to `left_out`."""
    known, found = suffixes(), []
    for file in files(folder, left_out):
        if file.suffix.lower() in known:
            found.append(file)
        else:
            left_out[NO_IMAGE].append(str(file))
    return found


def by_suffix(names: Iterable[str]) -> str:
    """How many files there are of each suffix, the most first: 50 .heic, 1 .txt."""
    counts = Counter(Path(name).suffix.lower() or "without" for name in names)
    return _listed([f"{count} {suffix}" for suffix, count in counts.most_common()])


def told(reason: str, names: list[str]) -> str:
    """What is left out for one reason, for a message."""
    return f"{len(names)} left out: {by_suffix(names)}, the first: {names[0]} ({reason})"


def told_but_by_products(left_out: LeftOut) -> list[str]:
    """The same for each reason, but for what nobody misses."""
    return [told(r, names) for r, names in left_out.items() if names and r != BY_PRODUCT]


def _walk(
    folder: str, left_out: LeftOut, above: tuple[tuple[int, int], ...] | None = None
) -> Iterator[str]:
    """The same as text: millions of files need no Path each. `above`: what no link may lead to,
    which would bring in the images of all classes; by default all folders around the first, both
    where it lies and where a link has it. A folder that holds nothing, as a class to come does, is
    named with a slash at its end."""
    first = above is None
    if above is None:
        around = {*Path(os.path.abspath(folder)).parents, *Path(folder).resolve().parents}
        above = tuple(map(_identity, around))
    above = (*above, _identity(folder))
    entries = _entries(folder)
    if not first and all(is_by_product(entry.name) for entry in entries):
        yield folder + os.sep
    for entry in entries:
        if is_by_product(entry.name):
            left_out[BY_PRODUCT].append(entry.path)
        elif _is(entry.is_dir):
            if _identity(entry.path) in above:
                left_out["a link back to a folder above"].append(entry.path)
            else:
                yield from _walk(entry.path, left_out, above)
        elif _is(entry.is_file):
            yield entry.path
        else:
            left_out["a link to nothing, or not a file"].append(entry.path)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; raises StError if it can't be listed."""
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise StError(
            f"{folder}: cannot be read ({error.strerror}); fix the permissions, or take it out"
        ) from error


def _is(kind: Callable[[], bool]) -> bool:
    """An entry's is_dir or is_file; false for a link to itself, as for one to nothing."""
    try:
        return kind()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise StError(
            f"{error.filename}: cannot be read ({error.strerror}); fix the permissions, or take "
            "it out"
        ) from error


def expanded(root: str | Path) -> Path:
    """With a home folder in place of ~; raises StError if there is no such user, or no name."""
    if not str(root).strip():
        raise StError(
            "the option 'root' is empty; name a folder of class folders, '.' for this one"
        )
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise StError(
            f"{root}: there is no such home folder; the option 'root' names a folder of class "
            "folders"
        ) from error


def alike(names: Iterable[str]) -> list[str]:
    """Names that are the same but for case, blanks or how their accents are stored, a text for
    each such group."""
    groups: dict[str, list[str]] = {}
    for name in names:
        same = unicodedata.normalize("NFC", name).casefold()
        groups.setdefault("".join(same.split()), []).append(name)
    return [", ".join(map(ascii, group)) for group in groups.values() if len(group) > 1]


def is_by_product(name: str) -> bool:
    """Whether a file or folder of this name is never a part of the data."""
    return name.startswith(".") or name.lower() in BY_PRODUCTS


def quick_fingerprint(paths: Iterable[Path]) -> str:
    """Of the names, sizes and dates of files and of all files in folders, and of the names of
    folders that hold nothing; '' if there is none of these."""

    def dates(path: str, status: os.stat_result) -> str:
        return "empty" if path.endswith(os.sep) else f"{status.st_size} {status.st_mtime_ns}"

    return _fingerprint(paths, dates)


def full_fingerprint(paths: Iterable[Path]) -> str:
    """Of the names and contents of the same."""

    def content(path: str, status: os.stat_result) -> str:
        if path.endswith(os.sep):
            return "empty"
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()

    return _fingerprint(paths, content)


def _fingerprint(paths: Iterable[Path], fact: Callable[[str, os.stat_result], str]) -> str:
    digest, found = hashlib.blake2b(digest_size=16), False
    for path in paths:
        root = str(path)
        places = (
            _walk(root, defaultdict(list)) if path.is_dir() else [root] if path.exists() else []
        )
        for place in places:
            name = place.removeprefix(root).removeprefix(os.sep)
            try:
                told = f"\n{fact(place, os.stat(place))}\n".encode()
            except OSError:  # removed meanwhile
                continue
            digest.update(os.fsencode(name) + told)  # names need not be text
            found = True
    return digest.hexdigest() if found else ""


def _folders(folder: Path) -> list[str]:
    """The names of the folders in a folder."""
    entries = _entries(folder)
    return [e.name for e in entries if not is_by_product(e.name) and _is(e.is_dir)]


def _has_image(folder: Path) -> bool:
    """Whether an image lies in a folder itself, by its suffix."""
    known = suffixes()
    names = (entry.name for entry in _entries(folder) if _is(entry.is_file))
    return any(Path(name).suffix.lower() in known for name in names if not is_by_product(name))


def _classes(folder: Path, inner: dict[str, list[str]]) -> list[str]:
    """The class folders in a folder, by the folders within each; raises StError if they can't be
    that."""
    names, advice = list(inner), "call the parts of a split train, val and test, or let 'root' name"
    bare = [name for name, folders in inner.items() if folders and not _has_image(folder / name)]
    if bare:
        hold = "hold" if len(bare) > 1 else "holds"
        raise StError(
            f"{folder}: {_listed(bare)} {hold} only folders ({bare[0]}: {_listed(inner[bare[0]])}) "
            f"and no images, as class folders do; {advice} the folder of the class folders, or "
            "move the images up into these"
        )
    if len(names) < 2:
        raise StError(
            f"{folder}: needs at least two class folders, has {len(names)}; put the images of each "
            "class into a folder that is called as the class"
        )
    # beside others they may be classes; only these are a split, sorted by a list elsewhere
    if all(any(name.lower() in known for known in PARTS.values()) for name in names):
        raise StError(
            f"{folder}: {_listed(names)} are called as parts of a split are, but hold images and "
            "no class folders; sort the images of each into a folder for each class"
        )
    unclear = [name for name in names if any(map(_breaks, name))]
    if unclear:
        raise StError(
            f"{folder}: {_listed(list(map(ascii, unclear)))}: names of classes must be text in one "
            "line (UTF-8); rename the folders"
        )
    same = inner[names[0]]
    if len(same) > 1 and all(folders == same for folders in inner.values()):
        raise StError(
            f"{folder}: {_listed(names)} hold the same folders ({_listed(same)}), as the parts of "
            f"a split do; {advice} one of them"
        )
    return names


def _breaks(character: str) -> bool:
    """Whether it is no text of one line in one direction: what controls, separates lines, embeds or
    overrides a direction, marks an order of bytes, or is half of a code."""
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in DIRECTIONS
        or character == "\ufeff"
    )


def _listed(names: list[str]) -> str:
    """The first three, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
