"""The training loop, against torch's optimiser, written-out formulas, and itself."""

import numpy as np
import pytest
import torch
from helpers.training import ALL, CE, STRUCTURE, a_run, a_teacher, trained
from torch import nn

from st.core.errors import StError
from st.data.augment import Augment
from st.networks import network
from st.training.accuracy import accuracy, predictions
from st.training.loop import _add_sparsity, check_finite, fit
from st.training.optimiser import adam, descend
from st.training.recipe import Training, learning_rate
from st.training.teacher import Teacher


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_sgd_is_torchs(momentum, nesterov, weight_decay):
    run = a_run(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    copies = [nn.Parameter(weight.detach().clone()) for weight in run.weights]
    other = torch.optim.SGD(
        copies, lr=1.0, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        rate = 0.1 / (step + 1)
        for weight, copy in zip(run.weights, copies, strict=True):
            copy.grad = torch.randn(weight.shape, generator=generator)
            # in the weight's memory layout, as backward() makes gradients
            weight.grad = torch.empty_like(weight).copy_(copy.grad)
        for group in other.param_groups:
            group["lr"] = rate
        other.step()
        descend(run.weights, run.moments, run.recipe, rate)
        for weight, copy in zip(run.weights, copies, strict=True):
            torch.testing.assert_close(weight.detach(), copy.detach(), rtol=1e-6, atol=1e-7)
            assert weight.grad is None


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_adamw_is_torchs(weight_decay, as_tensor):
    run = a_run(optimiser="adamw", weight_decay=weight_decay)
    copies = [nn.Parameter(weight.detach().clone()) for weight in run.weights]
    other = torch.optim.AdamW(copies, lr=1.0, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        rate = 0.01 / (step + 1)
        for number, (weight, copy) in enumerate(zip(run.weights, copies, strict=True)):
            if number == 1:  # of a layer that no loss depends on
                continue
            copy.grad = torch.randn(weight.shape, generator=generator)
            weight.grad = torch.empty_like(weight).copy_(copy.grad)
        for group in other.param_groups:
            group["lr"] = rate
        other.step()
        # a step of the loop reads its rate from the device
        descend(run.weights, run.moments, run.recipe, torch.tensor([rate]) if as_tensor else rate)
        for weight, copy in zip(run.weights, copies, strict=True):
            torch.testing.assert_close(weight.detach(), copy.detach(), rtol=1e-5, atol=1e-6)
            assert weight.grad is None
    assert run.moments[-1] == 6 and len(run.moments) == 2 * len(run.weights) + 1


def test_sgd_keeps_what_it_kept():
    run = a_run()
    assert run.recipe.optimiser == "sgd" and len(run.moments) == len(run.weights)


@pytest.mark.parametrize("recipe", [{"optimiser": "adamw", "lr": 0.01}, {"label_smoothing": 0.2}])
def test_recipes_that_learn(recipe):
    run = trained(a_run(epochs=8, **recipe))
    assert run.history[-1]["train_accuracy"] > 90
    assert trained(a_run(epochs=8, **recipe)).history == run.history


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_torchs(weight_decay):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(4, 3, generator=generator)
    first, second = torch.zeros(2, 4, 3)
    copy = nn.Parameter(value.clone())
    other = torch.optim.Adam([copy], lr=0.01, betas=(0.5, 0.999), weight_decay=weight_decay)
    for step in range(1, 5):
        copy.grad = torch.randn(copy.shape, generator=generator)
        adam(value, copy.grad, first, second, step, 0.01, weight_decay)
        other.step()
    torch.testing.assert_close(value, copy.detach())


def test_a_whole_epoch_with_torchs_own_tools():
    """The loop, written again with torch.optim and a DataLoader's arithmetic."""
    run = a_run(epochs=1, momentum=0.9, weight_decay=1e-3, test_every=0)
    copy = network.build(STRUCTURE, network.tensors(run.network)).train()
    sgd = torch.optim.SGD(copy.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    order = torch.randperm(40, generator=run.generator("order", 0))
    pixels = run.images.train_images[:].double()
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    losses, correct = [], 0
    for index in order.split(8):
        batch = ((pixels[index] - mean) / deviation).float()
        logits = copy(batch)
        loss = nn.functional.cross_entropy(logits, run.images.train_labels[index])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
        correct += (logits.argmax(1) == run.images.train_labels[index]).sum().item()
    trained(run)
    for weight, other in zip(run.network.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-5)
    (row,) = run.history
    assert row["epoch"] == 1 and row["lr"] == 0.05
    assert row["ce"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert row["train_accuracy"] == pytest.approx(100 * correct / 40)
    found = copy.eval()((run.images.test_images[:].double() - mean).div(deviation).float()).argmax(
        1
    )
    expected = 100 * (found == run.images.test_labels).double().mean().item()
    predicted = predictions(run.network, run.images, run.device)
    assert predicted.equal(found)
    assert row["test_accuracy"] == accuracy(predicted, run.images.test_labels) == expected


def test_sparsity_adds_the_sign_of_every_scale():
    run = a_run(sparsity=0.25)
    norms = [m for m in run.network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert {type(m) for m in norms} == {network.BatchNorm1d, network.BatchNorm2d}
    assert len(norms) == 3
    generator = torch.Generator().manual_seed(1)
    before = {}
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(torch.randn(norm.weight.shape, generator=generator))
            norm.weight[0] = 0
    for weight in run.weights:
        weight.grad = torch.randn(weight.shape, generator=generator)
        before[weight] = weight.grad.clone()
    _add_sparsity(run)
    scales = {norm.weight for norm in norms}
    for weight in run.weights:
        change = 0.25 * weight.detach().sign() if weight in scales else 0
        torch.testing.assert_close(weight.grad, before[weight] + change)


def test_sparse_training_shrinks_scales():
    plain, sparse = trained(a_run(epochs=3)), trained(a_run(epochs=3, sparsity=0.3))
    total = [sum(s.abs().sum().item() for s in run.scales) for run in (plain, sparse)]
    assert total[1] < 0.8 * total[0]


def rates(schedule, *points, **options):
    recipe = Training(lr=0.8, schedule=schedule, **options)
    return [learning_rate(recipe, point) for point in points]


def test_schedules_at_known_points():
    assert rates("constant", 0, 0.5, 1) == [0.8] * 3
    steps = rates("step", 0, 0.49, 0.5, 0.74, 0.75, 1)
    assert steps == pytest.approx([0.8, 0.8, 0.08, 0.08, 0.008, 0.008])
    changed = rates("step", 0, 0.25, 0.9, milestones=[0.2, 0.3, 0.4], decay=0.5)
    assert changed == pytest.approx([0.8, 0.4, 0.1])
    assert rates("cosine", 0, 1 / 3, 0.5, 1) == pytest.approx([0.8, 0.6, 0.4, 0])
    cycle = rates("onecycle", 0, 0.15, 0.3, 0.65, 1)
    assert cycle == pytest.approx([0.8 / 25, 0.8 * 26 / 50, 0.8, 0.4, 0])
    assert rates("onecycle", 0, 0.15, 0.3, 0.65, 1, warmup=0.4) == cycle  # of another schedule
    (late,) = rates("onecycle", 0.2)  # two thirds of the rise, on a cosine
    assert late == pytest.approx(0.032 + 0.75 * (0.8 - 0.032))
    (later,) = rates("onecycle", 0.27)
    assert later == pytest.approx(0.032 + 0.768 * (1 + np.cos(np.pi / 10)) / 2)


def test_rates_of_a_training_reach_every_step():
    run = trained(a_run(epochs=4, schedule="step", milestones=[0.5], decay=0.1))
    assert [row["lr"] for row in run.history] == pytest.approx([0.05, 0.05, 0.005, 0.005])
    last = trained(a_run(epochs=2, schedule="cosine")).history[-1]["lr"]
    assert last == pytest.approx(0.05 * (1 + np.cos(np.pi * 0.9)) / 2)  # 5 steps an epoch


def test_test_accuracy_is_measured_when_asked():
    for every, expected in [(0, [4]), (2, [2, 4]), (3, [3, 4]), (1, [1, 2, 3, 4])]:
        history = trained(a_run(epochs=4, test_every=every)).history
        assert [r["epoch"] for r in history if r["test_accuracy"] is not None] == expected


def test_the_loss_falls_and_the_classes_are_learned():
    run = trained(a_run(epochs=8, lr=0.1, test_every=1, augment=Augment(crop=1)))
    assert run.history[-1]["loss"] < 0.3 * run.history[0]["loss"]
    assert run.history[-1]["test_accuracy"] > 95


def test_supervision_is_learned():
    """With kd alone the student comes to agree with a teacher, whatever the labels say."""
    teacher = a_teacher()
    run = a_run(epochs=12, objective={"kd": {"weight": 1.0, "temperature": 4.0}}, teacher=teacher)
    trained(run)
    assert run.history[-1]["kd"] < 0.2 * run.history[0]["kd"]
    assert not teacher.training
    assert all(weight.grad is None for weight in teacher.parameters())


def test_layers_without_a_gradient_stay():
    """cc alone reads the features: the classifier is left as it was."""
    run = a_run(objective={"cc": {"weight": 1.0}}, teacher=a_teacher())
    before = network.tensors(run.network)
    after = network.tensors(trained(run).network)
    for name in ("classifier.weight", "classifier.bias"):
        np.testing.assert_array_equal(before[name], after[name])
    assert not np.array_equal(before["conv1.weight"], after["conv1.weight"])


def test_the_teacher_is_not_changed():
    teacher = a_teacher()
    before = network.tensors(teacher)
    trained(a_run(objective=ALL, teacher=teacher))
    for name, value in network.tensors(teacher).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("augment", [Augment(), Augment(crop=1), Augment(crop=1, flip=True)])
def test_cached_outputs_are_those_computed_again(augment):
    run = a_run(objective=ALL, teacher=a_teacher(), augment=augment)
    taps = run.objective.taps
    cached, computed = (
        Teacher(run.teacher, taps, run.images, augment, epochs, run.device)
        for epochs in (augment.views + 1, augment.views)
    )
    assert cached.keeps and not computed.keeps
    for epoch in range(3):
        views = augment.draw(40, 0, epoch)
        index = torch.randperm(40, generator=run.generator("order", epoch))[:8]
        batch = run.images.normalise(augment.apply(run.images.train_images[:], views)[index])
        one, two = cached(batch, index, views[index]), computed(batch, index, views[index])
        assert one.keys() == two.keys() == set(taps)
        for tap in taps:
            torch.testing.assert_close(one[tap], two[tap], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["weight", "running_mean", "running_var"])
def test_statistics_that_are_not_finite_are_no_network(name):
    run = a_run()
    with torch.no_grad():
        run.network.state_dict()[f"bn1.{name}"][0] = np.inf
    with pytest.raises(StError, match="the weights are no longer finite in epoch 3; lower it"):
        check_finite(1.0, run, 2, "it")


@pytest.mark.parametrize("objective", [CE, ALL])
def test_a_training_that_diverges_says_so(objective):
    run = a_run(epochs=8, objective=objective, teacher=a_teacher(), lr=100.0)
    with torch.no_grad():
        run.network.conv2.weight[0] = 1e38
        run.network.classifier.weight[0] = float("inf")
    with pytest.raises(StError) as caught:
        trained(run)
    assert "in epoch 1" in str(caught.value) and "lr" in str(caught.value)
    run = a_run(epochs=3)
    with pytest.raises(StError, match="in epoch 2"):
        fit(run, lambda run, speed: run.network.classifier.bias.data.fill_(float("nan")))


def test_seeds_decide_everything():
    augment = Augment(crop=1)
    one, again = (network.tensors(trained(a_run(augment=augment)).network) for _ in "ab")
    other = network.tensors(trained(a_run(augment=augment, seed=1)).network)
    for name, value in one.items():
        assert value.tobytes() == again[name].tobytes()
    assert not np.array_equal(one["conv1.weight"], other["conv1.weight"])


def test_small_data_is_one_batch():
    run = trained(a_run(epochs=1, batch_size=64))
    assert run.network.bn1.num_batches_tracked == 1
    run = trained(a_run(epochs=1, batch_size=12))  # 40 images: the last 4 are left out
    assert run.network.bn1.num_batches_tracked == 3
