"""Losses, against their definitions computed in plain numpy, sample by sample."""

from math import exp, factorial, log

import numpy as np
import pytest
import torch

from st.core.errors import StError
from st.core.registry import losses
from st.training.objective import Objective
from st.training.recipe import Training

NAMES = ["ce", "kd", "cc"]  # the others: test_distillation.py
SHAPES = [(2, 2), (5, 10), (17, 100)]  # batch, classes


def outputs(batch, classes, width, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {"logits": 3 * normal(batch, classes), "features": normal(batch, width).relu()}


@pytest.fixture(params=SHAPES, ids=str)
def case(request):
    """(student's outputs, teacher's, labels); the teacher is wider."""
    batch, classes = request.param
    labels = torch.arange(batch) % classes
    return outputs(batch, classes, 7, seed=0), outputs(batch, classes, 31, seed=1), labels


def softmax(row, temperature=1.0):
    powers = [exp(x / temperature) for x in row]
    return [power / sum(powers) for power in powers]


def numpy_ce(student, labels):
    rows = zip(student["logits"].tolist(), labels.tolist(), strict=True)
    return np.mean([-np.log(softmax(row)[label]) for row, label in rows])


def numpy_kd(student, teacher, temperature):
    divergences = []
    for s, t in zip(student["logits"].tolist(), teacher["logits"].tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        divergences.append(sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True)))
    return temperature**2 * np.mean(divergences)


def numpy_cc(student, teacher, gamma, order):
    def kernel(x, y):
        dot = x @ y / (max(np.linalg.norm(x), 1e-12) * max(np.linalg.norm(y), 1e-12))
        powers = range(order + 1)
        return sum(exp(-2 * gamma) * (2 * gamma) ** p / factorial(p) * dot**p for p in powers)

    fs, ft = student["features"].numpy(), teacher["features"].numpy()
    n, total = len(fs), 0.0
    for i in range(n):
        for j in range(n):
            total += (kernel(ft[i], ft[j]) - kernel(fs[i], fs[j])) ** 2
    return total / n**2


