"""What benchmarks/train.py compares.

Each contestant prepares itself, trains, and calls `turn(images, seconds)` after each epoch; that
returns when it is its turn again. It has a process of its own.
"""

import time
from functools import partial

import torch
from common import OBJECTIVE, Case, network, plain_selections, transformed
from torch import nn

from st.core.device import choose
from st.data.augment import Augment
from st.data.dataset import Data
from st.data.images import Images
from st.networks.network import folded
from st.training.loop import Run, fit
from st.training.objective import Objective
from st.training.recipe import Training

EPOCHS = 150  # more than any benchmark runs, fewer than views: the teacher's outputs aren't cached
RATE = 0.01


def engine(
    turn, case: Case, data: Data, distill: bool, device: str, threads: int, folder,
    precision: str = "auto", crop: int = 4, flip: bool = True,
) -> None:  # fmt: skip
    """This project's training loop."""
    where = choose(device, threads, precision=precision)
    run = Run(
        network=where.place(network(case, student=distill)),
        images=Images(data, where),
        recipe=Training(batch_size=case.batch, lr=RATE, schedule="constant", test_every=0),
        epochs=EPOCHS,
        objective=Objective(OBJECTIVE if distill else {"ce": {"weight": 1.0}}),
        augment=Augment(crop=crop, flip=flip),
        seed=0,
        device=where,
        teacher=where.place(network(case)) if distill else None,
    )
    total = len(data.train_labels)
    fit(run, lambda run, speed: turn(total, total / speed))


def usual(turn, case: Case, data: Data, distill: bool, device: str, threads: int, folder) -> None:
    """Data set, DataLoader with workers, transforms of each image, float32, torch.optim.SGD."""
    plain_selections()
    torch.set_num_threads(threads)
    net = network(case, student=distill).to(device).train()
    teacher = network(case).to(device).eval() if distill else None
    objective = Objective(OBJECTIVE if distill else {"ce": {"weight": 1.0}})
    optimiser = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    loader = torch.utils.data.DataLoader(
        transformed(data, folder), case.batch, shuffle=True, num_workers=max(2, threads),
        drop_last=True, pin_memory=device != "cpu", persistent_workers=True,
    )  # fmt: skip
    while True:
        started, images, total = time.perf_counter(), 0, 0.0
        for batch, labels in loader:
            batch, labels = batch.to(device, non_blocking=True), labels.to(device)
            supervision = None
            if distill:
                with torch.no_grad():
                    supervision = teacher(batch, objective.taps)
            loss = objective(net(batch, objective.taps), supervision, labels)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item()
            images += len(labels)
        turn(images, time.perf_counter() - started)


class Exposed(nn.Module):
    """A network whose features pass through a module, where torchdistill's hooks find them."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.features = net, nn.Identity()

    def forward(self, x):
        outputs = self.net(x, ("features", "logits"))
        self.features(outputs["features"])
        return outputs["logits"]


def torchdistill(
    turn, case: Case, data: Data, distill: bool, device: str, threads: int, folder
) -> None:
    """The same distillation step by torchdistill's box, on the usual loader."""
    from torchdistill.core.distillation import get_distillation_box

    plain_selections()
    torch.set_num_threads(threads)
    ends = {"student_module_path": ".", "student_module_io": "output"}
    ends |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    kd, cc = OBJECTIVE["kd"], OBJECTIVE["cc"]
    # torchdistill's KDLoss is alpha CE + beta T^2 KL
    weights = {"alpha": OBJECTIVE["ce"]["weight"], "beta": kd["weight"]}
    terms = {
        "kd": {
            "criterion": {
                "key": "KDLoss",
                "kwargs": {**ends, **weights, "temperature": kd["temperature"]},
            },
            "weight": 1.0,
        },
        "cc": {
            "criterion": {
                "key": "CCKDLoss",
                "kwargs": {
                    "student_linear_path": "features",
                    "teacher_linear_path": "features",
                    "kernel_config": {"type": "gaussian", "gamma": 0.4, "max_p": 2},
                    "reduction": "batchmean",
                },
            },
            "weight": cc["weight"],
        },
    }
    hooks = {"forward_hook": {"input": [], "output": ["features"]}}
    config = {
        "num_epochs": EPOCHS,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {
                "class_or_func": torch.utils.data.RandomSampler, "kwargs": {},
            },
            "kwargs": {
                "batch_size": case.batch, "num_workers": max(2, threads), "drop_last": True,
                "pin_memory": device != "cpu", "persistent_workers": True,
            },
        },
        "teacher": {**hooks, "requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {**hooks, "forward_proc": "forward_batch_only"},
        "optimizer": {
            "key": "SGD", "kwargs": {"lr": RATE, "momentum": 0.9, "weight_decay": 1e-4},
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "func2extract_model_loss": "extract_model_loss_dict",
            "kwargs": {"sub_terms": terms},
        },
    }  # fmt: skip
    teacher = Exposed(network(case)).to(device).eval()
    student = Exposed(network(case, student=True)).to(device)
    box = get_distillation_box(
        teacher, student, {"train": transformed(data, folder)}, config,
        torch.device(device), None, False, 1,
    )  # fmt: skip
    for epoch in range(EPOCHS):
        started, images = time.perf_counter(), 0
        box.pre_epoch_process(epoch=epoch)
        for batch, labels, extra in box.train_data_loader:
            batch, labels = batch.to(device), labels.to(device)
            loss = box.forward_process(batch, labels, extra)
            box.post_forward_process(loss)
            loss.item()  # its example script logs each loss
            images += len(labels)
        turn(images, time.perf_counter() - started)


