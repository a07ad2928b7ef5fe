"""Networks of torchvision and timm: imported, searched to half of their MACs, pruned.

    python benchmarks/networks.py [NAME ...]

Names are torchvision's, or timm's as timm:NAME; without any, all of torchvision's for
classification. Of each: nodes in evaluation, groups of channels, the share of MACs that can be
pruned, what the search by `l1_norm` with `ranking: normalized` leaves of MACs and parameters for a
budget of half of the MACs, and the largest difference, as a part of the largest logit, between

- the imported network and the module (float32, evaluation), and
- the network whose channels were removed and the one whose channels were set to zero, of those
  groups where both are the same thing, a random half of each.

Writes benchmarks/results/networks.csv.
"""

import argparse
import sys
import time
import warnings

import numpy as np
import torch
from common import ROOT, Table, add_out
from torchvision import models

from st.core.errors import StError
from st.networks import network
from st.networks.checkpoint import Checkpoint
from st.networks.imported.export import imported
from st.networks.imported.modules import made
from st.networks.inits import sliced
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.criteria.l1_norm import l1_norm
from st.pruning.selection import Budget, select_channels

sys.path.insert(0, str(ROOT / "tests"))
SIDES = {"inception_v3": 299, "efficientnet_v2_s": 224, "vit_h_14": 224}
CLASSES = 1000


def spread(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Running statistics and layer scales of no special form, so that every channel matters."""
    rng = np.random.default_rng(0)
    result = {}
    for name, value in tensors.items():
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 2, value.shape).astype(np.float32)
        elif value.dtype == np.float32 and value.ndim and np.ptp(value) == 0:
            value = rng.uniform(0.5, 1, value.shape).astype(np.float32)
        result[name] = value
    return result


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))


@torch.inference_mode()
def measure(name: str) -> dict:
    from helpers.networks import zeroed

    side = SIDES.get(name, 224)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    place = name if ":" in name else f"torchvision.models:{name}"
    shape = (3, side, side)
    with torch.inference_mode(False):
        module, _ = made(place, options, shape, CLASSES, 0)
        started = time.perf_counter()
        program, tensors = imported(module, shape)
        seconds = time.perf_counter() - started
    whole = Structure("import", {}, shape, CLASSES, program=program)
    params, macs = whole.cost()
    row = {
        "network": name, "nodes": len(program.forms["eval"]), "import_s": round(seconds, 1),
        "groups": len(program.groups), "params": params, "macs": macs,
        "prunable": round(program.prunable()[1], 3),
    }  # fmt: skip
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    row["import_error"] = difference(
        network.build(whole, tensors).eval()(images), module.eval()(images)
    )
    del module
    started = time.perf_counter()
    try:
        scores = l1_norm(Subject(whole, tensors, Budget(macs=0.5), 0))
        keep = select_channels(whole.graph, scores, Budget(macs=0.5), "normalized")
        row["search_s"] = round(time.perf_counter() - started, 1)
        found = whole.with_keep(keep).cost()
        row |= {"params_kept": found[0] / params, "macs_kept": found[1] / macs}
    except StError as error:
        row["pinned"] = str(error)
    tensors, rng = spread(tensors), np.random.default_rng(1)
    half = {
        group.name: np.sort(rng.permutation(group.size)[: -(-group.size // 2)])
        for group in program.groups.values()
        if group.exact
    }
    part = whole.with_keep(half)
    expected = network.build(whole, zeroed(part, tensors)).eval()(images)
    small = network.build(part, sliced(part, Checkpoint("", tensors, whole, {}))).eval()
    row["pruned_error"] = difference(small(images), expected)
    stays = {op: count for op, count in program.pinned.items() if op != "the output"}
    row.setdefault("pinned", " ".join(f"{op}:{count}" for op, count in stays.items()))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="such as resnet18 or timm:resnet18")
    add_out(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table(options.out, "networks")
    for name in options.names or models.list_models(module=models):
        try:
            table.add(measure(name))
        except StError as error:
            table.add({"network": name, "pinned": str(error)})


if __name__ == "__main__":
    main()
