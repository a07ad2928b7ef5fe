"""Transformable Architecture Search: whole searches, called directly and from params.yaml."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from helpers.images import stripes
from helpers.networks import counted
from helpers.tas import NETWORKS, WIDTHS, generator, supernet

from st import cli
from st.config.check import parse
from st.core.device import Device
from st.core.errors import StError
from st.core.registry import criteria
from st.core.sources import sources
from st.data.dataset import opened, save_data
from st.networks.checkpoint import load_model
from st.networks.structure import Structure, load_structure
from st.pruning.criteria import Subject
from st.pruning.selection import Budget
from st.pruning.tas import loop
from st.pruning.tas.network import Supernet, sample
from st.pruning.tas.space import read
from st.training.resume import Interrupted, Resume

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path):
    save_data(tmp_path / "data", stripes(160), {})
    return tmp_path / "data"


def searched(name, data, macs: float = 0.5, seed: int = 0, state=None, params=None, **options):
    full = supernet(name)
    options = criteria.check("tas", {"epochs": 1, "batch_size": 8, "crop": 1, **options})
    subject = Subject(full, {}, Budget(params, macs), seed, data, "cpu", 1, state)
    return full, criteria.get("tas")(subject, **options)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("macs", [0.3, 0.6])
def test_found_networks_meet_the_budget(name, macs, data):
    full, found = searched(name, data, macs)
    assert 0.95 * macs <= found.cost()[1] / full.cost()[1] <= macs
    assert found.full.to_json() == full.to_json() and found.keep == {}
    assert found.cost() == counted(found)
    again = Structure.from_json(json.loads(json.dumps(found.to_json())), "file")
    assert again.to_json() == found.to_json() and again.cost() == found.cost()


def run_loop(
    data, macs: float, epochs: int, name="resnet-14", resume=None, stop=None, precision="auto",
    **options,
):  # fmt: skip
    """All of a search but its end."""
    full = supernet(name)
    space = read(full, WIDTHS)
    options = criteria.check("tas", {"architecture_lr": 0.05, "epochs": epochs, **options})
    where = loop.choose("cpu", 1, precision=precision)
    images = loop.Images(loop.opened(data)[0], where)
    run = loop.Search(
        Supernet(full, space, 0), images, loop.Training(epochs=epochs, batch_size=8),
        macs * full.cost()[1], options, loop.Augment(crop=1), 0, where,
    )  # fmt: skip
    if resume:
        resume.restore(run)
    started = run.network.expected_macs().item() / full.cost()[1]

    def after_epoch(run, speed):
        if resume and len(run.history) == stop:
            resume._request_stop()
        if resume:
            resume.after_epoch(run)

    loop.fit(run, after_epoch)
    return run, started, [row["expected_macs"] / full.cost()[1] for row in run.history]


@pytest.mark.parametrize("macs", [0.15, 0.8])
def test_it_moves_towards_the_target(macs, data):
    """The likeliest network does, and the expected MACs follow."""
    run, started, expected = run_loop(data, macs, epochs=8, macs_weight=20.0)
    found = [row["macs"] / run.target for row in run.history]
    assert np.abs(np.array(found[-2:]) - 1).max() < 0.25
    assert (expected[-1] - started) * (macs - started) > 0.05 * abs(macs - started)
    # one step's gradient reaches every candidate that there is, and no other
    network = run.network
    logits = network.logits()
    choice = sample(logits, len(network.space.layers), 1.0, generator())
    batch = run.images.train_images[:8]
    (gradient,) = torch.autograd.grad(run.outputs(batch, choice)[:, 0].sum(), network.architecture)
    assert gradient.isfinite().all() and (gradient != 0).any(1)[: len(network.space.layers)].any()
    (gradient,) = torch.autograd.grad(network.expected_macs(), network.architecture)
    assert ((gradient != 0) == network.exists).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(data, precision):
    """At 0.6 of the MACs neither two hundredths more or less nor the precision matters; at 0.5 some
    searches draw networks that are too narrow for three classes."""
    run, _, _ = run_loop(
        data, 0.6, epochs=15, name="vgg", temperature=[10.0, 2.0], precision=precision
    )
    assert run.history[-1]["train_accuracy"] > 80


def test_batches_above_half_of_the_images_are_told(data, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(loop, "say", said.append)
    searched("vgg", data, batch_size=1000)
    (message,) = said
    assert "batch_size 1000" in message and "takes all of one" in message
    found, _ = opened(data)
    few = replace(found, train_images=found.train_images[:3], train_labels=found.train_labels[:3])
    save_data(tmp_path / "few", few, {})
    with pytest.raises(StError, match="needs 4 training images or more, not 3"):
        searched("vgg", tmp_path / "few")


def test_the_seed_decides(data):
    _, one = searched("resnet-14", data)
    _, again = searched("resnet-14", data)
    _, other = searched("resnet-14", data, seed=1)
    assert one.options == again.options != other.options


def test_an_interrupted_search_goes_on_exactly(data, tmp_path):
    whole, _, _ = run_loop(data, 0.5, epochs=4)
    path = tmp_path / "resume.safetensors"
    with pytest.raises(Interrupted):
        run_loop(data, 0.5, 4, resume=Resume(path, {}, Device("cpu")), stop=2)
    rest, _, _ = run_loop(data, 0.5, 4, resume=Resume(path, {}, Device("cpu")))
    assert rest.history == whole.history and len(rest.history) == 4
    for name, value in whole.network.state_dict().items():
        assert torch.equal(rest.network.state_dict()[name], value), name


def test_no_state_remains(data, tmp_path, monkeypatch):
    monkeypatch.setattr("st.training.resume.INTERVAL", 0)
    searched("vgg", data, state=tmp_path / "resume.safetensors", epochs=2)
    assert list(tmp_path.iterdir()) == [data]


def test_a_params_budget_that_the_result_exceeds(data):
    with pytest.raises(StError, match=r"has [\d,]+ parameters, the budget allows"):
        searched("vgg", data, params=0.1)


TAS = """
seeds: [0]
datasets: {digits: {source: digits}}
architectures:
  resnet: {family: resnet, options: {depth: 14, width: 0.25}}
