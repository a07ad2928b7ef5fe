"""The command line, in an empty folder: what it writes, what it says, what it leaves behind."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers.project import ROOT

from st import cli
from st.config import layout
from st.config.check import load
from st.config.grid import Grid
from st.config.layout import Experiment
from st.config.named import named_job
from st.core import registry
from st.core.progress import logger
from st.networks.checkpoint import load_model
from st.networks.structure import load_structure

EXPERIMENT = "digits/vgg/seed0"
ON_CPU = ("--device", "cpu", "--threads", "1")


def st(*arguments: str) -> int:
    """The exit status of `st ARGUMENTS`, as in a process of its own."""
    status = cli.main(list(arguments))
    logger.handlers.clear()
    return status


def python(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


def modules(code: str) -> set[str]:
    """The top-level modules that are loaded once a fresh Python has run `code`."""
    done = python(code + "\nimport sys; print('\\n'.join({m.split('.')[0] for m in sys.modules}))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n"))


def test_help_is_light_and_fast():
    code = "from st.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    heavy = {"torch", "numpy", "pydantic", "yaml", "safetensors", "sklearn", "torchvision"}
    assert not modules(code) & heavy
    started = time.perf_counter()
    assert "pretrain" in python("from st.cli import main; main(['--help'])").stdout
    assert time.perf_counter() - started < 2


def test_the_workflow_needs_no_torch():
    params = str(ROOT / "params.yaml")
    code = (
        "import st.config.grid, st.config.params, st.config.check\n"
        "from st.config import wiring\n"
        f"grid = st.config.grid.Grid(st.config.check.load({params!r}))\n"
        "grid.report()\n"
        "[grid.train('digits', 'vgg', 0, m) for m in grid.methods('vgg')]\n"
        "[wiring.made(grid, phase) for phase in ('search', 'initialize', 'train', 'evaluate')]"
    )
    assert not modules(code) & {"torch", "torchvision", "sklearn", "pandas", "matplotlib"}


@pytest.mark.parametrize(
    "command",
    [*cli.PHASES, "params", "options", "schema", "predict", "export", "diff", "latency", "profile"],
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0 and f"usage: st {command}" in printed
    if command in cli.PHASES:
        options = (*layout.INPUTS[command], *layout.OUTPUTS[command])
        assert all(f"--{option}" in printed for option in options)
        assert cli.PHASES[command][0] in printed


@pytest.fixture
def project(tmp_path, tiny, monkeypatch):
    """A folder with nothing but params.yaml."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def run_all() -> None:
    """Every phase but the report, without Snakemake."""
    for arguments in [
        ("prepare", "digits"),
        ("pretrain", f"{EXPERIMENT}/sparse", *ON_CPU),
        ("search", f"{EXPERIMENT}/slimming"),
        ("initialize", f"{EXPERIMENT}/st"),
        ("train", f"{EXPERIMENT}/st", *ON_CPU),
        ("initialize", f"{EXPERIMENT}/lottery"),
        ("train", f"results/train/{EXPERIMENT}/lottery/", *ON_CPU),
        ("evaluate", EXPERIMENT, *ON_CPU),
    ]:
        assert st(*arguments) == 0, arguments


