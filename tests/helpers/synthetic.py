"""A synthetic results tree for the report, with numbers whose answers are known."""

import json
import zlib

import numpy as np

from st.config.layout import HISTORY, METRICS, PREDICTIONS, STRUCTURE, SUPERNET_HISTORY
from st.report import tables
from st.report.predictions import save_predictions

# row -> accuracy per seed
ACCURACY = {
    "supernet": [90.0, 91.0, 92.0],
    "supernet-sparse": [90.0, 90.5, 91.0],
    "st": [91.0, 91.6, 92.3],
    "scratch-b": [90.2, 90.9, 91.3],
    "kd-uniform": [91.5, 91.0, 92.6],
}


def place(pattern, folder, **names):
    return tables.place(pattern, folder, dataset="toy", architecture="net", **names)


def row(method, supernet="sparse", **subnet):
    """A row of the report's job; a subnet's has a search."""
    history = HISTORY if subnet else SUPERNET_HISTORY
    for key, value in {"method": method, "supernet": supernet}.items():
        history = history.replace(f"{{{key}}}", value)
    if subnet:
        subnet = {
            "criterion": "bn_scale", "blind": subnet.get("criterion") == "uniform",
            "budget": {"params": 0.1, "macs": 0.5}, "rounds": 3,
            "epoch_rule": "same", "max_epoch_factor": None, "anew": subnet["init"] == "random",
            "init_options": {}, "training": {"epochs": 4, "lr": 0.1},
            "no_search": "uniform",
            "spec": {"search": subnet["search"], "objective": {"kd": 0.9}}, **subnet,
        }  # fmt: skip
    spec = {"sparse": True} if supernet == "sparse" else {}
    return {"method": method, "supernet": supernet, "history": history, "spec": spec, **subnet}


IMAGES = 1000
LABELS = np.random.default_rng(0).integers(10, size=IMAGES)


def answers(accuracy: float, method: str, seed: int) -> np.ndarray:
    """Predicted classes of a network with this accuracy in percent: the images that are hard for
    one network mostly are for another."""
    hard = np.random.default_rng(1).standard_normal(IMAGES)
    own = np.random.default_rng([seed, zlib.crc32(method.encode())]).standard_normal(IMAGES)
    order = np.argsort(hard + 0.2 * own)
    predicted = (LABELS + 1) % 10
    right = order[: round(accuracy * IMAGES / 100)]
    predicted[right] = LABELS[right]
    return predicted


def make_job(seeds=(0, 1, 2), held_out=""):
    ce, kd = {"ce": {"weight": 1.0}}, {"kd": {"weight": 0.9, "temperature": 4.0}}
    rows = [
        row("supernet", "plain"),
        row("supernet-sparse"),
        row("st", search="slim", init="random", objective=kd),
        row("scratch-b", search="slim", init="random", objective=ce),
        row(
            "kd-uniform",
            "plain",
            search="uniform",
            criterion="uniform",
            init="random",
            objective=kd,
        ),
    ]
    return {
        "datasets": {"toy": held_out}, "seeds": list(seeds), "rows": {"net": rows},
        "latency_batch": 1, "params": "0123", "claims": {},
        "names": {
            "supernets": ["plain", "sparse"], "searches": ["slim", "uniform"],
            "methods": ["st", "scratch-b", "kd-uniform"],
        },
        "exports": {"net": []},
    }  # fmt: skip


def write_results(folder, job, accuracy=ACCURACY, kept=(0.1, 0.25)):
    """One architecture's results: supernets of 1000 parameters and 40000 MACs."""

    def write(pattern, text, **names):
        path = place(pattern, folder, **names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for number, seed in enumerate(job["seeds"]):
        for entry in job["rows"]["net"]:
            subnet = "search" in entry
            params, macs = kept if subnet else (1, 1)
            teacher = {"st": "supernet-sparse", "kd-uniform": "supernet"}.get(entry["method"])
            metrics = {
                "dataset": "toy", "architecture": "net", "method": entry["method"], "seed": seed,
                "accuracy": accuracy[entry["method"]][number],
                # 100, 101, 102 parameters in subnets
                "params": round(1000 * params) + subnet * number, "params_kept": params,
                "macs": round(40000 * macs), "macs_kept": macs,
                "bytes": 4000,
                "latency_ms": [0.5, 0.1, 0.2][number], "epochs": 4, "teacher": teacher,
                "device": "CPU_0 & co", "torch": "2.0", "st": "0.1",
                "trained": {"processor": "fast" if seed else "slow", "threads": 1},
                "evaluated": {"processor": "fast", "commit": None},
                "data": {"sha256": "5a" * 32, "fingerprint": "f1", "classes": ["cat", "dog"]},
            }  # fmt: skip
            write(METRICS, json.dumps(metrics), method=entry["method"], seed=seed)
            save_predictions(
                place(PREDICTIONS, folder, method=entry["method"], seed=seed),
                answers(metrics["accuracy"], entry["method"], seed),
                LABELS,
            )
            epochs = "".join(
                f"{e},0.1,1,{1 / e},{50 + e + number},{60 + e + number if e % 2 == 0 else ''}\n"
                for e in range(1, 5)
            )
            header = "epoch,lr,loss,ce,train_accuracy,test_accuracy\n"
            write(entry["history"], header + epochs, seed=seed)
        for search, width in (("slim", 2 + number), ("uniform", 4)):
            structure = {
                "widths": {"conv1": width, "conv2": 16},
                "supernet_widths": {"conv1": 8, "conv2": 16},
                "params_kept": 0.1, "macs_kept": 0.25,
            }  # fmt: skip
            write(STRUCTURE, json.dumps(structure), search=search, seed=seed)
