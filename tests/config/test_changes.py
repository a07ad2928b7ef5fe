"""Changes of the files behind a data set."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.params import changed
from PIL import Image

from st.config import changes
from st.config.check import parse
from st.config.grid import Grid
from st.config.layout import DATA
from st.core import registry
from st.core.errors import StError
from st.data.dataset import load_data
from st.phases import prepare


@pytest.fixture
def place(tmp_path, monkeypatch, tiny):
    """A folder with images and params.yaml's data about them."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["cat", "dog"] * 6):
        path = tmp_path / "images" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * number, dtype=np.uint8)).save(path)
    options = {"root": "images", "size": 8, "grayscale": True, "test_fraction": 0.3}
    tiny["datasets"] = {"pets": {"source": "imagefolder", "options": options}}
    return tmp_path, tiny


def job(params: dict) -> dict:
    changes.fingerprint.cache_clear()  # as another process
    return Grid(parse(params)).prepare("pets")


def images(params: dict) -> dict:
    """What of the job decides whether it must run again."""
    found = job(params)
    found.pop("where", None)
    return found


def made(params: dict) -> dict:
    """The job, after it ran."""
    found = job(params)
    prepare.run(found, Path(DATA.format(dataset="pets")))
    return found


@pytest.mark.parametrize("compare", ["dates", "contents"])
def test_results_know_their_images_where_these_were_never_prepared(place, compare):
    root, params = place
    params["datasets"]["pets"]["compare"] = compare
    first = made(params)
    Path(DATA.format(dataset="pets")).unlink()  # stays where it was made
    assert job(params) == first
    for path in (root / "images").rglob("*.png"):  # a copy
        os.utime(path)
    assert job(params) == first
    (root / "images").rename(root / "elsewhere")
    assert job(params) == first
    (root / "elsewhere").rename(root / "images")
    Image.fromarray(np.full((8, 8), 7, dtype=np.uint8)).save(root / "images/cat/0.png")
    assert job(params) != first


def test_images_that_are_nowhere_are_told_before_any_job(place):
    root, params = place
    parse(params, images=True)
    made(params)
    (root / "images").rename(root / "elsewhere")
    parse(params, images=True)  # a machine that has the results only
    options = params["datasets"]["pets"]["options"]
    words = r"datasets\.pets\.options\.root: images is not there"
    with pytest.raises(StError, match=words):  # it would be prepared again
        parse(
            {**params, "datasets": changed(params["datasets"], "pets.options.size", 9)}, "p", True
        )
    options["size"] = 8
    shutil.rmtree("results/prepare")
    with pytest.raises(StError, match=words):
        parse(params, images=True)
    parse(params)  # what only reads the file
    metrics = Path("results/evaluate/pets/vgg/seed0/st/metrics.json")  # as brought from elsewhere
    metrics.parent.mkdir(parents=True)
    metrics.touch()
    parse(params, images=True)
    (root / "images").touch()
    with pytest.raises(StError, match=r"datasets\.pets: images: is not a folder"):
        parse(params)


@pytest.mark.parametrize("download", [False, True])
def test_images_that_would_be_downloaded(place, download):
    _, params = place
    options = {"download": download}
    params["datasets"] = {"pets": {"source": "mnist", "options": options}}
    if download:
        parse(params, images=True)
    else:
        with pytest.raises(StError, match=r"pets\.options\.root: data/MNIST/raw is not there"):
            parse(params, images=True)


@pytest.mark.parametrize("size", [8, None])
@pytest.mark.parametrize(
    "change, words",
    [
        ({"val": "test"}, "the option 'val' needs a folder val/ beside train/"),
        ({"test_fraction": None}, "give 'test_fraction', or sort the images into train/ and test/"),
    ],
)
def test_parts_that_are_not_there(place, size, change, words):
    _, params = place
    params["datasets"]["pets"]["options"] |= {"size": size, **change}
    with pytest.raises(StError, match=f"^params.yaml: datasets.pets: images: {words}$"):
        parse(params)