def floor(turn, case: Case, data: Data, distill: bool, device: str, threads: int, folder) -> None:
    """Nothing but the networks: forward and backward, the teacher's forward, on one ready batch."""
    where = choose(device, threads)
    net = where.place(network(case, student=distill)).train()
    teacher = where.place(network(case)).eval() if distill else None
    images = Images(data, where)
    batch = images.normalise(images.train_images[: case.batch])
    labels = images.train_labels[: case.batch]
    steps = len(data.train_labels) // case.batch

    def step() -> None:
        for weight in net.parameters():
            weight.grad = None
        with where.autocast():
            if teacher:
                with torch.no_grad():
                    teacher(batch)
            logits = net(batch)
        nn.functional.cross_entropy(logits.float(), labels).backward()

    step = where.repeatable(step)  # as the engine's
    while True:
        where.wait()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        where.wait()
        turn(steps * case.batch, time.perf_counter() - started)


def batched(
    turn, case: Case, data: Data, distill: bool, device: str, threads: int, folder, models: int
) -> None:
    """Several networks of one structure computed as one, by vmap, each on a batch of its own:
    forward and backward, and nothing else. A teacher is computed once for each."""
    where = choose(device, threads)
    nets = [where.place(network(case, student=distill)).train() for _ in range(models)]
    weights, buffers = torch.func.stack_module_state(nets)
    weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
    teacher = where.freeze(where.place(folded(network(case)))) if distill else None
    images = Images(data, where)
    batch = images.normalise(images.train_images[: case.batch])
    batches, labels = batch.expand(models, *batch.shape), images.train_labels[: case.batch]
    count = len(data.train_labels) // case.batch

    def loss(weights, buffers, batch):
        logits = torch.func.functional_call(nets[0], (weights, buffers), batch)
        return nn.functional.cross_entropy(logits.float(), labels)

    def step() -> None:
        for weight in weights.values():
            weight.grad = None
        with where.autocast():
            if teacher:
                with torch.no_grad():
                    for one in batches:
                        teacher(one)
            losses = torch.vmap(loss)(weights, buffers, batches)
        losses.sum().backward()

    step = where.repeatable(step)
    while True:
        where.wait()
        started = time.perf_counter()
        for _ in range(count):
            step()
        where.wait()
        turn(models * count * case.batch, time.perf_counter() - started)


CONTESTANTS = {
    "engine": engine,
    "engine, bfloat16": partial(engine, precision="bfloat16"),
    # crops by one pixel: an image has so few views that the teacher's outputs are kept
    "engine, outputs kept": partial(engine, crop=1, flip=False),
    "usual": usual,
    "torchdistill": torchdistill,
    "floor": floor,
}
