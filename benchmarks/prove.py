"""Whether a device computes what the tests promise, and what a step costs there.

    python benchmarks/prove.py [--device cuda] [--only NAME] [--out FOLDER]

The tests run on CPUs. This is for the first minutes on a GPU: every check that depends on the
device, on networks of the paper's grid with its batches of 64. Writes one row a check to
prove-cuda.csv (-cpu.csv), as soon as it is made; a check that fails stops no other. Exit status 1
if any has failed.

- replayed: steps that are captured and replayed give the same weights as steps that are launched
  one by one, to the bit, and again when repeated (`again`)
- steps: operators that a step launches, and its kernels and milliseconds with and without capture
- reference: logits in float32, tf32 and bfloat16, beside those in float64 on the CPU
- losses, views: every registered loss, and what images and optimisers can be asked for, replayed as
  above
- whole: an epoch of an imported network with dropout, and of images that are sent batch by batch,
  as above
- resumed: a training that is stopped and goes on ends with the weights of one that was not
- together: a training as a group of one process (NCCL; one needs no SyncBatchNorm), beside one
  without
- tas: a search, which stops where its loss is not finite, repeats
- latency: of captured forward passes
"""

import argparse
import hashlib
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from common import OBJECTIVE, Case, Table, add_out, cases, machine, network, random_data, structure
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import st
from st.core import device, progress, registry
from st.core.capture import WARM_UP
from st.core.device import choose
from st.data import images as stored
from st.data.augment import Augment
from st.data.images import Images
from st.networks import network as networks
from st.networks.timing import seconds
from st.pruning.tas import loop as tas
from st.pruning.tas.network import Supernet
from st.pruning.tas.space import read
from st.training import resume
from st.training.launch import Member
from st.training.loop import Run, Step, fit
from st.training.objective import Objective
from st.training.parallel import Group
from st.training.recipe import Training

TASKS = {"supernet": {"ce": {"weight": 1.0}}, "ST": OBJECTIVE}
STEPS = WARM_UP + 5  # so many are replayed, and a few more
VIEWS: dict[str, dict] = {
    "sparsity": {"sparsity": 1e-4},
    "resized_crop": {"augment": {"resized_crop": {}, "flip": True}},
    "jitter": {"augment": {"jitter": {"brightness": 0.4, "saturation": 0.4, "hue": 0.1}}},
    "mixup and cutmix": {"augment": {"mixup": 0.2, "cutmix": 1.0}},
    "AdamW": {"recipe": {"optimiser": "adamw", "lr": 1e-3, "label_smoothing": 0.1}},
}
# relative errors: what rounding may do
MOST = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 0.2}
MOST_TOGETHER = 1e-3  # of weights, after some steps that let rounding grow
Found = dict[str, float | int | str]


def a_run(
    case: Case, spec: dict, where: device.Device, images: int, augment: dict | None = None,
    recipe: dict | None = None, **more,
) -> Run:  # fmt: skip
    """A training on noise; a student has half of its teacher's channels."""
    training = Training(
        **{"batch_size": case.batch, "lr": 0.01, "schedule": "constant", "test_every": 0}
        | (recipe or {})
    )
    objective = Objective(spec, structure(case).graph.taps, training)
    teacher = where.place(network(case)) if objective.teacher else None
    return Run(
        network=where.place(network(case, student=objective.teacher)),
        images=Images(random_data(images), where),
        recipe=training,
        epochs=150,
        objective=objective,
        augment=Augment(**(augment or {"crop": 4, "flip": True})),
        seed=0,
        device=where,
        teacher=teacher,
        **more,
    )


