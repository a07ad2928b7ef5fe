"""Folders on disk: layouts, what is passed over, and fingerprints."""

import errno
import os
from collections import defaultdict
from pathlib import Path

import pytest

from st.core.errors import StError
from st.data.folder import (
    BY_PRODUCT,
    alike,
    expanded,
    files,
    full_fingerprint,
    layout,
    quick_fingerprint,
)  # fmt: skip


def tree(root: Path, *names: str) -> Path:
    """Files of these names, each with its name as its content."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def classes(root: Path, *parts: str) -> Path:
    return tree(root, *(f"{part}/{name}/1.png" for part in parts for name in ("cat", "dog")))


def refused(root: Path, *words: str) -> None:
    with pytest.raises(StError) as caught:
        layout(root)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    "names, parts",
    [
        (["train", "test"], ["train", "test"]),
        (["Training", "TESTING"], ["train", "test"]),
        (["train", "val"], ["train", "val"]),
        (["train", "valid", "eval"], ["train", "val", "test"]),
        (["Train", "Validation", "Test"], ["train", "val", "test"]),
    ],
)
def test_the_usual_names_of_a_split(tmp_path, names, parts):
    found = layout(classes(tmp_path, *names))
    assert found.classes == ["cat", "dog"]
    assert found.parts == {part: tmp_path / name for part, name in zip(parts, names, strict=True)}


def test_class_folders(tmp_path):
    found = layout(tree(tmp_path, "cat/1.png", "dog/deep/er/1.png", "dog/2.png", "notes.txt"))
    assert (found.parts, found.classes) == ({"": tmp_path}, ["cat", "dog"])


def test_a_class_may_be_called_train(tmp_path):
    """As in CIFAR-100: a part holds folders, a class images."""
    found = layout(tree(tmp_path, "train/1.png", "bus/1.png", "test/1.png"))
    assert (found.parts, found.classes) == ({"": tmp_path}, ["bus", "test", "train"])


def test_folders_of_folders_are_named(tmp_path):
    refused(classes(tmp_path / "a", "trn", "tst"), "trn, tst hold only folders (trn: cat, dog)")
    refused(tree(tmp_path / "b", "x/1.png", "y/inner/1.png"), "y holds only folders (y: inner)")
    refused(
        tree(tmp_path / "c", "train/cat/1.png", "train/dog/in/1.png", "test/cat/1.png"),
        "train: dog holds only folders",
    )
    refused(classes(tmp_path / "d", "train", "training", "test"), "train, training are both")
    refused(tree(classes(tmp_path / "e", "train", "test"), "cat/1.png"), "cat beside train, test")
    refused(classes(tmp_path / "f", "val", "test"), "but no train")


def test_files_beside_class_folders_change_no_layout(tmp_path):
    """Lists of labels and previews lie in many a split's folders."""
    for beside in ("labels.csv", "preview.png"):
        root = classes(tmp_path / beside, "train", "val")
        for where in ("train", "val", "."):
            tree(root, f"{where}/{beside}")
        assert layout(root).parts.keys() == {"train", "val"}
        assert layout(root).classes == ["cat", "dog"]
        root = tree(classes(tmp_path / f"one {beside}", "train", "test"), f"train/{beside}")
        assert layout(root).parts.keys() == {"train", "test"}
        root = classes(tmp_path / f"dev {beside}", "train", "dev")
        refused(tree(root, f"train/{beside}", f"dev/{beside}"), "dev beside train")
    root = tree(classes(tmp_path / "x", "trn", "tst"), "trn/labels.csv", "tst/labels.csv")
    refused(root, "trn, tst hold only folders (trn: cat, dog)")
    root = tree(classes(tmp_path / "y", "trn", "tst"), "trn/preview.png", "tst/preview.png")
    refused(root, "trn, tst hold the same folders (cat, dog)")


def test_class_folders_may_have_folders_within(tmp_path):
    root = tree(tmp_path, "cat/1.webp", "cat/more/1.png", "cat/notes.txt", "dog/1.png", "cow/1.jp2")
    assert layout(root).classes == ["cat", "cow", "dog"]


def test_missing_classes_are_named_with_their_part(tmp_path):
    root = tree(classes(tmp_path, "train", "val", "test"), "val/bird/1.png", "test/cow/1.png")
    refused(root, "train/ lacks bird, cow; val/ lacks cow; test/ lacks bird")