def test_sources_without_files_have_none(tiny):
    assert "fingerprint" not in Grid(parse(tiny)).prepare("digits")


@pytest.mark.parametrize("compare", ["dates", "contents"])
def test_the_same_images_are_the_same_job(place, compare, monkeypatch):
    root, params = place
    params["datasets"]["pets"]["compare"] = compare
    first = made(params)
    assert job(params) == first
    shutil.copytree(root / "images", root / "copy")  # with new dates
    shutil.rmtree(root / "images")
    assert job(params) == first  # a machine that has the results only
    (root / "copy").rename(root / "images")
    assert job(params) == first
    reads, read = [], changes.full_fingerprint
    monkeypatch.setattr(changes, "full_fingerprint", lambda p: reads.append(p) or read(p))
    assert job(params) == first
    assert len(reads) == (compare == "contents")  # dates: read once, then known


@pytest.mark.parametrize("compare", ["dates", "contents"])
@pytest.mark.parametrize("copied", [False, True])
def test_moved_images_are_the_same(place, compare, copied):
    root, params = place
    params["datasets"]["pets"]["compare"] = compare
    made(params)
    first = images(params)
    if copied:
        shutil.copytree(root / "images", root / "other")
    else:
        (root / "images").rename(root / "other")
    options = params["datasets"]["pets"]["options"]
    report, digest = Grid(parse(params)).report(), file_digest(DATA.format(dataset="pets"))
    for number, place in enumerate(("other/", str(root / "other"), "./other")):
        options["root"] = place
        assert images(params) == first and job(params)["where"] == {"root": place}
        parse(params, images=True)
        again = f"again{number}/data.safetensors"
        prepare.run(job(params), Path(again))  # reads where they are now
        assert file_digest(again) == digest
    assert Grid(parse(params)).report() == report
    (root / "other").rename(root / "unplugged")
    parse(params, images=True)  # they have been seen there
    assert images(params) == first
    options["root"] = "nowhere"  # not taken for a machine that has the results only
    with pytest.raises(StError, match="nowhere is not there"):
        parse(params, images=True)
    (root / "unplugged").rename(root / "other")
    options["root"] = "other"
    Image.fromarray(np.full((8, 8), 7, dtype=np.uint8)).save(root / "other/cat/0.png")
    assert images(params) != first


def file_digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_images_with_other_dates_are_prepared_to_the_same_bytes(place):
    root, params = place
    made(params)
    before = file_digest(DATA.format(dataset="pets"))
    for path in (root / "images").rglob("*.png"):
        os.utime(path)
    made(params)
    assert file_digest(DATA.format(dataset="pets")) == before


SOURCE = """
import numpy as np
from st.core.registry import datasets
from st.data.dataset import Data


@datasets.register
def mine_of_paths(*, folder: str) -> Data:
    labels = np.arange(8) % 2
    images = np.zeros((8, 1, 8, 8), np.uint8)
    return Data(images, labels, images, labels, ["a", "b"])


mine_of_paths.paths = lambda *, folder: RETURNED
mine_of_paths.where = "folder"
mine_of_paths.shape = lambda **options: ((1, 8, 8), 2)
"""


@pytest.mark.parametrize("number, returned", [*enumerate(["folder", "[folder]", "[Path(folder)]"])])
def test_plugins_name_their_places(place, number, returned, monkeypatch):
    """As texts too, as `glob` gives them; a place that never was is told."""
    root, params = place
    name = f"plugin_of_places_{number}"
    text = SOURCE.replace("RETURNED", returned).replace("mine_of_paths", f"mine_{number}")
    (root / f"{name}.py").write_text(f"from pathlib import Path\n{text}")
    options = {"folder": "images"}
    params |= {"plugins": [name]}
    monkeypatch.setattr(registry.datasets, "_entries", dict(registry.datasets._entries))
    params["datasets"] = {"pets": {"source": f"mine_{number}", "options": options}}
    parse(params, images=True)
    first = images(params)
    assert first["fingerprint"] and job(params)["where"] == options
    made(params)
    options["folder"] = "nowhere"
    with pytest.raises(StError, match="nowhere is not there"):
        parse(params, images=True)


