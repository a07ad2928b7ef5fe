"""Trainings on images that loader processes read ahead: the same as on images in memory."""

import gc
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from helpers.images import stripes, write_folder
from helpers.project import wait_until
from helpers.training import ALL, JOB, a_run, a_teacher, run, run_interrupted, trained

from st.core.errors import StError
from st.core.registry import criteria, datasets
from st.data import images as placing
from st.data.augment import Augment, Jitter, ResizedCrop
from st.data.dataset import load_data
from st.data.images import Images, Resident, Streamed
from st.data.loading import Loader, Request, workers
from st.networks.checkpoint import load_model
from st.phases import prepare
from st.pruning.criteria import Subject
from st.pruning.selection import Budget
from st.training.accuracy import predictions
from st.training.loop import Step

pytestmark = pytest.mark.slow

SIZES = {"size": 8, "train_size": 10, "test_resize": 9, "grayscale": True}
FULL = Augment(
    flip=True, resized_crop=ResizedCrop(scale=[0.5, 1.0]), jitter=Jitter(brightness=0.4, contrast=1)
)
AUGMENTS = {
    "none": Augment(),
    "crop": Augment(crop=1, flip=True),
    "resized": Augment(resized_crop=ResizedCrop(scale=[0.5, 1.0]), flip=True),
    "endless": FULL,
    "mixed": Augment(crop=1, mixup=0.2, cutmix=1.0),
    "mixed and endless": FULL.model_copy(update={"mixup": 0.2}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The same PNG files in both stores: pixels/data and jpeg/data."""
    place = tmp_path_factory.mktemp("streamed")
    root = write_folder(place / "images", stripes(side=12))
    for store in ("pixels", "jpeg"):
        options = datasets.check("imagefolder", {"root": str(root), "store": store, **SIZES})
        job = {"source": "imagefolder", "options": options, "holdout": None}
        prepare.run(job, place / store / "data", 1)
    return place


@pytest.fixture(autouse=True)
def readers():
    """Processes that this test began. What tests catch keeps its frames, and they their loaders."""
    before = set(psutil.Process().children())  # other tests of this process may have left some
    yield lambda: [p for p in set(psutil.Process().children()) - before if _runs(p.pid)]
    gc.collect()


def a_training(place, store, augment, **arguments):
    found = a_run(augment=augment, **arguments)
    found.images = Images(load_data(place / store / "data")[0], found.device)
    kind = Streamed if store == "jpeg" else Resident
    assert isinstance(found.images.train_images, kind)
    return found


@pytest.mark.parametrize("name", AUGMENTS)
def test_every_batch_is_the_same(place, name):
    """As student and teacher see it, in every epoch and step."""
    seen = {}
    for store in ("pixels", "jpeg"):
        training = a_training(place, store, AUGMENTS[name], objective=ALL, teacher=a_teacher())
        step, batches = Step(training, batch_size=8, steps=5), []
        for network in (training.network, step.teacher.network):
            network.register_forward_pre_hook(lambda _, given, kept=batches: kept.append(given[0]))
        for epoch in range(2):
            step.begin(epoch)
            for _ in range(5):
                step.fetch()
                step()
        seen[store] = batches
    assert len(seen["pixels"]) in (10, 20)  # a teacher's outputs may be kept
    for one, other in zip(seen["pixels"], seen["jpeg"], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["crop", "mixed and endless"])
def test_whole_trainings_end_in_the_same_bytes(place, readers, name):
    job = {**JOB, "augment": AUGMENTS[name].model_dump()}
    assert run(place / "pixels" / name, job) == run(place / "jpeg" / name, job)
    assert not readers()  # nobody reads any more


def test_a_taught_training_is_the_same(place):
    """With outputs that are kept, and without."""
    for augment in (Augment(flip=True), FULL):
        one, other = (
            trained(a_training(place, store, augment, epochs=4, objective=ALL, teacher=a_teacher()))
            for store in ("pixels", "jpeg")
        )
        assert one.history == other.history


@pytest.mark.parametrize("name, options", [("taylor", {"images": 30}), ("tas", {"epochs": 2})])
def test_searches_are_the_same(place, name, options):
    run(place / "pixels" / "supernet", {**JOB, "options": {"layers": [8, "M", 8]}})
    model = load_model(place / "pixels" / "supernet" / "model")
    found = []
    for store in ("pixels", "jpeg"):
        subject = Subject(
            model.structure, model.tensors, Budget(None, 0.5), 3, place / store / "data", "cpu", 1
        )
        found.append(criteria.get(name)(subject, **criteria.check(name, {**options})))
    one, other = found
    if name == "tas":
        assert one.to_json() == other.to_json()
    else:
        for group, scores in one.items():
            np.testing.assert_array_equal(scores, other[group])


def test_interrupted_at_the_end_of_an_epoch(place, readers, monkeypatch):
    job = {**JOB, "augment": FULL.model_dump()}
    whole = run(place / "jpeg" / "whole", job)
    run_interrupted(monkeypatch, place / "jpeg" / "stopped", job, 2)
    assert not readers()
    assert run(place / "jpeg" / "stopped", job) == whole


def _killed_in(epoch, steps, folder, job):
    fetch, calls = Step.fetch, []

    def counted(self):
        fetch(self)
        calls.append(1)
        if len(calls) == epoch * self.steps + steps:
            numbers = [str(process.pid) for process in psutil.Process().children()]
            assert numbers
            folder.with_name(folder.name.replace("killed", "readers")).write_text(" ".join(numbers))
            os.kill(os.getpid(), signal.SIGKILL)

    Step.fetch = counted
    run(folder, job)


@pytest.mark.parametrize("steps", [1, 3])
def test_killed_in_the_middle_of_an_epoch(place, steps, monkeypatch):
    """With batches that were read ahead and never used; the processes that read them go too."""
    job = {**JOB, "augment": FULL.model_dump()}
    whole = run(place / "jpeg" / f"whole{steps}", job)
    folder = place / "jpeg" / f"killed{steps}"
    monkeypatch.setattr("st.training.resume.INTERVAL", 0.0)
    process = multiprocessing.get_context("fork").Process(
        target=_killed_in, args=(2, steps, folder, job)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [f.name for f in folder.iterdir()] == ["resume.safetensors"]
    assert run(folder, job) == whole
    for number in (folder.parent / f"readers{steps}").read_text().split():
        wait_until(lambda number=number: not _runs(int(number)))


def _runs(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_images_that_do_not_fit_on_the_device_are_streamed_from_memory(place, monkeypatch):
    data, _ = load_data(place / "pixels" / "data")
    plain = trained(a_training(place, "pixels", FULL))
    monkeypatch.setattr(placing, "room", lambda device: 0)
    other = a_run(augment=FULL)
    other.images = Images(data, other.device)
    assert isinstance(other.images.train_images, Streamed)
    assert trained(other).history == plain.history
    found = [predictions(r.network, r.images, r.device) for r in (plain, other)]
    assert torch.equal(*found)


def test_as_on_a_gpu_the_views_are_made_where_the_network_is(place, monkeypatch):
    """Processes then only decode, and the batch of each step lies in the same memory."""

    class Gpu(type(a_run().device)):
        is_cuda = property(lambda self: True)

    plain = trained(a_training(place, "pixels", FULL))
    training = a_run(augment=FULL)
    images = Images(load_data(place / "jpeg" / "data")[0], training.device)
    for part in (images.train_images, images.test_images):
        part._device = Gpu("cpu")
    training.images, step = images, Step(training, batch_size=8, steps=5)
    step.run.device = Gpu("cpu")
    where = set()
    for epoch in range(2):
        step.begin(epoch)
        for _ in range(5):
            step.fetch()
            where.add(step._batch.data_ptr())
            with monkeypatch.context() as patch:
                patch.setattr(Gpu, "is_cuda", False)
                step()
    assert len(where) == 1
    for one, other in zip(plain.weights, training.weights, strict=True):
        assert torch.equal(one, other)


def test_both_stores_are_as_accurate_with_jpeg_files(tmp_path):
    """Where the stores differ by what JPEG loses; over three seeds, within noise."""
    data, three = stripes(90), np.ones((3, 3), np.uint8)
    larger = [np.kron(part, three) for part in (data.train_images, data.test_images)]
    data = replace(data, train_images=larger[0], test_images=larger[1])
    root, accuracy = write_folder(tmp_path / "images", data, "jpg", quality=90), {}
    for store in ("pixels", "jpeg"):
        options = {"root": str(root), "store": store, "size": 8, "grayscale": True}
        options = datasets.check("imagefolder", options)
        job = {"source": "imagefolder", "options": options, "holdout": None}
        prepare.run(job, tmp_path / store / "data", 1)
        found = []
        for seed in range(3):
            training = a_training(tmp_path, store, AUGMENTS["crop"], epochs=12, seed=seed, lr=0.1)
            found.append(trained(training).history[-1]["test_accuracy"])
        accuracy[store] = np.array(found)
    assert accuracy["pixels"].mean() > 80
    difference = accuracy["jpeg"] - accuracy["pixels"]
    assert abs(difference.mean()) <= 5, accuracy
    pixels = [load_data(tmp_path / store / "data")[0].train_images[:] for store in accuracy]
    assert 0 < np.abs(pixels[0].astype(int) - pixels[1]).mean() < 3


# The processes.


def loader(place, count=2):
    data, _ = load_data(place / "jpeg" / "data")
    parts = (data.train_images, data.test_images)
    return Loader(parts, count, False), [
        Request(0, np.arange(40)[start : start + 8]) for start in range(0, 40, 8)
    ]


def test_signals_to_stop_are_not_for_them(place, readers):
    """A terminal or a cluster sends them to all processes of a job."""
    found, requests = loader(place)
    batches = found.batches(requests)
    first = next(batches)
    for process in readers():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGURG):
            process.send_signal(number)
    time.sleep(0.2)
    assert len([first, *batches]) == 5 and len(readers()) == 2
    del found, batches
    wait_until(lambda: not readers())


def test_one_pass_may_be_left_for_another(place, readers):
    found, requests = loader(place)
    expected = [batch.clone() for batch in found.batches(requests)]
    next(found.batches(requests))
    again = list(found.batches(requests[::-1]))
    for one, other in zip(expected, again[::-1], strict=True):
        assert torch.equal(one, other)
    assert len(readers()) == 2  # still the same


def test_the_number_of_processes_changes_nothing(place):
    counts = [[b.clone() for b in loader(place, n)[0].batches(loader(place)[1])] for n in (1, 2)]
    for one, other in zip(*counts, strict=True):
        assert torch.equal(one, other)


def test_global_random_numbers_are_left_alone(place):
    before = torch.random.get_rng_state()
    found, requests = loader(place)
    list(found.batches(requests))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_their_errors_are_one_line(place):
    data, _ = load_data(place / "jpeg" / "data")
    broken = data.train_images.chosen(slice(None))
    broken.places = broken.places.copy()
    broken.places[9, 3] += 1
    found = Loader((broken, data.test_images), 2, False)
    with pytest.raises(StError, match="image 9 is not what was written") as caught:
        list(found.batches(loader(place)[1]))
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # torch looks every five seconds
def test_one_that_is_killed_is_an_error_of_one_line(place, readers):
    found, requests = loader(place)
    with pytest.raises(StError, match=r"a process that reads images was ended.*run it again"):
        for number, _ in enumerate(found.batches(requests * 40)):
            if number == 0:
                readers()[0].kill()


def test_one_that_is_killed_does_not_interrupt_what_goes_on(place, readers, monkeypatch):
    """Nor does it keep the others alive, whatever they wait for."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    before = signal.getsignal(signal.SIGCHLD)
    found, requests = loader(place)
    batches = found.batches(requests)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before
    killed, stuck = readers()
    killed.kill()
    stuck.suspend()
    found.close()
    wait_until(lambda: not readers())


def test_little_shared_memory(place, monkeypatch):
    """As in containers: fewer batches are ready, or the error says what there should be."""
    made = shutil.disk_usage(place)
    for free, ahead in ((2**30, 4), (2 * 2 * 8 * 100 * 3, 3), (2 * 2 * 8 * 100, 1)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: made._replace(free=free))
        found, requests = loader(place)
        assert found._ahead(requests) == ahead
    assert len(list(found.batches(requests))) == 5
    monkeypatch.setattr(shutil, "disk_usage", lambda _: made._replace(free=2 * 2 * 8 * 100 - 1))
    with pytest.raises(StError, match=r"/dev/shm: has 0 MiB free.*--shm-size"):
        next(loader(place)[0].batches(requests))


def test_how_many_there_are(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    assert workers(1) == 1 and workers(1000) == cores
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers(1000) == max(1, cores // 4)


def test_processes_share_a_batch(place):
    """Each reads its own part, with mixing also the image before it."""
    for augment in (FULL, AUGMENTS["mixed"]):
        plain = a_training(place, "jpeg", augment)
        step = Step(plain, batch_size=8, steps=5)
        step.begin(0)
        step.fetch()
        whole, parts = step._batch, []
        for part in (slice(0, 3), slice(3, 6), slice(6, 8)):
            own = Step(plain, batch_size=8, steps=5)
            own._part = part
            own.begin(0)
            own.fetch()
            parts.append(own._batch if own._mixing is None else own._batch[1:])
            if own._mixing is not None:
                before = (part.start - 1) % 8
                assert torch.equal(own._batch[0], whole[1:][before])
        assert torch.equal(torch.cat(parts), whole if step._mixing is None else whole[1:])
