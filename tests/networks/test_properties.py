"""Properties that hold for any input: losses, structures, aggregation."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.networks import (
    SMALL,
    logits,
    masked,
    pruned,
    random_keep,
    random_tensors,
    small_structure,
)
from helpers.synthetic import make_job, place, write_results
from hypothesis import given, settings
from hypothesis import strategies as st_

from st.config.layout import METRICS
from st.core.errors import StError
from st.core.registry import inits, losses
from st.networks import network
from st.networks.checkpoint import Checkpoint
from st.networks.structure import Structure
from st.report import tables
from st.training.objective import Objective

seeds = st_.integers(0, 2**32 - 1)
names = st_.sampled_from(sorted(SMALL))
FULL = {name: small_structure(name) for name in SMALL}


@given(names, seeds, st_.floats(0.01, 10))
@settings(max_examples=60)
def test_the_extracted_network_computes_what_the_masked_one_does(name, seed, scale):
    rng = np.random.default_rng(seed)
    full, tensors = FULL[name], random_tensors(FULL[name], rng)
    part = pruned(full, random_keep(full, rng))
    small = inits.get("inherit")(part, Checkpoint("", tensors, full, {}), 0)
    batch = scale * torch.from_numpy(rng.standard_normal((2, *full.input_shape)))
    expected = logits(full, masked(part, tensors), batch)
    torch.testing.assert_close(logits(part, small, batch), expected, rtol=1e-8, atol=1e-8)
    assert sum(p.numel() for p in network.build(part, small).parameters()) == part.cost()[0]


@given(names, seeds)
@settings(max_examples=60)
def test_structures_survive_json(name, seed):
    part = pruned(FULL[name], random_keep(FULL[name], np.random.default_rng(seed)))
    data = json.loads(json.dumps(part.to_json()))
    back = Structure.from_json(data, "x")
    assert back.to_json() == part.to_json() and back.cost() == part.cost()
    assert back.full.cost() == FULL[name].cost()


# Losses that compare relations within the batch, or outputs of the same shape.
TAUGHT = [name for name in losses.names() if losses.get(name).teacher]
ZERO = [name for name in TAUGHT if name != "fitnet"]  # it has a random regressor between the two
FAMILY, SIZE = "vgg", (1, 8, 8)


def observed(seed: int, batch: int) -> tuple[dict, torch.Tensor]:
    """A network's outputs at all taps, in float64, and labels."""
    structure = Structure(FAMILY, {"layers": [4, "M", 5, "M", 6]}, SIZE, 4)
    rng = np.random.default_rng(seed)
    net = network.build(structure, random_tensors(structure, rng)).double().eval()
    images = torch.from_numpy(rng.standard_normal((batch, *SIZE)))
    with torch.no_grad():
        outputs = net(images, tuple(structure.graph.taps))
    return outputs, torch.from_numpy(rng.integers(0, 4, batch))


def value(name: str, student: dict, teacher: dict, labels: torch.Tensor) -> float:
    """A loss of weight 1, with its defaults."""
    taps = dict.fromkeys(student)
    objective = Objective({name: {"weight": 1.0, **losses.check(name, {})}}, taps)
    if objective.adaptive:
        from st.core.device import Device

        objective.adapt(student, teacher, 0, Device("cpu"))
        objective.adapters.double()
    return objective(student, teacher, labels)["loss"].item()


@pytest.mark.parametrize("name", ZERO)
@given(seed=seeds, batch=st_.integers(2, 9))
@settings(max_examples=15)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name, seed, batch):
    outputs, labels = observed(seed, batch)
    assert abs(value(name, outputs, outputs, labels)) < 1e-6


@pytest.mark.parametrize("name", losses.names())
@given(seed=seeds, batch=st_.integers(2, 9))
@settings(max_examples=15)
def test_the_order_of_a_batch_does_not_matter(name, seed, batch):
    student, labels = observed(seed, batch)
    teacher, _ = observed(seed + 1, batch)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(batch))
    mixed = [{tap: v[order] for tap, v in outputs.items()} for outputs in (student, teacher)]
    before = value(name, student, teacher, labels)
    assert before >= -1e-9
    assert value(name, *mixed, labels[order]) == pytest.approx(before, rel=1e-4, abs=1e-7)


@given(seeds, st_.floats(0, 100), st_.sampled_from(TAUGHT))
@settings(max_examples=30)
def test_weights_are_factors(seed, weight, name):
    if name == "fitnet":
        return
    student, labels = observed(seed, 5)
    teacher, _ = observed(seed + 1, 5)
    options, taps = losses.check(name, {}), dict.fromkeys(student)
    spec = {"ce": {"weight": 1.0}, name: {"weight": weight, **options}}
    found = Objective(spec, taps)(student, teacher, labels)["loss"].item()
    alone = value("ce", student, teacher, labels)
    other = value(name, student, teacher, labels)
    assert found == pytest.approx(alone + weight * other, rel=1e-5, abs=1e-7)


@given(st_.lists(st_.floats(0, 100), min_size=1, max_size=6), seeds)
@settings(max_examples=60)
def test_aggregation(accuracies, seed):
    """Against numpy, in whatever order the runs come."""
    rng, number = np.random.default_rng(seed), len(accuracies)
    latency = rng.uniform(0.01, 9, number)
    runs = pd.DataFrame(
        {
            "dataset": "d", "architecture": "a", "method": "m", "seed": range(number),
            "accuracy": accuracies, "params": rng.integers(1, 10**9, number),
            "params_kept": rng.random(number), "macs": rng.integers(1, 10**9, number),
            "macs_kept": rng.random(number), "bytes": 4000, "latency_ms": latency,
            "epochs": rng.integers(1, 99, number), "teacher": None,
        }
    )  # fmt: skip
    (row,) = tables.aggregate(runs).to_dict("records")
    assert row["seeds"] == number
    assert row["accuracy_mean"] == pytest.approx(np.mean(accuracies), abs=1e-9)
    if number > 1:
        assert row["accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1), abs=1e-6)
    else:
        assert np.isnan(row["accuracy_std"])
    assert row["latency_ms"] == pytest.approx(np.median(latency))
    assert row["params"] == round(runs["params"].mean())
    again = tables.aggregate(runs.sample(frac=1, random_state=seed))
    assert again["accuracy_mean"].item() == pytest.approx(row["accuracy_mean"], abs=1e-9)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder, job = tmp_path_factory.mktemp("results"), make_job()
    write_results(folder, job)
    return job, folder


@given(st_.data())
@settings(max_examples=25)
def test_whatever_run_is_missing_there_is_no_table_without_it(results, data):
    job, folder = results
    method = data.draw(st_.sampled_from([row["method"] for row in job["rows"]["net"]]))
    path = place(METRICS, folder, method=method, seed=data.draw(st_.sampled_from(job["seeds"])))
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(StError) as caught:
            tables.collect(job, folder)
        assert str(caught.value).startswith(f"{path}: ")
    finally:
        path.write_bytes(content)
    assert len(tables.collect(job, folder)) == len(job["rows"]["net"]) * len(job["seeds"])