def steps_of(run: Run) -> Step:
    """The first epoch's steps."""
    step = Step(run, run.recipe.batch_size, len(run.images.train_labels) // run.recipe.batch_size)
    run.network.train()
    step.begin(0)
    return step


def digest(run: Run) -> str:
    """Of all weights, running statistics and momenta."""
    found = hashlib.sha256()
    values = [v for module in run.modules.values() for v in module.state_dict().values()]
    for value in [*values, *run.moments]:
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def after(run: Run, captured: bool) -> str:
    """The digest after some steps."""
    step = steps_of(run)
    repeat = run.device.repeatable(step) if captured else step
    for _ in range(STEPS):
        repeat()
    run.device.wait()
    if captured and run.device.is_cuda and repeat._again == step:
        raise RuntimeError("the step could not be captured")
    return digest(run)


def replayed(make: Callable[[], Run]) -> Found:
    """Steps one by one, replayed, and replayed again."""
    one, other, third = after(make(), False), after(make(), True), after(make(), True)
    return {"replayed": one == other, "again": other == third}


class Operators(TorchDispatchMode):
    """Counts the operators that compute something: not those that only look at memory anew."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        self.count += not function.is_view and name not in ("detach", "empty", "_unsafe_view")
        return function(*arguments, **(options or {}))


def costs(make: Callable[[], Run], repeats: int) -> Found:
    """What a step launches and how long it takes."""
    run = make()
    step, where = steps_of(run), run.device
    for _ in range(WARM_UP):
        step()
    with Operators() as operators:
        step()
    row: Found = {"operators": operators.count}
    if where.is_cuda:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            step()
            where.wait()
        kernels = [e for e in profiler.events() if str(e.device_type).endswith("CUDA")]
        row["kernels"] = len(kernels)
        row["kernels_us"] = round(sum(e.device_time_total for e in kernels))
        by_name: Counter[str] = Counter()
        for kernel in kernels:
            by_name[kernel.name[:90]] += kernel.device_time_total
        for name, time_us in by_name.most_common(12):
            print(f"      {time_us:8.0f} us  {name}")
    for name, repeat in (("one_by_one", step), ("captured", where.repeatable(step))):
        step.begin(0)
        for _ in range(WARM_UP + 2):
            repeat()
        where.wait()
        started = time.perf_counter()
        for _ in range(repeats):
            repeat()
        where.wait()
        row[f"{name}_ms"] = round(1000 * (time.perf_counter() - started) / repeats, 3)
    row["images_per_s"] = round(1000 * run.recipe.batch_size / row["captured_ms"])
    if where.is_cuda:
        row["peak_MB"] = round(torch.cuda.max_memory_allocated() / 1e6)
        torch.cuda.reset_peak_memory_stats()
    return row


def logits(case: Case, where: device.Device, double: bool = False) -> torch.Tensor:
    """Of a student that trains, for its first batch: float64 on the CPU."""
    net = where.place(network(case, student=True)).train()
    images = Images(random_data(case.batch), where)
    batch = images.normalise(images.train_images[:])
    if double:
        net, batch = net.double(), batch.double()
    with torch.no_grad(), where.autocast():
        return net(batch).double().cpu()


def reference(case: Case, name: str) -> Found:
    """How far logits are from those in float64 on the CPU, as a part of their norm."""
    exact = logits(case, choose("cpu"), double=True)
    row: Found = {}
    for precision, most in MOST.items():
        found = logits(case, choose(name, precision=precision))
        row |= {precision: (off := apart([exact], [found])), f"{precision}_within": off <= most}
    choose(name)
    return row


def apart(ones: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The norm of the difference, as a part of the first ones' norm."""
    one, other = (torch.cat([t.detach().double().flatten() for t in ts]) for ts in (ones, others))
    return float(f"{float((one - other).norm() / one.norm()):.1e}")


class Dropped(nn.Module):
    """A network of someone's own, which draws random numbers while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.deep = weight_norm(nn.Conv2d(32, 64, 3, stride=2, padding=1))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(64, 10))

    def forward(self, x):
        x = self.deep(torch.relu(self.norm(self.conv(x))))
        return self.head(torch.relu(x).mean((2, 3)))


def imported(where: device.Device, images: int) -> Run:
    """A training of it on noise."""
    torch.manual_seed(0)
    net = st.supernet(Dropped(), (3, 32, 32))
    recipe = Training(batch_size=64, lr=0.01, schedule="constant", test_every=0)
    return Run(
        network=where.place(networks.build(net.structure, networks.tensors(net.network))),
        images=Images(random_data(images), where), recipe=recipe, epochs=1,
        objective=Objective({"ce": {"weight": 1.0}}, net.structure.graph.taps, recipe),
        augment=Augment(crop=4, flip=True), seed=0, device=where,
    )  # fmt: skip


def streamed(make: Callable[[], Run]) -> Run:
    """The same with images that do not fit on the device."""
    before, stored.room = stored.room, lambda device: 0.0
    try:
        return make()
    finally:
        stored.room = before


def epochs(make: Callable[[], Run]) -> Found:
    """An epoch whose steps are launched one by one, replayed, and replayed again."""
    found = []
    for captured in (False, True, True):
        device.CAPTURE, run = captured, make()
        run.epochs = 1
        fit(run, lambda run, speed: None)
        found.append(digest(run))
        run.images.close()
    return {"replayed": found[0] == found[1], "again": found[1] == found[2]}


def resumed(make: Callable[[], Run]) -> Found:
    """Four epochs at once, and with an interruption after the second."""

    def trained(stop: int | None, folder: Path | None) -> Run:
        run = make()
        run.epochs = 4
        if folder is None:
            fit(run, lambda run, speed: None)
            return run
        with resume.Resume(folder / "state.safetensors", {}, run.device) as state:
            state.restore(run)

            def after_epoch(run: Run, speed: float) -> None:
                state._stop = len(run.history) == stop
                state.after_epoch(run)

            fit(run, after_epoch)
        return run

    whole = digest(trained(None, None))
    with tempfile.TemporaryDirectory() as name:
        with suppress(resume.Interrupted):
            trained(2, Path(name))
        again = digest(trained(None, Path(name)))
    return {"resumed": whole == again}


def together(make: Callable[..., Run], where: device.Device) -> Found:
    """Relative distance of the weights of a group of one from those without a group."""
    alone = make()
    step = steps_of(alone)
    for _ in range(3):
        step()
    with tempfile.TemporaryDirectory() as name:
        group = Group(Member(0, 1, 0, 1, Path(name)), where)
        run = make(group=group)
        with group:
            step = steps_of(run)
            for _ in range(3):
                step()
        where.wait()
    off = apart(alone.weights, run.weights)
    return {"together": off, "within": off <= MOST_TOGETHER}


def searched(case: Case, where: device.Device, images: int) -> Found:
    """An epoch of TAS, twice."""
    full = structure(case)
    space = read(full, [0.5, 1.0])
    options = {
        "temperature": [5.0, 0.1], "macs_weight": 2.0, "architecture_lr": 0.01,
        "architecture_weight_decay": 1e-3,
    }  # fmt: skip
    digests = []
    for _ in range(2):
        search = tas.Search(
            where.place(Supernet(full, space, 0)), Images(random_data(images), where),
            Training(epochs=1, batch_size=case.batch, lr=0.1, schedule="cosine", nesterov=True),
            full.cost()[1] / 2, options, Augment(crop=4, flip=True), 0, where,
        )  # fmt: skip
        started = time.perf_counter()
        tas.fit(search, lambda run, speed: None)
        where.wait()
        took = time.perf_counter() - started
        digests.append(digest(search))  # type: ignore[arg-type]
    return {"again": digests[0] == digests[1], "seconds": round(took, 2)}


def latencies(case: Case, where: device.Device) -> Found:
    """Milliseconds of a supernet and of half of it."""
    networks = [where.place(network(case, student)).eval() for student in (False, True)]
    row = {}
    for batch in (1, 64):
        images = torch.rand(batch, 3, 32, 32, device=where.name).to(
            memory_format=torch.channels_last
        )
        whole, half = 1000 * seconds(networks, images, 20, where)
        row |= {f"whole_{batch}": round(float(whole), 3), f"half_{batch}": round(float(half), 3)}
    return row


def checks(options: argparse.Namespace) -> Iterator[tuple[str, str, str, Callable[[], Found]]]:
    """Network, task, name of the check, and the check."""
    where = choose(options.device)
    found = cases("cuda" if where.is_cuda else "cpu", options.only, 64)
    few, many = 64 * (STEPS + 1), 64 * (options.repeats + 2 * WARM_UP)
    for net, case in found.items():
        for task, spec in TASKS.items():
            yield net, task, "replayed", partial(replayed, partial(a_run, case, spec, where, few))
            timed = partial(a_run, case, spec, where, many)
            yield net, task, "steps", partial(costs, timed, options.repeats)
        yield net, "", "reference", partial(reference, case, options.device)
        yield net, "", "latency", partial(latencies, case, where)
        if net.startswith("ResNet"):
            yield net, "TAS", "tas", partial(searched, case, where, 640)
    net, case = next(iter(found.items()))
    for loss in sorted(set(registry.losses.names()) - OBJECTIVE.keys()):
        spec = {**TASKS["supernet"], loss: {"weight": 0.1, **registry.losses.check(loss, {})}}
        yield net, loss, "losses", partial(replayed, partial(a_run, case, spec, where, few))
    for what, more in VIEWS.items():
        made = partial(a_run, case, OBJECTIVE, where, few, **more)
        yield net, what, "views", partial(replayed, made)
    yield "imported, dropout", "supernet", "whole", partial(epochs, partial(imported, where, few))
    made = partial(streamed, partial(a_run, case, OBJECTIVE, where, few))
    yield net, "images batch by batch", "whole", partial(epochs, made)
    for task, spec in TASKS.items():
        yield net, task, "resumed", partial(resumed, partial(a_run, case, spec, where, 256))
    # by its number, as each of several processes has it
    where = choose(options.device, precision="float32", rank=0)
    yield (
        net,
        "ST",
        "together",
        partial(together, partial(a_run, case, OBJECTIVE, where, 256), where),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", metavar="NAME", help="networks with this in the name")
    parser.add_argument("--repeats", type=int, default=60, help="timed steps")
    add_out(parser)
    options = parser.parse_args()
    progress.start("prove", None)
    facts = machine(options.device)
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    csv = Table(options.out, "prove-" + ("cpu" if options.device == "cpu" else "cuda"))
    bad = 0
    for net, task, name, check in checks(options):
        started = time.perf_counter()
        try:
            result = check()
        except Exception as error:
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {error}"[:200]}
        bad += any(value is False or key == "failed" for key, value in result.items())
        took = time.perf_counter() - started
        print(f"{net}, {task}, {name} ({took:.1f} s): {result}", flush=True)
        for what, value in result.items():
            row = {"network": net, "task": task, "check": name, "what": what, "value": value}
            csv.add({**row, **facts})
    print(f"{csv.path}: {bad} failed" if bad else f"{csv.path}: all hold")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
