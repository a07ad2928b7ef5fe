"""Evaluate: accuracy, size and speed of all networks of one architecture and seed."""

from pathlib import Path

import torch
import torch._dynamo  # the counter would, later and more slowly
from torch.utils.flop_counter import FlopCounterMode

from st import __version__
from st.core import provenance
from st.core.device import choose
from st.core.files import write_json
from st.core.job import Job
from st.core.tensors import read_header
from st.data.dataset import FORMAT, load_data
from st.data.images import Images
from st.networks import network
from st.networks.checkpoint import load_model
from st.pruning.latency import seconds
from st.report.predictions import save_predictions
from st.training import accuracy


def _repeated(images: Images, count: int) -> torch.Tensor:
    """So many test images, again from the first on where there are fewer."""
    some = images.test_images[:count]
    return some[torch.arange(count, device=some.device) % len(some)]


def run(
    job: Job,
    data: Path,
    models: list[Path],
    metrics: list[Path],
    predictions: list[Path],
    device: str,
    threads: int,
) -> None:
    """Write metrics.json, and the predicted classes of all test images, for each of `models`; the
    first is the reference supernet.

    Parameters are counted in the built network and MACs by torch's flop counter (two flops a MAC),
    not by the formulas that the search uses. Latencies are measured side by side.
    """
    where = choose(device, threads)
    found, digest = load_data(data)
    images = Images(found, where)
    about = {
        "sha256": digest,
        "fingerprint": read_header(data, FORMAT)["job"].get("fingerprint"),
        "classes": found.classes,
    }
    checkpoints = [load_model(path) for path in models]
    networks = [where.place(network.load(checkpoint)).eval() for checkpoint in checkpoints]
    sizes, one = [], images.normalise(images.test_images[:1])
    with torch.inference_mode():
        for net in networks:
            with FlopCounterMode(display=False) as counter:
                net(one)
            params = sum(p.numel() for p in net.parameters())
            sizes.append((params, counter.get_total_flops() // 2))
    # A GPU is full only with many images: there a larger batch tells more than one image does.
    batches = {job["latency_batch"], *((1, 64) if where.is_cuda else ())}
    latency = {}
    for size in sorted(batches):
        batch = images.normalise(_repeated(images, size))
        latency[size] = 1000 * seconds(networks, batch, job["latency_rounds"], where)
    made = provenance.here(where.describe(), where.threads) | provenance.commit()
    for number, (path, checkpoint, net) in enumerate(
        zip(metrics, checkpoints, networks, strict=True)
    ):
        params, macs = sizes[number]
        trained = checkpoint.facts.get("environment") or {}
        used = where.using(trained.get("precision") or "auto")  # as in its training
        predicted = accuracy.predictions(net, images, used)
        row = {
            "dataset": job["dataset"],
            "architecture": job["architecture"],
            "method": job["rows"][number]["method"],
            "seed": job["seed"],
            "accuracy": accuracy.accuracy(predicted, images.test_labels),
            "params": params,
            "params_kept": params / sizes[0][0],
            "macs": macs,
            "macs_kept": macs / sizes[0][1],
            "latency_ms": round(float(latency[job["latency_batch"]][number]), 4),
            "latency_by_batch": {n: round(float(ms[number]), 4) for n, ms in latency.items()},
            "epochs": checkpoint.facts["epochs"],
            "teacher": job["rows"][number]["teacher"],
            "device": where.describe(),
            "torch": torch.__version__,
            "st": __version__,
            "class_accuracy": accuracy.by_class(predicted, images.test_labels, found.classes),
            "data": about,
            "trained": checkpoint.facts.get("environment"),
            "evaluated": {**made, "precision": used.computes},
        }
        save_predictions(
            predictions[number], predicted.cpu().numpy(), images.test_labels.cpu().numpy()
        )
        write_json(path, row)
