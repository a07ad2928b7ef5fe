"""Mixup and cutmix: what is drawn, what networks see, and how it is learned."""

import numpy as np
import pytest
import torch
from helpers.images import stripes
from helpers.training import ALL, CE, JOB, a_run, a_teacher, run, run_interrupted, trained
from torch.nn import functional as F

from st.data import views
from st.data.augment import ENDLESS, Augment, ResizedCrop
from st.data.dataset import save_data
from st.data.views import mixed, mixed_labels
from st.training.loop import Step

SIZE = (8, 12)
KINDS = [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}]


def by_hand(images, others, row):
    """Pixel by pixel."""
    top, bottom, left, right, outside, _ = row
    result = np.empty(images.shape)
    for down in range(images.shape[2]):
        for across in range(images.shape[3]):
            inside = top <= down < bottom and left <= across < right
            share = 0 if inside else outside
            result[:, :, down, across] = (
                share * images[:, :, down, across] + (1 - share) * others[:, :, down, across]
            )
    return result


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "-".join(kinds))
def test_pixels_and_labels_are_mixed_by_the_same_share(kinds):
    rows = Augment(**kinds).mixing(200, 0, 0, SIZE)
    assert rows.shape == (200, 6) and len(set(rows[:, 5].tolist())) > 20
    white, black = torch.full((1, 3, *SIZE), 255, dtype=torch.uint8), torch.zeros(1, 3, *SIZE)
    for row in rows:
        seen = mixed(white, black, row)
        assert seen.mean().item() / 255 == pytest.approx(row[5].item(), abs=1e-5)
        whole = set((seen / 255).unique().tolist()) <= {0.0, 1.0}
        assert whole or "mixup" in kinds
    rng = np.random.default_rng(0)
    images, others = rng.integers(0, 256, (2, 4, 3, *SIZE))
    for row in rows[:20]:
        seen = mixed(torch.from_numpy(images), torch.from_numpy(others), row)
        np.testing.assert_allclose(seen, by_hand(images, others, row.tolist()), atol=1e-3)
        labels = mixed_labels(torch.tensor([0, 1]), torch.tensor([2, 1]), 3, row)
        share = row[5].item()
        np.testing.assert_allclose(labels, [[share, 0, 1 - share], [0, 1, 0]], atol=1e-6)


def test_shares_are_beta_distributed():
    rows = Augment(mixup=0.3).mixing(4000, 0, 0, SIZE)
    expected = np.sort(np.random.default_rng(1).beta(0.3, 0.3, 4000))
    found = np.sort(rows[:, 5].numpy())
    assert np.abs(np.searchsorted(found, expected) / 4000 - np.arange(4000) / 4000).max() < 0.04
    # half of the batches each
    both = Augment(mixup=1, cutmix=1).mixing(4000, 0, 0, SIZE)
    assert 0.45 < (both[:, 4] == 1).float().mean() < 0.55


def test_boxes_are_torchvisions():
    """As v2.CutMix makes them of a share and a centre, here of all centres."""
    rows = Augment(cutmix=1.0).mixing(3000, 0, 0, SIZE)
    height, width = SIZE
    boxes = {tuple(int(n) for n in row[:4]) for row in rows}
    possible = set()
    for share in np.linspace(0, 1, 2001):
        half = 0.5 * np.sqrt(1 - share)
        tall, wide = int(half * height), int(half * width)
        for y in range(height):
            for x in range(width):
                down = (max(0, y - tall), min(height, y + tall))
                possible.add((*down, max(0, x - wide), min(width, x + wide)))
    assert boxes <= possible and len(boxes) > len(possible) / 3


@pytest.mark.parametrize("strength", [5e-324, 1e-300, 1e-3, 10])
def test_extreme_strengths(strength):
    for kind in ("mixup", "cutmix"):
        rows = Augment(**{kind: strength}).mixing(50, 0, 0, SIZE)
        assert rows.isfinite().all() and rows[:, 5].min() >= 0 and rows[:, 5].max() <= 1