training: {epochs: 1, schedule: onecycle}
searches:
  tas: {criterion: tas, budget: {macs: 0.5}, options: {epochs: 1, crop: 1}}
methods:
  tas: {search: tas, objective: {ce: 0.1, kd: {weight: 0.9, temperature: 4}, cc: 0.02}}
evaluation: {latency_rounds: 1}
"""


def test_as_one_line_of_params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(TAS)
    where, on_cpu = "digits/resnet/seed0", ("--device", "cpu", "--threads", "1")
    for command, *arguments in [
        ("prepare", "digits"),
        ("pretrain", f"{where}/plain", *on_cpu),
        ("search", f"{where}/tas", *on_cpu),
        ("initialize", f"{where}/tas"),
        ("train", f"{where}/tas", *on_cpu),
        ("evaluate", where, *on_cpu),
    ]:
        assert cli.main([command, *arguments]) == 0
    structure = load_structure(f"results/search/{where}/tas/structure.json")
    model = load_model(f"results/train/{where}/tas/model.safetensors")
    assert model.structure.to_json() == structure.to_json()
    metrics = json.loads((tmp_path / f"results/evaluate/{where}/tas/metrics.json").read_text())
    assert (metrics["params"], metrics["macs"]) == structure.cost()
    assert 0.475 <= metrics["macs_kept"] <= 0.5 and metrics["teacher"] == "supernet"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"budget": {"params": 0.5}}, "searches.tas.criterion: resnet: criterion 'tas': needs"),
        (
            {"budget": {"macs": 0.01}},
            "searches.tas.criterion: resnet: criterion 'tas': the budget's",
        ),
        ({"options": {"widths": []}}, "option 'widths'"),
        ({"options": {"temperature": [1]}}, "option 'temperature'"),
        ({"options": {"epoch": 3}}, "did you mean 'epochs'"),
    ],
)
def test_mistakes_are_told_before_any_job(change, words):
    params = yaml.safe_load(TAS)
    params["searches"]["tas"] |= change
    with pytest.raises(StError) as caught:
        parse(params)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_architectures_that_no_method_searches_may_be_of_any_family():
    params = yaml.safe_load(TAS)
    params["architectures"]["dense"] = {"family": "densenet", "options": {"depth": 10}}
    with pytest.raises(StError, match=r"dense: .*can't be searched"):
        parse(params)
    params["methods"]["tas"]["architectures"] = ["resnet"]
    parse(params)


def test_only_tas_depends_on_its_code_and_on_training():
    def files(criterion):
        modules = ("st.phases.search", f"st.pruning.criteria.{criterion}")
        return {str(path) for path in sources(*modules)}

    own = {
        *("pruning/tas/loop.py", "pruning/tas/network.py", "pruning/tas/space.py"),
        *("training/loop.py", "training/resume.py"),
    }
    for name in own:
        assert any(path.endswith(f"st/{name}") for path in files("tas"))
        assert not any(path.endswith(f"st/{name}") for path in files("bn_scale"))


def test_a_search_that_reads_data_says_if_there_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(TAS)
    cli.main(["prepare", "digits"])
    cli.main(["pretrain", "digits/resnet/seed0/plain", "--device", "cpu"])
    job = {"criterion": "tas", "seed": 0, "budget": {"macs": 0.5}, "options": {}}
    job = json.dumps({**job, "latency": None, "lottery": None})
    model = "results/pretrain/digits/resnet/seed0/plain/model.safetensors"
    capsys.readouterr()
    assert cli.main(["search", "--job", job, "--supernet", model, "--structure", "s.json"]) == 2
    assert "--data is missing: criterion 'tas' reads the data" in capsys.readouterr().err