def test_by_products_are_passed_over_at_any_depth(tmp_path):
    tree(
        tmp_path, "cat/1.png", "cat/.ipynb_checkpoints/1.png", "cat/._1.png", "cat/in/.x/2.png",
        "cat/in/Thumbs.db", "cat/in/2.png", "dog/1.png", "__MACOSX/cat/1.png", ".hidden/1.png",
        "cat/.AppleDouble/1.png", "@eaDir/1.png",
    )  # fmt: skip
    assert layout(tmp_path).classes == ["cat", "dog"]
    left_out = defaultdict(list)
    found = list(files(tmp_path / "cat", left_out))
    assert found == [tmp_path / "cat/1.png", tmp_path / "cat/in/2.png"]
    assert list(left_out) == [BY_PRODUCT] and len(left_out[BY_PRODUCT]) == 5
    assert str(tmp_path / "cat/in/.x") == left_out[BY_PRODUCT][3]


def test_links_are_followed_without_loops(tmp_path):
    tree(tmp_path, "cat/1.png", "dog/1.png", "elsewhere/in/3.png")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("cat", "dog"):
        (root / name).symlink_to(tmp_path / name)
    (tmp_path / "cat/more").symlink_to(tmp_path / "elsewhere/in")
    (tmp_path / "cat/loop").symlink_to(root)
    (tmp_path / "cat/none").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cat/self").symlink_to("self")  # which systems refuse to follow
    (root / "turns").symlink_to("turns")
    assert layout(root).classes == ["cat", "dog"]
    left_out = defaultdict(list)
    found = list(files(root / "cat", left_out))
    assert found == [root / "cat/1.png", root / "cat/more/3.png"]
    assert left_out == {
        "a link back to a folder above": [str(root / "cat/loop")],
        "a link to nothing, or not a file": [str(root / "cat/none"), str(root / "cat/self")],
    }
    assert len(quick_fingerprint([root])) == 32


@pytest.mark.parametrize("up", ["..", "../..", "../../..", "../../root", "../dog/more/../.."])
def test_links_to_folders_around_bring_no_images_of_other_classes(tmp_path, up):
    """A class with a link to the folder of all classes would hold the images of all."""
    root = tree(tmp_path / "root", "cat/1.png", "dog/1.png", "dog/more/2.png")
    (root / "cat/up").symlink_to(up)
    assert list(files(root / "cat")) == [root / "cat/1.png"]
    before = quick_fingerprint([root])
    tree(tmp_path, "beside/3.png")
    assert quick_fingerprint([root]) == before


SPLITS = ["train test", "TRAIN Val", "training VALIDATION test", "Training Testing"]


@pytest.mark.parametrize("names", SPLITS)
def test_parts_without_class_folders_are_no_classes(tmp_path, names):
    """A list elsewhere says their classes; as a data set of the classes train and test it would be
    nonsense, silently."""
    for name in names.split():
        tree(tmp_path, f"{name}/1.png", f"{name}/2.png")
    with pytest.raises(StError, match="called as parts of a split are, but hold images"):
        layout(tmp_path)


def test_one_class_may_be_called_as_a_part_is(tmp_path):
    tree(tmp_path, "train/1.png", "bus/1.png")
    assert layout(tmp_path).classes == ["bus", "train"]


@pytest.mark.parametrize("name", [
        b"a\nb", b"a\tb", b"\xff", b"a\x7f",
        *(name.encode() for name in ("a\u2028b", "a\u2029b", "c\u202ed", "c\u2067d", "\ufeffx")),
    ],
)  # fmt: skip
def test_names_of_classes_are_text_in_one_line(tmp_path, name):
    tree(tmp_path, "cat/1.png")
    os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    with pytest.raises(StError, match="must be text in one line") as caught:
        layout(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "-lead",
        "k=v",
        "my cat's",
        "猫 é",
        "a{b}",
        "$HOME",
        "#1",
        " x ",
        "a\u200cb",
        "👩\u200d🔬",
    ],
)
def test_other_names_of_classes_are_taken(tmp_path, name):
    tree(tmp_path, "cat/1.png", f"{name}/1.png")
    assert set(layout(tmp_path).classes) == {"cat", name}