def test_images_that_are_downloaded_later_are_the_same(tiny):
    tiny["datasets"] = {"pets": {"source": "mnist", "options": {"download": True}}}
    there = images(tiny)
    tiny["datasets"]["pets"]["options"] = {"root": "/elsewhere"}
    assert images(tiny) == there


def test_where_names_options_only(place, monkeypatch):
    _, params = place
    monkeypatch.setattr(registry.datasets.get("imagefolder"), "where", ("rot",))
    with pytest.raises(StError, match="`where` of the data set 'imagefolder' names 'rot'"):
        parse(params)


@pytest.mark.parametrize("compare", ["dates", "contents"])
def test_other_images_are_another_job(place, compare):
    root, params = place
    params["datasets"]["pets"]["compare"] = compare
    first = made(params)
    shutil.copy(root / "images/cat/0.png", root / "images/cat/99.png")
    second = job(params)
    assert second != first and job(params) == second
    prepare.run(second, Path(DATA.format(dataset="pets")))
    assert job(params) == second
    (root / "images/cat/99.png").unlink()
    assert job(params) != second


def test_another_way_to_compare_is_the_same_job(place):
    _, params = place
    for first, second in (("dates", "contents"), ("contents", "dates")):
        params["datasets"]["pets"]["compare"] = first
        before = made(params)
        params["datasets"]["pets"]["compare"] = second
        assert job(params) == before


def test_contents_are_compared_where_dates_lie(place):
    root, params = place
    path = root / "images/dog/11.png"
    first, status = made(params), path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert job(params) == first
    params["datasets"]["pets"]["compare"] = "contents"
    first = job(params)
    path.write_bytes(path.read_bytes()[::-1])
    assert job(params) != first


def test_a_damaged_note_is_no_obstacle(place):
    root, params = place
    first = made(params)
    os.utime(root / "images/cat/0.png")
    assert job(params) == first
    for text in ("", "[1]", "{"):
        changes.KNOWN.write_text(text)
        assert job(params) == first
    (root / DATA.format(dataset="pets")).write_bytes(b"x")
    assert job(params)["fingerprint"]


def test_a_stated_normalisation(place):
    _, params = place
    given = {"mean": [0.5], "std": [0.25]}
    made(params)
    before, digest = load_data(DATA.format(dataset="pets"))
    params["datasets"]["pets"]["normalisation"] = given
    made(params)
    data, other = load_data(DATA.format(dataset="pets"))
    assert [values.tolist() for values in data.statistics()] == [[127.5], [63.75]]
    assert other != digest  # trainings with another one do not resume
    assert before.statistics()[0] == pytest.approx(before.train_images.mean())
    params["datasets"]["pets"]["normalisation"] = {"mean": [0.5] * 3, "std": [0.25] * 3}
    with pytest.raises(StError, match=r"normalisation\.mean: has 3 values, .* 1 channels"):
        made(params)


def test_the_header_says_where_it_is_from(place):
    _, params = place
    found = made(params)
    about = changes._prepared(Path(DATA.format(dataset="pets")))
    assert about["fingerprint"] == found["fingerprint"] and json.dumps(about)


def test_the_report_says_what_was_evaluated(place):
    _, params = place
    pets = params["datasets"]["pets"]
    assert Grid(parse(params)).report()["datasets"] == {"pets": ""}
    pets["holdout"] = 0.2
    assert Grid(parse(params)).report()["datasets"] == {"pets": "held-out images"}
    pets["holdout"] = 0
    pets["options"] |= {"val": "holdout", "root": "elsewhere"}
    assert Grid(parse(params)).report()["datasets"] == {"pets": "val images"}
