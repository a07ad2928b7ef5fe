"""Training images that are stored larger than networks see them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.images import stripes
from helpers.training import ALL, JOB, a_run, a_teacher, run, run_interrupted, trained
from torch.nn.functional import pad

from st.core.errors import StError
from st.core.registry import criteria
from st.data.augment import Augment, Jitter, ResizedCrop
from st.data.dataset import Data, load_data, save_data
from st.data.images import Images
from st.networks.checkpoint import load_model
from st.pruning.criteria import Subject
from st.pruning.selection import Budget
from st.training.loop import Step

FULL = Augment(
    flip=True, resized_crop=ResizedCrop(scale=[0.5, 1.0]), jitter=Jitter(brightness=0.4, contrast=1)
)
PARAMS = FULL.model_dump()


def larger(border: int = 2, **options) -> Data:
    """Stripes with a frame around the training images, normalised as without."""
    data = stripes(**options)
    data = replace(data, normalisation=tuple(values.tolist() for values in data.statistics()))
    frame = pad(torch.from_numpy(data.train_images), (border,) * 4, value=255)
    return replace(data, train_images=frame.numpy())


def with_larger(augment: Augment, **arguments):
    training = a_run(augment=augment, **arguments)
    training.images = Images(larger(), training.device)
    return training


@pytest.fixture
def place(tmp_path):
    save_data(tmp_path / "data", larger(), {})
    return tmp_path


def test_larger_training_images_are_kept_as_they_are(place):
    data, _ = load_data(place / "data")
    assert data.train_images.shape == (40, 1, 12, 12) and data.input_shape == (1, 8, 8)
    for shape in ((40, 1, 7, 12), (40, 1, 12, 7), (40, 3, 12, 12)):
        other = replace(data, train_images=np.zeros(shape, dtype=np.uint8))
        save_data(place / "other", replace(other, normalisation=None), {})
        with pytest.raises(StError, match="do not fit together"):
            load_data(place / "other")


def test_without_augmentation_the_centre_is_seen():
    """So that nothing else changes: the same training as of images without a frame."""
    framed, plain = trained(with_larger(Augment())), trained(a_run())
    for one, other in zip(framed.weights, plain.weights, strict=True):
        assert torch.equal(one, other)


def test_they_are_learned_and_taught():
    one = trained(with_larger(FULL, epochs=8, lr=0.1, objective=ALL, teacher=a_teacher()))
    assert one.history[-1]["loss"] < one.history[0]["loss"]
    again = trained(with_larger(FULL, epochs=8, lr=0.1, objective=ALL, teacher=a_teacher()))
    assert one.history == again.history


def test_the_teacher_sees_the_students_batch():
    run = with_larger(FULL, objective=ALL, teacher=a_teacher())
    step, seen = Step(run, batch_size=8, steps=5), {}
    step.begin(0)
    for name, network in (("student", run.network), ("teacher", step.teacher.network)):
        network.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    step()
    assert seen["student"].shape == (8, 1, 8, 8)
    assert torch.equal(seen["student"], seen["teacher"])


def test_an_interrupted_training_resumes_exactly(place, monkeypatch):
    job = {**JOB, "augment": PARAMS}
    whole = run(place / "whole", job)
    run_interrupted(monkeypatch, place / "again", job, 3)
    assert run(place / "again", job) == whole
    other = run(place / "other", {**job, "augment": {**PARAMS, "flip": False}})
    assert other["history"] != whole["history"]


def test_channels_that_the_images_have_not(place):
    for augment, words in (
        ({"jitter": {"hue": 0.1}}, "augment.jitter.hue: has no effect on gray images"),
        ({"jitter": {"saturation": 0.1}}, "augment.jitter.saturation: has no effect"),
    ):
        with pytest.raises(StError, match=words):
            run(place / "model", {**JOB, "augment": augment})
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 4, 8, 8)).astype(np.uint8)
    labels = np.arange(12) % 3
    save_data(place / "data", Data(images, labels, images, labels, list("abc")), {})
    with pytest.raises(StError, match="needs RGB or gray images, not 4 channels"):
        run(place / "model", {**JOB, "augment": {"jitter": {"contrast": 0.1}}})
    assert not (place / "model" / "model").exists()


@pytest.mark.parametrize("name, options", [("taylor", {"images": 30}), ("tas", {"epochs": 1})])
def test_searches_see_the_centre(place, name, options):
    run(place / "supernet", {**JOB, "options": {"layers": [8, "M", 8]}})
    model = load_model(place / "supernet" / "model")
    save_data(place / "plain", stripes(), {})
    found = []
    for data in ("data", "plain"):
        subject = Subject(
            model.structure, model.tensors, Budget(None, 0.5), 3, place / data, "cpu", threads=1
        )
        options = criteria.check(name, {**options})
        if name == "tas":
            options |= {"crop": 0}
        found.append(criteria.get(name)(subject, **options))
    one, other = found
    if name == "tas":
        assert one.to_json() == other.to_json()
    else:
        for group, scores in one.items():
            np.testing.assert_array_equal(scores, other[group])


def test_holding_out_needs_to_know_how_they_look_as_test_images():
    with pytest.raises(StError, match="'holdout' needs training images of the test images' size"):
        larger().holdout(0.2)
    assert len(stripes().holdout(0.2).test_labels) == 9
