"""Trainings by several processes, against the same training by one: real processes, on the CPU."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # DistributedDataParallel does: here once, not in every process
from helpers.images import stripes
from helpers.networks import random_tensors, small_structure

from st.core import registry
from st.core.device import Device, choose
from st.core.errors import StError
from st.data.augment import Augment
from st.data.images import Images
from st.networks import network
from st.training.launch import Member
from st.training.loop import Run, fit
from st.training.objective import Objective
from st.training.parallel import Group, normalise_together
from st.training.recipe import Training

fork = multiprocessing.get_context("fork")
pytestmark = pytest.mark.slow

BATCH = 8  # for three processes: 3, 3 and 2 images


def together(function, processes: int, folder: Path) -> list[dict]:
    """What `function(group)` returns, arrays by name, in each of so many processes."""

    def child(rank: int) -> None:
        member = Member(rank, processes, rank, processes, folder)
        group = Group(member, choose("cpu", threads=1)) if processes > 1 else None
        result = function(group)
        np.savez(folder / f"{rank}.npz", **result)

    folder.mkdir()
    children = [fork.Process(target=child, args=(rank,)) for rank in range(processes)]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
        assert process.exitcode == 0
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(processes)]


def training(group, structure: str, objective: dict, precision: str = "float64", **mixes) -> dict:
    """Train in this process, in float64 whatever the code says; all that was learned."""
    if precision == "float64":
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double
    where = choose("cpu", threads=1, precision=precision)
    drawn = small_structure(structure, (1, 8, 8), 3)
    larger = small_structure("vgg", (1, 8, 8), 3)
    rng = np.random.default_rng(0)
    run = Run(
        network=network.build(drawn, random_tensors(drawn, rng)),
        images=Images(stripes(), where),
        recipe=Training(batch_size=BATCH, lr=0.01, nesterov=True, test_every=1),
        epochs=2,
        objective=Objective(objective, drawn.graph.taps),
        augment=Augment(crop=1, flip=True, **mixes),
        seed=0,
        device=where,
        teacher=network.build(larger, random_tensors(larger, rng)),
        sparsity=0.01,
        group=group,
    )
    fit(run, lambda run, speed: None)
    learned = {
        f"{kind}:{name}": value.numpy()
        for kind, module in run.modules.items()
        for name, value in module.state_dict().items()
    }
    learned |= {f"moment:{n}": value.numpy() for n, value in enumerate(run.moments)}
    for row in run.history:
        learned |= {f"{name}:{row['epoch']}": value for name, value in row.items() if value}
    return learned


def compare(folder: Path, processes: int, rtol: float, **options) -> None:
    def one(group):
        return training(group, **options)

    (expected,) = together(one, 1, folder / "one")
    leader, *others = together(one, processes, folder / "several")
    assert leader.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(leader[name], value, rtol=rtol, atol=rtol * scale, err_msg=name)
    for other in others:  # to the bit: the processes never drift apart
        for name, value in other.items():
            if not name.startswith("test_accuracy"):
                np.testing.assert_array_equal(value, leader[name], err_msg=name)


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("structure", ["vgg-hidden", "resnet", "preresnet", "densenet-bc"])
def test_the_result_is_one_process_s(tmp_path, structure, processes):
    """In float64 the two differ by 1e-10: what is computed is the same, but for rounding."""
    compare(tmp_path, processes, 1e-9, structure=structure, objective={"ce": {"weight": 1.0}})


@pytest.mark.parametrize("loss", registry.losses.names())
def test_every_loss(tmp_path, loss):
    """Also those that relate the images of a batch to each other, and those with weights."""
    options = registry.losses.check(loss, {})
    objective = {"ce": {"weight": 1.0}, loss: {"weight": 0.5, **options}}
    compare(tmp_path, 3, 1e-8, structure="vgg", objective=objective)


def test_mixed_images(tmp_path):
    """Whose neighbours another process may have."""
    objective = {"ce": {"weight": 1.0}, "kd": {"weight": 0.5}}
    compare(tmp_path, 3, 1e-8, structure="vgg", objective=objective, mixup=0.5, cutmix=1.0)


def test_in_float32(tmp_path):
    """Ten steps of a training with all that there is to send: 1e-4 of the largest value."""
    objective = {"ce": {"weight": 1.0}, "cc": {"weight": 0.02}, "fitnet": {"weight": 1.0}}
    compare(tmp_path, 2, 1e-4, structure="vgg", objective=objective, precision="float32")


@pytest.mark.parametrize("structure", ["vgg", "resnet", "densenet"])
def test_in_bfloat16(tmp_path, structure):
    """What GPUs compute in. Rounding to two digits soon shows, so this is about the first epoch."""

    def one(group):
        objective = {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}}
        return training(group, structure, objective, precision="bfloat16")

    (expected,) = together(one, 1, tmp_path / "one")
    leader, other = together(one, 2, tmp_path / "several")
    for name in ("loss:1", "ce:1", "kd:1"):
        assert leader[name] == pytest.approx(expected[name], rel=0.02)
    for name in (name for name in leader if ":" in name and not name.startswith("test_accuracy")):
        np.testing.assert_array_equal(other[name], leader[name], err_msg=name)


def test_on_gpus_it_is_torchs_normalisation():
    """Same layers, same weights: only the class is another, wherever the network has it."""
    structure = small_structure("vgg-hidden", (1, 8, 8), 3)
    net = network.build(structure, random_tensors(structure, np.random.default_rng(0)))
    before = dict(net.named_parameters())
    normalise_together(net, Device("cuda:1"))
    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert {type(norm) for norm in norms} == {torch.nn.SyncBatchNorm} and len(norms) == 3
    assert set(norms) == {
        net.st_layers[node.name] for _, node, *_ in net.st_plan if node.op == "bn"
    }
    for name, weight in net.named_parameters():
        assert weight is before[name]
    images = torch.randn(4, 1, 8, 8)
    expected = network.build(structure, network.tensors(net)).eval()(images)
    torch.testing.assert_close(net.eval()(images), expected)


def test_parts():
    group = Group.__new__(Group)
    for size in (2, 3, 7):
        for images in range(size, 20):
            group.size, seen = size, []
            for group.rank in range(size):
                seen += range(images)[group.part(images)]
                assert len(range(images)[group.part(images)]) == group.parts(images)[group.rank]
            assert seen == list(range(images))
            assert max(group.parts(images)) - min(group.parts(images)) <= 1
    with pytest.raises(StError, match="7 processes cannot share batches of 6 images"):
        group.parts(6)


def test_different_weights_are_found(tmp_path):
    def verified(group):
        module = torch.nn.Linear(2, 2)
        with torch.no_grad():
            module.weight.fill_(1.0)
            module.bias.fill_(0.0)
        group.verify("state", [module])
        module.bias.data[1] += 1e-7 * group.rank
        with pytest.raises(StError, match="read different files"):
            group.verify("state", [module])
        module.bias.data[1] = 0
        with pytest.raises(StError, match="read different files"):
            group.verify(f"state {group.rank}", [module])
        return {}

    together(verified, 2, tmp_path / "several")