def test_all_phases_without_snakemake(project, capsys):
    run_all()
    results = project / "results"
    assert files(project) == {
        "params.yaml",
        "results/prepare/digits/data.safetensors",
        *(
            f"results/pretrain/{EXPERIMENT}/sparse/{name}"
            for name in ("model.safetensors", "rewind.safetensors", "history.csv")
        ),
        f"results/search/{EXPERIMENT}/slimming/structure.json",
        *(f"results/initialize/{EXPERIMENT}/{m}/init.safetensors" for m in ("st", "lottery")),
        *(
            f"results/train/{EXPERIMENT}/{method}/{name}"
            for method in ("st", "lottery")
            for name in ("model.safetensors", "history.csv")
        ),
        *(
            f"results/evaluate/{EXPERIMENT}/{row}/{name}"
            for row in ("supernet", "st", "lottery")
            for name in ("metrics.json", "predictions.safetensors")
        ),
    }
    supernet = load_model(results / f"pretrain/{EXPERIMENT}/sparse/model.safetensors")
    structure = load_structure(results / f"search/{EXPERIMENT}/slimming/structure.json")
    subnet = load_model(results / f"train/{EXPERIMENT}/st/model.safetensors")
    assert subnet.structure.to_json() == structure.to_json()
    assert structure.full.to_json() == supernet.structure.to_json()
    assert 0.3 < structure.cost()[0] / supernet.structure.cost()[0] <= 0.5

    metrics = {
        row: json.loads((results / f"evaluate/{EXPERIMENT}/{row}/metrics.json").read_text())
        for row in ("supernet", "st", "lottery")
    }
    assert metrics["st"]["teacher"] == "supernet" and metrics["lottery"]["teacher"] is None
    assert metrics["supernet"]["params_kept"] == metrics["supernet"]["macs_kept"] == 1
    assert (metrics["st"]["params"], metrics["st"]["macs"]) == structure.cost()
    assert all(row["latency_ms"] > 0 and row["epochs"] == 2 for row in metrics.values())
    with open(results / f"train/{EXPERIMENT}/st/history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["test_accuracy"]) == pytest.approx(metrics["st"]["accuracy"], rel=1e-4)
    assert set(rows[0]) >= {"loss", "ce", "kd", "cc", "lr", "train_accuracy"}
    told = capsys.readouterr().err
    assert f"train {EXPERIMENT}/st: epoch 2/2" in told and "897 training images, 900 test" in told


def test_the_same_again_gives_the_same_bytes(project):
    run_all()
    names = [name for name in files(project) if "evaluate" not in name]
    before = {name: (project / name).read_bytes() for name in names}
    run_all()
    assert {name: (project / name).read_bytes() for name in names} == before


def test_data_that_were_prepared_otherwise_are_refused(project, capsys):
    assert st("prepare", "digits") == 0
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(
        text.replace("source: digits", "source: digits\n    holdout: 0.2")
    )
    assert st("pretrain", f"{EXPERIMENT}/sparse") == 2
    assert "data.safetensors: was prepared with other options" in capsys.readouterr().err
    assert not Path("results/pretrain").exists()
    Path("params.yaml").write_text(text)


def test_jobs_are_the_workflows_to_the_byte(project):
    """Files have their jobs in them: who runs a phase by hand makes nothing that seems new."""
    grid = Grid(load("params.yaml"))
    for phase, *names in (
        ("prepare", "digits"),
        ("pretrain", EXPERIMENT, "sparse"),
        ("search", EXPERIMENT, "slimming"),
        ("initialize", EXPERIMENT, "st"),
        ("train", EXPERIMENT, "st"),
        ("evaluate", EXPERIMENT),
    ):
        job, _, label = named_job(grid, phase, "/".join(names))
        dataset, architecture, seed, name = (*label.split("/"), "", "", "")[:4]
        about = Experiment(dataset, architecture, 0 if seed else "", name)
        assert json.dumps(job) == json.dumps(grid.job(phase, about))
        assert json.dumps(job) == json.dumps(job, sort_keys=True)


def test_a_job_as_the_workflow_passes_it(project):
    job = json.dumps({"source": "digits", "options": {}, "holdout": 0.0})
    arguments = ["prepare", "--job", job, "--data", "a/b/data", "--log", "logs/x.log"]
    assert st(*arguments) == 0
    assert files(project) == {"params.yaml", "a/b/data", "logs/x.log"}
    assert "897 training" in (project / "logs/x.log").read_text()


def test_two_params_files_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["params", "bad.yaml", "--configfile", "none.yaml"])
    assert "--params/--configfile: not allowed with argument FILE" in capsys.readouterr().err