def test_ce(case):
    student, _, labels = case
    loss = losses.get("ce")(student, None, labels)
    assert loss.item() == pytest.approx(numpy_ce(student, labels), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
def test_kd(case, temperature):
    student, teacher, labels = case
    loss = losses.get("kd")(student, teacher, labels, temperature=temperature)
    assert loss.item() == pytest.approx(numpy_kd(student, teacher, temperature), rel=1e-9)


@pytest.mark.parametrize("gamma, order", [(0.4, 2), (0.4, 1), (1.5, 4)])
def test_cc(case, gamma, order):
    student, teacher, labels = case
    loss = losses.get("cc")(student, teacher, labels, gamma=gamma, order=order)
    expected = numpy_cc(student, teacher, gamma, order)
    assert loss.item() == pytest.approx(expected, rel=1e-4)  # computed in float32


def test_defaults_are_the_papers():
    assert losses.check("kd", {}) == {"temperature": 4.0}
    assert losses.check("cc", {}) == {"gamma": 0.4, "order": 2}
    student, teacher = outputs(5, 10, 7, seed=0), outputs(5, 10, 31, seed=1)
    labels = torch.arange(5)
    kd, cc = (losses.get(name)(student, teacher, labels).item() for name in ("kd", "cc"))
    assert kd == pytest.approx(numpy_kd(student, teacher, 4), rel=1e-9)
    assert cc == pytest.approx(numpy_cc(student, teacher, 0.4, 2), rel=1e-4)


@pytest.mark.parametrize("name", ["kd", "cc"])
def test_nothing_is_lost_on_the_teacher_itself(case, name):
    _, teacher, labels = case
    student = {tap: value.clone().requires_grad_() for tap, value in teacher.items()}
    loss = losses.get(name)(student, teacher, labels)
    loss.backward()
    assert abs(loss.item()) < 1e-12
    for value in student.values():
        assert value.grad is None or value.grad.abs().max() < 1e-7
    assert losses.get(name)(case[0], teacher, labels) > 1e-4


def test_kd_ignores_shifts_and_cc_ignores_scales(case):
    student, teacher, labels = case
    moved = {"logits": student["logits"] + 5, "features": 3 * student["features"]}
    for name in ("kd", "cc", "ce"):
        loss = losses.get(name)
        before, after = loss(student, teacher, labels), loss(moved, teacher, labels)
        assert after.item() == pytest.approx(before.item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_batch_does_not_matter(case, name):
    student, teacher, labels = case
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    loss = losses.get(name)(student, teacher, labels)
    shuffled = losses.get(name)(
        {tap: value[order] for tap, value in student.items()},
        {tap: value[order] for tap, value in teacher.items()},
        labels[order],
    )
    assert shuffled.item() == pytest.approx(loss.item(), rel=1e-5)
    if losses.get(name).teacher and len(labels) > 2:  # but who is paired with whom does
        mixed = {tap: value[order] for tap, value in teacher.items()}
        assert losses.get(name)(student, mixed, labels).item() != pytest.approx(loss.item())


@pytest.mark.parametrize("name", NAMES)
def test_only_the_student_learns(case, name):
    student, teacher, labels = case
    student = {tap: value.clone().requires_grad_() for tap, value in student.items()}
    # as in training, where the teacher ran under no_grad
    loss = losses.get(name)(student, teacher, labels)
    loss.backward()
    taps = losses.get(name).taps
    assert all((value.grad is not None) == (tap in taps) for tap, value in student.items())
    assert all(student[tap].grad.abs().sum() > 0 for tap in taps)
    assert all(value.grad is None and not value.requires_grad for value in teacher.values())


@pytest.mark.parametrize("name", ["ce", "kd"])
def test_gradients(name):
    teacher, labels = outputs(4, 5, 3, seed=1), torch.arange(4)
    logits = outputs(4, 5, 3, seed=0)["logits"].requires_grad_()

    def loss(x):
        return losses.get(name)({"logits": x}, teacher, labels)

    assert torch.autograd.gradcheck(loss, (logits,))


def test_gradient_of_cc():
    """It computes in float32, so a finite difference must be a coarse one."""
    teacher, features = outputs(4, 5, 9, seed=1), outputs(4, 5, 3, seed=0)["features"] + 1
    features.requires_grad_()

    def loss(x):
        return losses.get("cc")({"features": x}, teacher, None)

    assert torch.autograd.gradcheck(loss, (features,), eps=1e-2, atol=1e-3, rtol=5e-2)


def test_features_of_zeros_give_finite_gradients():
    student = {"features": torch.zeros(3, 4, requires_grad=True)}
    loss = losses.get("cc")(student, {"features": torch.rand(3, 6)}, None)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student["features"].grad).all()


def test_an_objective_is_the_weighted_sum(case):
    student, teacher, labels = case
    spec = {
        "ce": {"weight": 0.1},
        "kd": {"weight": 0.9, "temperature": 2.0},
        "cc": {"weight": 0.02, "gamma": 0.4, "order": 2},
    }
    objective = Objective(spec)
    assert objective.teacher and objective.taps == ("features", "logits")
    terms = objective(student, teacher, labels)
    assert list(terms) == ["loss", "ce", "kd", "cc"]
    expected = [
        numpy_ce(student, labels), numpy_kd(student, teacher, 2), numpy_cc(student, teacher, 0.4, 2)
    ]  # fmt: skip
    assert [terms[n].item() for n in spec] == pytest.approx(expected, rel=1e-4)
    weights = [options["weight"] for options in spec.values()]
    assert terms["loss"].item() == pytest.approx(np.dot(weights, expected), rel=1e-4)
    alone = Objective({"ce": {"weight": 2.0}})
    assert not alone.teacher and alone.taps == ("logits",)
    assert alone(student, None, labels)["loss"] == 2 * terms["ce"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_labels_are_for_cross_entropy_alone(case, smoothing):
    student, teacher, labels = case
    spec = {name: {"weight": 1.0} for name in ("ce", "kd", "dkd")}
    smooth = Objective(spec, recipe=Training(label_smoothing=smoothing))(student, teacher, labels)
    plain = Objective(spec)(student, teacher, labels)
    classes = student["logits"].shape[1]
    expected = 0.0
    for row, label in zip(student["logits"].tolist(), labels.tolist(), strict=True):
        for number, probability in enumerate(softmax(row)):
            share = (1 - smoothing) * (number == label) + smoothing / classes
            expected -= share * log(probability) / len(labels)
    assert smooth["ce"].item() == pytest.approx(expected, rel=1e-6)
    assert smooth["kd"] == plain["kd"] and smooth["dkd"] == plain["dkd"]
    assert (smooth["ce"] == plain["ce"]) == (smoothing == 0)


def test_options_of_losses_are_checked():
    for name, options, words in [
        ("kd", {"temperature": 0}, "temperature"),
        ("kd", {"temprature": 4}, "did you mean 'temperature'"),
        ("cc", {"order": 0}, "order"),
        ("cc", {"order": 1.5}, "order"),
        ("kdd", {}, "did you mean 'kd'"),
    ]:
        with pytest.raises(StError, match=words):
            losses.check(name, options)