def test_names_that_look_alike_are_told(tmp_path):
    assert alike(["cat", "Cat", "dog", "\xe9", "e\u0301"]) == ["'cat', 'Cat'", r"'\xe9', 'e\u0301'"]
    assert alike(["cat", "cats", "e"]) == []
    assert alike([" a", "a ", "b c", "bc", "d"]) == ["' a', 'a '", "'b c', 'bc'"]
    tree(tmp_path, "train/Cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png")
    with pytest.raises(StError, match=r"the same but for case.*'Cat', 'cat'"):
        layout(tmp_path)


def test_what_cannot_be_listed_is_named(tmp_path, monkeypatch):
    tree(tmp_path, "cat/1.png", "dog/in/1.png", "dog/1.png")
    listed = os.scandir

    def refused(path):
        if str(path).endswith("in"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refused)  # also root would be refused
    for listing in (lambda: list(files(tmp_path / "dog")), lambda: quick_fingerprint([tmp_path])):
        with pytest.raises(StError, match=r"dog/in: cannot be read \(Permission denied\); fix"):
            listing()


def test_images_without_class_folders_are_advised(tmp_path):
    refused(tree(tmp_path, "1.png", "2.png"), "has 0; put the images of each class into a folder")


@pytest.mark.parametrize("root", ["", " "])
def test_no_name_is_no_folder(root):
    with pytest.raises(StError, match="option 'root' is empty; name a folder"):
        layout(root)


def test_home_folders_that_are_none():
    for root in ("~nobody-of-this-name", "~nobody-of-this-name/x"):
        with pytest.raises(StError, match=f"{root}: there is no such home folder"):
            layout(root)
    assert expanded("~/x") == Path.home() / "x"


def test_fingerprints_of_names_that_are_no_text(tmp_path):
    found = set()
    for name in (b"\xff", b"\xfe", b"?"):
        root = os.fsencode(tmp_path) + b"/" + name.hex().encode()
        os.mkdir(root)
        with open(root + b"/" + name, "w"):
            pass
        os.utime(root + b"/" + name, (1, 1))
        found |= {quick_fingerprint([Path(os.fsdecode(root))])}
    assert len(found) == 3


CHANGES = {
    "added": lambda root: tree(root, "cat/9.png"),
    "removed": lambda root: (root / "cat/1.png").unlink(),
    "renamed": lambda root: (root / "cat/1.png").rename(root / "cat/0.png"),
    "moved": lambda root: (root / "cat/1.png").rename(root / "dog/9.png"),
    "a class": lambda root: tree(root, "cow/1.png"),
    "an empty class": lambda root: (root / "cow").mkdir(),
    "a class of hidden files": lambda root: tree(root, "cow/.DS_Store"),
    "emptied": lambda root: ((root / "cat/1.png").unlink(), (root / "cat").rmdir()),
    "replaced": lambda root: (root / "cat/1.png").write_text("other"),
    "within a link": lambda root: (root / "linked/1.png").write_text("another"),
}


@pytest.fixture
def root(tmp_path):
    root = tree(tmp_path / "root", "cat/1.png", "dog/1.png")
    (root / "linked").symlink_to(tree(tmp_path / "other", "1.png"))
    return root


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", [quick_fingerprint, full_fingerprint])
def test_fingerprints_notice(root, kind, change):
    before = kind([root])
    assert kind([root]) == before
    change(root)
    assert kind([root]) != before


def test_what_fingerprints_leave_alone(root, tmp_path):
    quick, full = quick_fingerprint([root]), full_fingerprint([root])
    tree(root, "cat/.DS_Store")
    assert (quick_fingerprint([root]), full_fingerprint([root])) == (quick, full)
    os.utime(root / "cat/1.png", (1, 1))
    assert quick_fingerprint([root]) != quick and full_fingerprint([root]) == full
    # a change that keeps size and date is seen in the contents only
    quick = quick_fingerprint([root])
    (root / "cat/1.png").write_text("CAT/1.PNG")
    os.utime(root / "cat/1.png", (1, 1))
    assert quick_fingerprint([root]) == quick and full_fingerprint([root]) != full
    assert quick_fingerprint([tmp_path / "none"]) == full_fingerprint([tmp_path / "none"]) == ""
