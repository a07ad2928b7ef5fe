"""The same trained network pruned to half of its MACs by this package, torch-pruning and FastNAS.

    pip install torch-pruning nvidia-modelopt torchprofile==0.0.4
    python benchmarks/pruners.py RESULTS ARCHITECTURE MODULE

RESULTS: what a run of params/own-network.yaml made. ARCHITECTURE: of its supernet `plain`. MODULE:
as the architecture's option says it, such as torchvision.models:resnet18, with `--arguments` as
JSON. Both rank filters by the mean of their L1 norms over coupled layers, within each group, so
that all groups keep the same fraction; torch-pruning's ratio is found by bisection. Accuracies are
those of the test images before any training. FastNAS (nvidia-modelopt) searches for widths by the
accuracy on 512 training images, after normalisation statistics of as many. Writes
benchmarks/results/pruners-ARCHITECTURE.csv.
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import torch
from common import Table, add_out
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from st.core.device import choose
from st.data.dataset import load_data
from st.data.images import Images
from st.networks import network
from st.networks.checkpoint import load_model
from st.networks.imported.modules import made
from st.networks.inits import sliced
from st.pruning.criteria import Subject
from st.pruning.criteria.l1_norm import l1_norm
from st.pruning.selection import Budget, select_channels

SHARE = 0.5  # of the MACs


def sizes(net: nn.Module, image: torch.Tensor) -> tuple[int, int]:
    """(parameters, MACs) by torch's counter."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net.eval()(image)
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2


@torch.inference_mode()
def accuracy(net: nn.Module, images: Images) -> float:
    right = [
        (net.eval()(images.normalise(batch)).argmax(1) == labels).sum().item()
        for batch, labels in zip(
            images.test_images[:].split(500), images.test_labels.split(500), strict=True
        )
    ]
    return 100 * sum(right) / len(images.test_labels)


def ours(model: Path) -> tuple[nn.Module, float]:
    source = load_model(model)
    started = time.perf_counter()
    subject = Subject(source.structure, source.tensors, Budget(macs=SHARE), 0)
    keep = select_channels(source.structure.graph, l1_norm(subject), subject.budget, "local")
    part = source.structure.with_keep(keep)
    net = network.build(part, sliced(part, source))
    return net, time.perf_counter() - started


def torch_pruning(module: nn.Module, image: torch.Tensor) -> tuple[nn.Module, float]:
    import torch_pruning as tp

    last = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    limit = SHARE * sizes(module, image)[1]

    def pruned(ratio: float) -> nn.Module:
        net = copy.deepcopy(module)
        names = {id(a): b for a, b in zip(module.modules(), net.modules(), strict=True)}
        tp.pruner.MagnitudePruner(
            net, image, importance=tp.importance.MagnitudeImportance(p=1, group_reduction="mean"),
            pruning_ratio=ratio, ignored_layers=[names[id(last)]],
        ).step()  # fmt: skip
        return net

    started = time.perf_counter()
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        fits = sizes(pruned(middle), image)[1] <= limit
        low, high = (low, middle) if fits else (middle, high)
    net = pruned(high)
    return net, time.perf_counter() - started


def fastnas(module: nn.Module, image: torch.Tensor, images: Images) -> tuple[nn.Module, float]:
    import modelopt.torch.prune as mtp

    seen = [images.plain(images.train_images[start : start + 64]) for start in range(0, 512, 64)]
    labels = images.train_labels[:512].split(64)

    @torch.inference_mode()
    def score(net: nn.Module) -> float:
        found = [net.eval()(x).argmax(1) == y for x, y in zip(seen, labels, strict=True)]
        return 100 * torch.cat(found).float().mean().item()

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        net, _ = mtp.prune(
            module, mode="fastnas", constraints={"flops": f"{SHARE:.0%}"}, dummy_input=image,
            config={
                "data_loader": list(zip(seen, labels, strict=True)), "score_func": score,
                "checkpoint": f"{folder}/search.pth",
            },
        )  # fmt: skip
    return net, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("architecture")
    parser.add_argument("module")
    parser.add_argument("--dataset", default="cifar10-jpeg")
    parser.add_argument("--arguments", type=json.loads, default={})
    add_out(parser)
    options = parser.parse_args()
    data, _ = load_data(options.results / f"prepare/{options.dataset}/data.safetensors")
    images = Images(data, choose("cpu", 0))
    image = images.normalise(images.test_images[:1])
    model = options.results / (
        f"pretrain/{options.dataset}/{options.architecture}/seed0/plain/model.safetensors"
    )
    module, _ = made(options.module, options.arguments, data.input_shape, len(data.classes), 0)
    source = load_model(model)
    module.load_state_dict({n: torch.from_numpy(v.copy()) for n, v in source.tensors.items()})
    full = sizes(module, image)
    table = Table(options.out, f"pruners-{options.architecture}")
    cases = {
        "the whole network": lambda: (module, 0.0),
        "this package": lambda: ours(model),
        "torch-pruning": lambda: torch_pruning(module, image),
        "FastNAS": lambda: fastnas(copy.deepcopy(module), image, images),
    }
    for name, prune in cases.items():
        net, seconds = prune()
        params, macs = sizes(net, image)
        table.add(
            {
                "network": options.architecture,
                "pruned by": name,
                "params_kept": round(params / full[0], 4),
                "macs_kept": round(macs / full[1], 4),
                "accuracy": round(accuracy(net, images), 2),
                "seconds": round(seconds, 2),
            }
        )
    print(table.frame().to_string(index=False))


if __name__ == "__main__":
    main()
