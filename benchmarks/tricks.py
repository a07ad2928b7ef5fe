"""What each part of the training loop gains: the loop as it is, and without that part.

    python benchmarks/tricks.py [--device cuda] [--threads 1] [--only NAME]

Processes take turns of an epoch each; the gain is the median of the loop's speed over that without
the part, round by round. Prints a table, and writes benchmarks/results/tricks-cpu.csv (-cuda.csv).
"""

import argparse
import copy
import os
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from common import Table, add_out, cases, machine, plain_selections
from contestants import engine
from torch import Tensor
from train import TASKS, has_bfloat16
from turns import Failed, perform, race

from st.core import device, process
from st.core.device import Device
from st.data.augment import Augment
from st.data.images import Images
from st.networks import network
from st.training import loop, teacher

ALL = "all"


def by_image() -> None:
    """Augment image by image."""
    batch = Augment.apply

    def apply(self: Augment, images: Tensor, views: Tensor, size=None) -> Tensor:
        pairs = zip(images.split(1), views.split(1), strict=True)
        return torch.cat([batch(self, image, view, size) for image, view in pairs])

    Augment.apply = apply


def plain_layout() -> None:
    normalise = Images.normalise
    Device.place = lambda self, net: net.to(self.name)
    Images.normalise = lambda self, batch: normalise(self, batch).contiguous()


def plain_shortcuts() -> None:
    network.subsampled = lambda x, stride: x[:, :, ::stride, ::stride]


def torchs_sgd() -> None:
    made = []  # when the one training of a process takes its first step

    def descend(weights, momentum, recipe, rate) -> None:
        if not made:
            sgd = torch.optim.SGD(
                weights, lr=recipe.lr, momentum=recipe.momentum,
                weight_decay=recipe.weight_decay, nesterov=recipe.nesterov,
            )  # fmt: skip
            made.append(sgd)
        made[0].step()
        made[0].zero_grad()

    loop.descend = descend


# What is taken away, by its name in the table, for both tasks.
PARTS: dict[str, Callable[[], None]] = {
    "selections in channels_last": plain_selections,
    "shortcuts in channels_last": plain_shortcuts,
    "augmentation of a batch at once": by_image,
    "channels_last": plain_layout,
    "ReLU in place": partial(setattr, network, "FRESH", ()),
    "one kernel for all of SGD": torchs_sgd,
}
ON_CPU = {"freed memory is kept": partial(setattr, process, "keep_memory", lambda: None)}
ON_GPU = {"the step as a CUDA graph": partial(setattr, device, "CAPTURE", False)}
FOLDED, KEPT = "normalisation folded into the teacher", "the teacher's outputs kept"
OF_TEACHERS = {
    FOLDED: partial(setattr, teacher, "folded", lambda net: copy.deepcopy(net.eval())),
    KEPT: partial(setattr, teacher, "room", lambda device: 0),
}
BFLOAT16 = "bfloat16"  # GPUs' loops use it; on CPUs it is the other process that does
FEW = "few views"  # so that a teacher's outputs are kept


def worker(pipe, name: str, where: str, *arguments) -> None:
    """A process with the loop as `name` says."""
    kind, _, views = name.partition("; ")
    take_away = {**PARTS, **ON_CPU, **ON_GPU, **OF_TEACHERS}.get(kind)
    if take_away:
        take_away()
    half = (where == "cpu") == (kind == BFLOAT16)
    options = {"precision": "bfloat16" if half else "float32"}
    if views:
        options |= {"crop": 1, "flip": False}
    perform(pipe, engine, where, *arguments, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", metavar="NAME", help="networks with this in the name")
    parser.add_argument("--batch", type=int, help="images a step instead of the networks' own")
    add_out(parser)
    options = parser.parse_args()
    kind = "cpu" if options.device == "cpu" else "cuda"
    facts = machine(options.device) | {"threads": str(options.threads)}
    csv = Table(options.out, f"tricks-{kind}")
    for case_name, case in cases(kind, options.only, options.batch).items():
        for task, distill in TASKS.items():
            names = [ALL, *PARTS, *(ON_GPU if kind == "cuda" else ON_CPU)]
            names += [BFLOAT16] if kind == "cuda" or has_bfloat16("cpu") else []
            names += [FOLDED, f"{ALL}; {FEW}", f"{KEPT}; {FEW}"] if distill else []
            arguments = (options.device, options.threads, case, distill, None)
            try:
                for name, number, speed in race(worker, names, options.rounds, *arguments):
                    row = {"network": case_name, "task": task, "without": name, "round": number}
                    csv.add({**row, "images_per_s": round(speed, 1), **facts})
            except Failed as error:
                print(f"{case_name}, {task}: {error}", flush=True)
                continue
            print(
                gains(csv.frame(), kind)
                .sort_index()
                .xs((case_name, task))
                .to_markdown(floatfmt=".2f"),
                flush=True,
            )
    table = gains(csv.frame(), kind).unstack(["network", "task"])
    print(f"\n{table.to_markdown(floatfmt='.2f')}\n{csv.path}")


def gains(rows: pd.DataFrame, kind: str) -> pd.Series:
    """The median over rounds of the speed with a part / the speed without it."""
    index = ["network", "task", "round"]
    table = rows.pivot(index=index, columns="without", values="images_per_s")
    whole = {name: f"{ALL}; {FEW}" if name.endswith(FEW) else ALL for name in table}
    ratios = pd.DataFrame({n: table[w] / table[n] for n, w in whole.items() if n != w})
    if kind == "cpu" and BFLOAT16 in ratios:
        ratios[BFLOAT16] = 1 / ratios[BFLOAT16]
    return ratios.groupby(["network", "task"], sort=False).median().stack().dropna().rename("gain")


if __name__ == "__main__":
    main()
