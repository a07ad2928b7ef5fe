"""Does speed cost accuracy? The engine, in float32 and in bfloat16, against a plain float32 loop,
over seeds, on the digits.

    python benchmarks/accuracy.py [--seeds 5] [--epochs 16] [--device cpu]

All train the same supernet of the default grid from the same weights with the same recipe; orders
and views are random in each. Writes benchmarks/results/accuracy-cpu.csv (or -cuda.csv).
"""

import argparse
from functools import partial

import numpy as np
import torch
from common import Table, add_out, machine
from scipy import stats

from st.core.device import choose
from st.core.registry import datasets, inits
from st.data.augment import Augment
from st.data.images import Images
from st.networks import network
from st.networks.layers import Executable
from st.networks.structure import Structure
from st.training.loop import Run, fit
from st.training.objective import Objective
from st.training.recipe import Training, learning_rate

STRUCTURE = Structure("vgg", {"layers": [16, 16, "M", 32, 32, "M", 64, 64]}, (1, 8, 8), 10)


def initial(seed: int) -> Executable:
    return network.build(STRUCTURE, inits.get("random")(STRUCTURE, None, seed))


def engine(data, recipe: Training, seed: int, device: str) -> float:
    where = choose(device, precision=recipe.precision)
    run = Run(
        network=where.place(initial(seed)), images=Images(data, where), recipe=recipe,
        epochs=recipe.epochs, objective=Objective({"ce": {"weight": 1.0}}), augment=Augment(crop=1),
        seed=seed, device=where,
    )  # fmt: skip
    fit(run, lambda run, speed: None)
    return run.history[-1]["test_accuracy"]


def plain(data, recipe: Training, seed: int, device: str) -> float:
    """Image by image transformed, float32, torch's layouts, torch.optim.SGD."""
    torch.manual_seed(seed)
    mean, deviation = (torch.from_numpy(v).float()[:, None, None] for v in data.statistics())
    pixels, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    choose(device, precision="float32")  # or torch's convolutions were TF32
    net = initial(seed).to(device).train()
    sgd = torch.optim.SGD(
        net.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    steps = len(labels) // recipe.batch_size
    for epoch in range(recipe.epochs):
        for step, index in enumerate(torch.randperm(len(labels)).split(recipe.batch_size)[:steps]):
            batch = []
            for image in pixels[index]:
                row, column = torch.randint(3, (2,)).tolist()
                padded = torch.nn.functional.pad(image, (1,) * 4)[:, row : row + 8]
                batch.append((padded[:, :, column : column + 8] - mean) / deviation)
            logits = net(torch.stack(batch).to(device))
            for group in sgd.param_groups:
                group["lr"] = learning_rate(recipe, (epoch + step / steps) / recipe.epochs)
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels[index].to(device)).backward()
            sgd.step()
    test = ((torch.from_numpy(data.test_images) - mean) / deviation).to(device)
    with torch.inference_mode():
        found = net.eval()(test).argmax(1).cpu()
    return 100 * (found == torch.from_numpy(data.test_labels)).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=16)
    add_out(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = datasets.get("digits")()
    recipe = Training(
        epochs=options.epochs, lr=0.1, schedule="onecycle", weight_decay=5e-4, test_every=0
    )
    loops = {"plain": partial(plain, data, recipe)}
    for precision in ("float32", "bfloat16"):
        own = recipe.model_copy(update={"precision": precision})
        loops[f"engine, {precision}"] = partial(engine, data, own)
    kind = "cpu" if options.device == "cpu" else "cuda"
    facts, csv = machine(options.device), Table(options.out, f"accuracy-{kind}")
    for seed in range(options.seeds):
        for name, loop in loops.items():
            accuracy = loop(seed, options.device)
            csv.add({"loop": name, "seed": seed, "accuracy": accuracy, **facts})
            print(f"seed {seed}, {name}: {accuracy:.2f} %", flush=True)
    found = {n: np.array([r["accuracy"] for r in csv.rows if r["loop"] == n]) for n in loops}
    for name, values in found.items():
        print(f"{name}: {values.mean():.2f} ± {values.std(ddof=1):.2f} %", end="")
        if name != "plain":
            test = stats.ttest_ind(values, found["plain"], equal_var=False)
            low, high = test.confidence_interval()
            difference = values.mean() - found["plain"].mean()
            print(f"; {difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}", end="")
        print()
    print(csv.path)


if __name__ == "__main__":
    main()
