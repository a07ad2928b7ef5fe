"""Evaluate: accuracy, size and speed of all networks of one architecture and seed."""

import importlib
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the counter would, later and more slowly
from torch.utils.flop_counter import FlopCounterMode

from st import __version__
from st.core import provenance
from st.core.device import Device, choose
from st.core.errors import StError
from st.core.files import write_json
from st.core.job import Job
from st.core.tensors import read_header
from st.data.dataset import FORMAT, load_data
from st.data.images import Images
from st.networks import network
from st.networks.checkpoint import load_model
from st.networks.profile import by_kind, profile
from st.networks.timing import seconds
from st.report.predictions import save_predictions
from st.training import accuracy


def _repeated(images: Images, count: int) -> torch.Tensor:
    """So many test images, again from the first on where there are fewer."""
    some = images.test_images[:count]
    return some[torch.arange(count, device=some.device) % len(some)]


def _check_numbers(rows: list[dict[str, Any]], **files: list[Path]) -> None:
    """Raise StError unless there is a file for each row; `rows` begins with the networks'."""
    networks = [row for row in rows if "of" not in row]
    of = {"models": networks, "exports": rows[len(networks) :]}
    for option, given in files.items():
        wanted = of.get(option, rows)
        if len(given) != len(wanted):
            names = ", ".join(row["method"] for row in wanted) or "none"
            raise StError(f"--{option}: needs {len(wanted)} files ({names}), not {len(given)}")


def _counted(networks: list[Any], one: torch.Tensor) -> list[tuple[int, int]]:
    """Parameters and MACs for one image, of each network as it is built."""
    found = []
    with torch.inference_mode():
        for net in networks:
            with FlopCounterMode(display=False) as counter:
                net(one)
            params = sum(p.numel() for p in net.parameters())
            found.append((params, counter.get_total_flops() // 2))
    return found


def _timed(
    job: Job, networks: list[Any], files: list[Any], images: Images, where: Device
) -> tuple[dict[int, Any], list[dict[str, Any]]]:
    """Milliseconds of each network and file by the number of images in a batch; and of the networks
    by kinds of operators, for the job's batch on a CPU."""
    # A GPU is full only with many images: there a larger batch tells more than one image does.
    batches = {job["latency_batch"], *((1, 64) if where.is_cuda else ())}
    rounds, latency = job["latency_rounds"], {}
    parts: list[dict[str, Any]] = [{} for _ in networks]
    for size in sorted(batches):
        pixels = _repeated(images, size)
        others = [file.call(pixels) for file in files]
        batch = images.normalise(pixels)
        latency[size] = 1000 * seconds(networks, batch, rounds, where, others)
        if size == job["latency_batch"] and not where.is_cuda:
            parts = [by_kind(profile(net, batch, rounds, where)) for net in networks]
    return latency, parts


def run(
    job: Job,
    data: Path,
    models: list[Path],
    metrics: list[Path],
    predictions: list[Path],
    device: str,
    threads: int,
    exports: list[Path] | None = None,
) -> None:
    """Write metrics.json, and the predicted classes of all test images, for each of `models` and
    `exports`; the first is the reference supernet. Exported files run on the CPU.

    Parameters are counted in the built network and MACs by torch's flop counter (two flops a MAC),
    not by the formulas that the search uses. Latencies are measured side by side.
    """
    outputs = {"metrics": metrics, "predictions": predictions}
    _check_numbers(job["rows"], models=models, exports=exports or [], **outputs)
    where = choose(device, threads)
    found, digest = load_data(data)
    images = Images(found, where)
    checkpoints = [load_model(path) for path in models]
    networks = [where.place(network.load(checkpoint)).eval() for checkpoint in checkpoints]
    sizes = _counted(networks, images.normalise(images.test_images[:1]))
    files = []
    if exports:
        # By name, because st/core/sources.py must not take it for a part of every evaluation.
        running = importlib.import_module("st.deploy.running")
        for path, row in zip(exports, job["rows"][len(models) :], strict=True):
            files.append(running.Exported(path, row["to"], row["raw"], images, where.threads))
    latency, parts = _timed(job, networks, files, images, where)
    about = {
        "sha256": digest,
        "fingerprint": (read_header(data, FORMAT)["source"] or {}).get("contents"),
        "classes": found.classes,
    }
    made = provenance.here(where.describe(), where.threads) | provenance.commit()
    labels = images.test_labels
    places = {row["method"]: number for number, row in enumerate(job["rows"])}
    measured = []
    for number, row in enumerate(job["rows"]):
        base = places[row.get("of", row["method"])]  # the network itself
        checkpoint, (params, macs) = checkpoints[base], sizes[base]
        trained = checkpoint.facts.get("environment")
        if number < len(models):
            used = where.using((trained or {}).get("precision") or "auto")  # as in its training
            size, runs_on = models[number].stat().st_size, where.describe()
            precision = used.computes
            predicted = accuracy.predictions(networks[number], images, used)
        else:
            file = files[number - len(models)]
            size, runs_on, precision = file.bytes, file.device, file.precision
            predicted = file.predictions()
        facts = {
            "dataset": job["dataset"],
            "architecture": job["architecture"],
            "method": row["method"],
            "seed": job["seed"],
            "accuracy": accuracy.accuracy(predicted, labels),
            "params": params,
            "params_kept": params / sizes[0][0],
            "macs": macs,
            "macs_kept": macs / sizes[0][1],
            "bytes": size,
            "latency_ms": round(float(latency[job["latency_batch"]][number]), 4),
            "latency_by_batch": {n: round(float(ms[number]), 4) for n, ms in latency.items()},
            # of a network on a CPU: by kind, its operators and what they take, each called alone
            "operators": parts[number] if number < len(models) else {},
            "epochs": checkpoint.facts["epochs"],
            "teacher": row["teacher"],
            "device": runs_on,
            "torch": torch.__version__,
            "st": __version__,
            "class_accuracy": accuracy.by_class(predicted, labels, found.classes),
            "data": about,
            "trained": trained,
            "evaluated": {**made, "precision": precision},
        }
        measured.append((predicted.cpu().numpy(), facts))
    for number, (classes, facts) in enumerate(measured):  # only now: all of them, or none
        save_predictions(predictions[number], classes, labels.cpu().numpy())
        write_json(metrics[number], facts)