def test_draws_depend_on_seed_and_epoch_alone():
    augment = Augment(mixup=0.2, cutmix=1)
    assert augment.views == ENDLESS
    first = augment.mixing(30, 3, 7, SIZE)
    assert torch.equal(first, augment.mixing(30, 3, 7, SIZE))
    assert not torch.equal(first, augment.mixing(30, 3, 8, SIZE))
    assert not torch.equal(first, augment.mixing(30, 4, 7, SIZE))


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "-".join(kinds))
def test_a_batch_as_both_networks_see_it(kinds):
    """Each image with its neighbour, each in its own view; labels likewise."""
    augment = Augment(crop=1, flip=True, **kinds)
    run = a_run(objective=ALL, teacher=a_teacher(), augment=augment, label_smoothing=0.1)
    step, seen = Step(run, batch_size=8, steps=5), {}
    step.begin(0)
    for name, network in (("student", run.network), ("teacher", step.teacher.network)):
        network.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    kept = {}
    call = type(run.objective).__call__

    def noted(self, student, teacher, labels):
        kept.update(student=student["logits"].detach(), labels=labels)
        kept["terms"] = call(self, student, teacher, labels)
        return kept["terms"]

    run.objective.__class__ = type("Noted", (type(run.objective),), {"__call__": noted})
    views, rows = augment.draw(40, 0, 0), augment.mixing(5, 0, 0, (8, 8))
    images = run.images
    shown = augment.apply(images.train_images[:], views)
    for number in range(3):
        step()
        index = step._order[number]
        others = torch.tensor([index[-1], *index[:-1]])
        expected = by_hand(shown[index].numpy(), shown[others].numpy(), rows[number].tolist())
        expected = images.normalise(torch.from_numpy(expected))
        torch.testing.assert_close(seen["student"], expected.float(), rtol=1e-4, atol=1e-4)
        assert torch.equal(seen["student"], seen["teacher"])
        share, labels = rows[number, 5], images.train_labels
        ce = [
            F.cross_entropy(kept["student"], labels[part], label_smoothing=0.1)
            for part in (index, others)
        ]
        torch.testing.assert_close(kept["terms"]["ce"], share * ce[0] + (1 - share) * ce[1])
    step()
    assert 0 <= step.means()["train_accuracy"] <= 100


def test_an_interrupted_training_resumes_exactly(tmp_path, monkeypatch):
    save_data(tmp_path / "data", stripes(), {})
    job = {**JOB, "augment": {"crop": 1, "mixup": 0.2, "cutmix": 1.0}}
    whole = run(tmp_path / "whole", job)
    run_interrupted(monkeypatch, tmp_path / "again", job, 2)
    assert run(tmp_path / "again", job) == whole


@pytest.mark.parametrize("objective", [CE, ALL])
def test_it_is_learned(objective):
    teacher = a_teacher() if objective is ALL else None
    found = trained(
        a_run(
            epochs=25, lr=0.1, objective=objective, teacher=teacher, test_every=1,
            augment=Augment(mixup=0.2, cutmix=0.5),
        )
    )  # fmt: skip
    assert found.history[-1]["loss"] < found.history[0]["loss"]
    if objective is CE:
        assert found.history[-1]["test_accuracy"] > 90


def test_a_step_never_waits_for_the_device(monkeypatch):
    def asked(*arguments):
        raise AssertionError("a step asks for a tensor's value")

    augment = Augment(resized_crop=ResizedCrop(), flip=True, mixup=0.2, cutmix=1)
    run = a_run(epochs=1, objective=ALL, teacher=a_teacher(), augment=augment, optimiser="adamw")
    step = Step(run, batch_size=8, steps=5)
    step.begin(0)
    monkeypatch.setattr(views, "one_by_one", lambda images: False)  # as on a GPU
    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, asked)
    made = []
    monkeypatch.setattr(torch, "tensor", lambda *values, **options: made.append(values))
    step()
    assert not made