def test_params_and_schema(project, capsys):
    assert st("params") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["training"]["momentum"] == 0.9 and printed["training"]["lr"] == 0.05
    assert st("schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Params"


def test_all_options_are_listed(project, capsys):
    """Whatever is registered, here and by a plugin, with each option, its default and bounds."""
    Path("own_loss.py").write_text(
        "from st.core.registry import losses\n@losses.register\n"
        "def apart(student, teacher, labels, *, power: int = 2):\n    'How far apart.'\n"
        "apart.teacher, apart.taps = True, ('logits',)\n"
    )
    try:
        assert st("options", "--plugin", "own_loss") == 0
    finally:
        registry.losses._entries.pop("apart", None)
    lines = capsys.readouterr().out.splitlines()
    assert "  apart: How far apart." in lines and "      power = 2: integer" in lines
    for known in (registry.architectures, registry.datasets, registry.criteria, registry.losses):
        for name in known.names():
            at = next(n for n, line in enumerate(lines) if line.startswith(f"  {name}: "))
            listed = {re.split("[ :]", line.strip())[0] for line in lines[at:]}
            assert {*known.schema(name)["properties"]} <= listed
    assert "      train_size = null: integer, at least 8, at most 1024" in lines
    assert "      layers = null: list of integer, at least 1, at most 65536; or M" in lines
    assert max(map(len, lines)) <= 100
    assert st("options", "kd") == 0
    told = capsys.readouterr().out
    assert "  kd: Knowledge distillation (Hinton et al. 2015).\n      T^2 KL(" in told
    assert "temperature = 4.0: number, above 0, at most 1000" in told and "bn_scale" not in told
    assert st("options", "dk") == 2
    assert "unknown name 'dk'; did you mean 'dkd'?" in capsys.readouterr().err


BAD = [
    (["params", "none.yaml"], "none.yaml: cannot be read"),
    (["params", "--configfile", "none.yaml"], "none.yaml: cannot be read"),
    (["params", "bad.yaml"], "bad.yaml: seeds: is missing"),
    (["params", "far.yaml"], "far.yaml: datasets.digits.options.root: /none is not there"),
    (["pretrain", f"{EXPERIMENT}/sparse", "--params", "bad.yaml"], "bad.yaml: seeds: is missing"),
    (["pretrain", f"{EXPERIMENT}/sparse"], "results/prepare/digits/data.safetensors: is missing"),
    (["pretrain", f"{EXPERIMENT}/spars"], "did you mean 'sparse'"),
    (["search", f"{EXPERIMENT}/slimming"], "sparse/model.safetensors: is missing"),
    (["search", f"{EXPERIMENT}/sliming"], "did you mean 'slimming'"),
    (["initialize", f"{EXPERIMENT}/st"], "structure.json: cannot be read"),
    (["train", f"{EXPERIMENT}/st", "--device", "cpu"], "data.safetensors: is missing"),
    (["train", f"{EXPERIMENT}/sst"], "did you mean 'st'"),
    (["train", "digits/vgg/seed1/st"], "unknown seed 'seed1'"),
    (["train", "digits/vg/seed0/st"], "did you mean 'vgg'"),
    (["train", "digit/vgg/seed0/st"], "did you mean 'digits'"),
    (["train", "digits/st"], "train needs DATASET/ARCHITECTURE/seedN/NAME"),
    (["evaluate", f"{EXPERIMENT}/st"], "evaluate needs DATASET/ARCHITECTURE/seedN"),
    (["evaluate", EXPERIMENT], "data.safetensors: is missing"),
    (["report"], "No such file or directory); make it by snakemake, or by `st evaluate`"),
    (["report"], "report: error: results/evaluate/digits/vgg/seed0/supernet/metrics.json: "),
    (["evaluate", EXPERIMENT, "--models", "x"], "--models: needs 3 files (supernet, lottery, st)"),
    (["evaluate", EXPERIMENT, "--metrics", "x", "y"], "--metrics: needs 3 files"),
    (["train", f"{EXPERIMENT}/lottery", "--teacher", "x"], "--teacher: this job has no such file"),
    (["search", f"{EXPERIMENT}/slimming", "--data", "x"], "--data: this job has no such file"),
    (["train", f"{EXPERIMENT}/st", "--plugin", "x"], "--plugin: is for --job; the params file"),
    (
        ["train", f"{EXPERIMENT}/st", "--init", "params.yaml", "--model", "./params.yaml"],
        "an input",
    ),
    (["pretrain", f"{EXPERIMENT}/sparse", "--data", "bad.yaml", "--log", "bad.yaml"], "an input"),
    (
        ["train", f"{EXPERIMENT}/st", "--model", "a", "--history", "./a"],
        "a: is named twice",
    ),
    (["latency", "."], ".: is not a file; name a model.safetensors"),
    (["convert", ".", "x.safetensors"], ".: is not a file; name one that torch.save wrote"),
    (["params", ""], "'': cannot be read (Is a directory); name a params file"),
    (["prepare", "digits/vgg"], "prepare needs DATASET"),
    (["prepare", ""], "unknown data set ''"),
    (["prepare", "--job", "{"], "--job: is not JSON"),
    (["prepare", "--job", "[]"], "--job: must be a JSON object"),
    (["prepare", "--job", "{}"], "--data is missing"),
    (["prepare", "--job", "{}", "--plugin", "nothing", "--data", "x"], "'nothing' cannot be"),
    (["prepare", "digits", "--data", "params.yaml/x"], "params.yaml/x: cannot be written"),
    (["prepare", "digits", "--log", "params.yaml/x"], "--log params.yaml/x: cannot be written"),
]


@pytest.mark.parametrize(
    "arguments, words", BAD, ids=lambda x: x if isinstance(x, str) else " ".join(x)[:50]
)
def test_errors_are_one_line(project, capsys, arguments, words):
    (project / "bad.yaml").write_text("datasets: {d: {source: digits}}\narchitectures: {}\n")
    far = yaml.safe_load((project / "params.yaml").read_text())
    far["datasets"]["digits"] = {"source": "imagefolder", "options": {"root": "/none"}}
    (project / "far.yaml").write_text(yaml.safe_dump(far))
    before = files(project)
    assert st(*arguments) == 2
    told = capsys.readouterr()
    (line, *others) = told.err.rstrip("\n").split("\n")
    assert words in line and told.out == ""
    # bad.yaml has a second problem, told in a line of its own
    assert not [o for o in others if "bad.yaml: architectures: " not in o]
    assert files(project) == before


@pytest.mark.parametrize(
    "device, words",
    [
        ("cudda", "use auto, cpu, cuda"),
        ("cuda:x", "use auto, cpu, cuda"),
        ("", "use auto, cpu, cuda"),
        ("cuda:99", "device cuda:99: "),
    ],
)
def test_devices_that_are_not_there(project, capsys, device, words):
    assert st("prepare", "digits") == 0
    before = files(project)
    capsys.readouterr()
    assert st("pretrain", f"{EXPERIMENT}/sparse", "--device", device) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert files(project) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["train"],
        ["train", "a", "--job", "{}"],
        ["train", "a", "--threads", "-1"],
        ["train", "a", "--threads", "many"],
        ["train", "a", "--threads", "100000"],
        ["prepare", "a", "--threads", "100000"],
        ["profile", "a", "--threads", "100000"],
        ["train", "a", "--processes", "100000"],
        ["prepare", "digits", "--models", "x"],
    ],
)
def test_wrong_usage(project, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "usage: st" in told and "Traceback" not in told
    assert files(project) == {"params.yaml"}


ENDS = """
import sys
import torch
from st.core.registry import datasets
@datasets.register
def ends():
    sys.exit(0)
ends.shape = lambda: ((1, 8, 8), 10)
class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = torch.nn.Linear(64, num_classes)
    def forward(self, x):
        sys.exit("no more")
"""


@pytest.mark.parametrize(
    "change, command, words",
    [
        ({"datasets": {"d": {"source": "ends"}}}, ["prepare", "d"], "the program (status 0)"),
        (
            {
                "datasets": {"digits": {"source": "digits"}},
                "architectures": {"n": {"family": "import", "options": {"module": "ends:Net"}}},
            },
            ["draw", "digits/n"],
            "module 'ends:Net': ends the program when it is made or run (no more)",
        ),
    ],
)
def test_code_that_ends_the_program(project, tiny, change, command, words):
    (project / "ends.py").write_text(ENDS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert st("prepare", "digits") == 0
    (project / "params.yaml").write_text(yaml.safe_dump({**tiny, "plugins": ["ends"], **change}))
    before = files(project)
    done = subprocess.run(
        [sys.executable, "-m", "st", *command],
        capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert {name for name in files(project) if ".pyc" not in name} == before


def test_as_a_program(project):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "st", "search", f"{EXPERIMENT}/slimming"],
        capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "is missing" in done.stderr


def test_a_diverging_training_leaves_no_files(project, monkeypatch, capsys):
    assert st("prepare", "digits") == 0
    before = files(project)
    monkeypatch.setattr("st.training.loop.learning_rate", lambda *arguments: 1e30)
    capsys.readouterr()
    assert st("pretrain", f"{EXPERIMENT}/sparse", *ON_CPU) == 2
    *noted, told = capsys.readouterr().err.splitlines()
    assert "the loss is nan in epoch 1" in told and not any("error" in line for line in noted)
    assert files(project) == before


@pytest.mark.parametrize("command", [["schema"], ["params", str(ROOT / "params/tiny.yaml")]])
def test_output_that_nobody_reads_on(command):
    """As in `st show FILE | head`: no traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "st", *command],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
