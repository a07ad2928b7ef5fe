"""The command line: one sub-command a phase. Imports are lazy, so that `st --help` is instant."""

import argparse
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

from st import __version__
from st.config import layout
from st.core import process
from st.core.errors import StError, explained, one_line
from st.core.files import check_apart
from st.core.guest import INSTEAD, status
from st.training.launch import ABANDONED, Abandoned, Member, launch

# phase -> (help, whether it computes with torch)
PHASES = {
    "prepare": ("decode a data set once for all jobs", False),
    "draw": ("import a network of one's own", False),
    "pretrain": ("train a supernet", True),
    "search": ("find a subnet's structure in a supernet", True),
    "initialize": ("give a structure its first weights", False),
    "train": ("train a subnet on labels and the supernet's knowledge", True),
    "deploy": ("write a trained network as a file for other programs", False),
    "evaluate": ("measure accuracy, size and latency", True),
    "report": ("aggregate all metrics to tables and figures", False),
}
PARALLEL = ("pretrain", "train")  # phases that several processes can compute
READS = ("prepare",)  # phases that read images by as many processes as they have threads


def parser() -> argparse.ArgumentParser:
    """The command line: one sub-command for each phase, and those for people."""
    root = argparse.ArgumentParser(
        prog="st", description="Search-and-Train: two-stage compression of CNNs."
    )
    root.add_argument("--version", action="version", version=f"st {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, torch) in PHASES.items():
        command = commands.add_parser(name, help=text, description=text)
        what = command.add_mutually_exclusive_group(required=name != "report")
        if name != "report":
            what.add_argument(
                "experiment",
                nargs="?",
                help="the experiment in --params, such as digits/vgg/seed0/st; files have their "
                "usual places under results/",
            )
        what.add_argument("--job", help="the job as JSON, as the workflow passes it")
        _add_params(command)
        command.add_argument("--plugin", action="append", default=[], help="a module to import")
        command.add_argument("--log", type=Path, help="also write all messages to this file")
        for option in (*layout.INPUTS[name], *layout.OUTPUTS[name]):
            several: dict[str, Any] = {"nargs": "+"} if option in layout.LISTS else {}
            role = "input" if option in layout.INPUTS[name] else "output"
            command.add_argument(f"--{option}", type=Path, help=f"{role} file", **several)
        if torch:
            _add_device(command)
        elif name in READS:
            command.add_argument("--threads", type=_threads, default=0, help="CPU threads")
        if name in PARALLEL:
            command.add_argument(
                "--processes",
                type=_processes,
                default=1,
                metavar="N",
                help="compute it with N processes, each on a GPU of its own (default: 1)",
            )
    text = "predict jobs, hours and disk of a grid, from a short measurement"
    cost = commands.add_parser("estimate", help=text, description=text)
    _add_params(cost)
    cost.add_argument("--jobs", type=_positive, default=1, help="at a time (default: %(default)s)")
    cost.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    cost.add_argument("--rates", type=Path, help="do not measure; a file from --save")
    cost.add_argument("--save", type=Path, help="write what was measured to this file")
    params = commands.add_parser("params", help="check a params file and print it completed")
    one = params.add_mutually_exclusive_group()
    _add_params(one)
    one.add_argument(
        "params", nargs="?", default=argparse.SUPPRESS, metavar="FILE", help="the same as --params"
    )
    text = "print what params files may name (criteria, losses, ...), and the options of each"
    options = commands.add_parser("options", help=text, description=text)
    options.add_argument("names", nargs="*", metavar="NAME", help="only these, such as kd")
    options.add_argument("--plugin", action="append", default=[], help="a module to import")
    text = "print a model, structure, history, metrics, data or predictions file for a person"
    show = commands.add_parser("show", help=text, description=text)
    show.add_argument("path", type=Path, help="such as results/train/.../model.safetensors")
    show.add_argument("--json", action="store_true", help="print it as JSON")
    show.add_argument("--plugin", action="append", default=[], help="a module to import")
    text = "make a safetensors file of a state dict that torch saved (.pth, .pt)"
    pth = commands.add_parser("convert", help=text, description=text)
    pth.add_argument("source", type=Path)
    pth.add_argument("target", type=Path)
    text = "print how two models or structures differ, layer by layer"
    differ = commands.add_parser("diff", help=text, description=text)
    for name in ("one", "other"):
        differ.add_argument(name, type=Path, help="a model.safetensors or structure.json")
    differ.add_argument("--json", action="store_true", help="print it as JSON")
    differ.add_argument("--plugin", action="append", default=[], help="a module to import")
    text = "say which class images have, by a trained model"
    predict = commands.add_parser("predict", help=text, description=text)
    _add_model(predict)
    predict.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    predict.add_argument("--out", type=Path, help="write file, class and probability to this csv")
    _add_device(predict)
    text = "write a trained model as a file for other programs, and check it"
    export = commands.add_parser("export", help=text, description=text)
    _add_model(export)
    text = "the file to write: .onnx (onnx, int8), .pt2 (torch) or .py (module); beside it lie a "
    text += "report of the check, OUT.json, and MODEL_CARD.md"
    export.add_argument("out", type=Path, help=text)
    text = "onnx (the default); int8: ONNX in 8-bit integers; torch: torch.export's program; "
    text += "module: source code in plain PyTorch, with its weights as .safetensors beside"
    export.add_argument("--to", default="onnx", metavar="TARGET", help=text)
    export.add_argument(
        "--raw", action="store_true", help="it takes pixels, uint8 of 0 to 255, and normalises them"
    )
    text = "the prepared data set to check it on (default: the one of the model's run)"
    export.add_argument("--data", type=Path, help=text)
    text = "measure how long models and exported files take, side by side on the CPU"
    timed = commands.add_parser("latency", help=text, description=text)
    timed.add_argument(
        "files", type=Path, nargs="+", help="model.safetensors, .onnx, .pt2 or .py files"
    )
    text = "images a call (default: 1 and 64)"
    timed.add_argument("--batch", type=_positive, nargs="+", default=[1, 64], help=text)
    text = "calls per file (default: %(default)s)"
    timed.add_argument("--rounds", type=_positive, default=50, help=text)
    timed.add_argument("--json", action="store_true", help="print it as JSON")
    timed.add_argument("--plugin", action="append", default=[], help="a module to import")
    text = (
        "measure where the time and the MACs of a model are, layer by layer; of two, compare them"
    )
    profiled = commands.add_parser("profile", help=text, description=text)
    profiled.add_argument("models", type=Path, nargs="+", help="one or two model.safetensors")
    profiled.add_argument("--batch", type=_positive, default=1, help="images (default: 1)")
    text = "calls per operator (default: %(default)s)"
    profiled.add_argument("--rounds", type=_positive, default=50, help=text)
    profiled.add_argument("--json", action="store_true", help="print it as JSON")
    profiled.add_argument("--plugin", action="append", default=[], help="a module to import")
    profiled.add_argument("--threads", type=_threads, default=1, help="CPU threads; 0: all")
    commands.add_parser("schema", help="print the JSON schema of params files")
    commands.add_parser("record", help="record the finished results for DVC and other clones")
    return root


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, help="such as results/train/.../model.safetensors")
    command.add_argument("--plugin", action="append", default=[], help="a module to import")


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    command.add_argument("--threads", type=_threads, default=0, help="CPU threads")


def _add_params(command: argparse._ActionsContainer) -> None:
    text = "default: %(default)s; --configfile, as snakemake calls it, is the same"
    command.add_argument(
        "--params", "--configfile", default="params.yaml", metavar="FILE", help=text
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be 0 or more, not '{text}'")
    return int(text)


def _threads(text: str) -> int:
    if _count(text) > process.MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be at most {process.MOST_THREADS}, not {text}")
    return int(text)


def _positive(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError(f"must be 1 or more, not '{text}'")
    return int(text)


def _processes(text: str) -> int:
    """A number, which may follow the GPUs' model, as clusters are asked for GPUs: a100:2."""
    return max(1, _threads(text.rpartition(":")[2]))


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 2 after one line about what is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if options.command in ("deploy", "export"):  # what is half written goes
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if "plugin" in options and options.command not in PHASES:  # a job names them itself
            from st.core.registry import load_plugins

            load_plugins(options.plugin)
        if options.command == "params":
            _print_params(options.params)
        elif options.command == "estimate":
            from st.estimate.predict import run

            run(options.params, options.jobs, options.device, options.rates, options.save)
        elif options.command == "schema":
            from st.config.params import schema

            print(json.dumps(schema(), indent=2))
        elif options.command == "options":
            from st.config.options import told as told_options

            print(*told_options(options.names), sep="\n")
        elif options.command == "show":
            from st.report.show import show

            show(options.path, options.json)
        elif options.command == "convert":
            from st.networks.weights import convert

            count = convert(options.source, options.target)
            print(f"{options.target}: {count} tensors")
        elif options.command == "diff":
            from st.report.diff import diff

            diff(options.one, options.other, options.json)
        elif options.command == "predict":
            from st.deploy.predict import predict

            predict(options.model, options.images, options.out, options.device, options.threads)
        elif options.command == "export":
            from st.deploy.export import export, told

            given = {"raw": options.raw, "data": options.data}
            report = export(options.model, options.out, options.to, **given)
            print(f"{options.out}: {told(report)}")
        elif options.command == "latency":
            from st.deploy.latency import latency

            latency(options.files, options.batch, options.rounds, options.json, options.plugin)
        elif options.command == "profile":
            from st.deploy.profile import show as show_profile

            counts = (options.batch, options.rounds, options.threads)
            show_profile(options.models, *counts, options.json)
        elif options.command == "record":
            from st.core.records import record

            record()
        else:
            return _run_phase(options, arguments)
        sys.stdout.flush()
    except Abandoned as error:
        logging.getLogger("st").debug("%s", error)  # the launcher says whose fault it is
        return ABANDONED
    except StError as error:
        _fail(str(error))
        return 2
    except SystemExit as error:  # ours is that of a signal
        if error.code == 128 + signal.SIGTERM:
            raise
        _fail(f"a plugin's or module's code ended the program ({status(error)}); {INSTEAD}")
        return 2
    except KeyboardInterrupt:
        _fail("interrupted")
        return 130
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        line = explained(error, "--batch", "") if options.command not in PHASES else None
        if line is None:
            raise
        _fail(line)
        return 2
    return 0


def _fail(message: str) -> None:
    logger = logging.getLogger("st")
    if logger.handlers:
        logger.error("error: %s", message)
    else:
        print(f"st: error: {message}", file=sys.stderr)


def _print_params(path: str) -> None:
    import yaml

    from st.config.check import load

    print(yaml.safe_dump(load(path, images=True).model_dump(), sort_keys=False), end="")


def load_phase(name: str) -> ModuleType:
    """The phase's module."""
    return importlib.import_module(f"st.phases.{name}")


def _run_phase(options: argparse.Namespace, arguments: list[str]) -> int:
    from st.core import progress, registry

    _, torch = PHASES[options.command]
    inputs, outputs = layout.INPUTS[options.command], layout.OUTPUTS[options.command]
    if options.job is None:
        if options.plugin:
            raise StError("--plugin: is for --job; the params file names its plugins")
        from st.config.check import load
        from st.config.grid import Grid
        from st.config.named import named_job

        job, usual, label = named_job(
            Grid(load(options.params)), options.command, getattr(options, "experiment", None)
        )
    else:
        registry.load_plugins(options.plugin)
        job, usual, label = _job(options.job), {}, _label(options)
    files: dict[str, Any] = {}
    for name in (*inputs, *outputs):
        given = getattr(options, name)
        if given is not None and usual and usual.get(name) is None:
            raise StError(f"--{name}: this job has no such file; leave it out")
        files[name] = given if given is not None else usual.get(name)
        if files[name] is None and name not in layout.OPTIONAL.get(options.command, ()):
            raise StError(f"--{name} is missing")
    _check_apart(files, inputs, outputs, options.log)
    member, processes = None, 1
    if options.command in PARALLEL:
        member, processes = Member.here(), options.processes
    if member:
        member.begin()
        files["member"], processes = member, member.neighbours
    if torch:
        threads = options.threads and max(1, options.threads // processes)
        if threads:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
        files |= {"device": options.device, "threads": threads}
    elif options.command in READS:
        files["threads"] = options.threads
    if not member or member.rank == 0:
        begun = member is not None and member.folder is not None  # by the parent
        progress.start(f"{options.command} {label}".strip(), options.log, new=not begun)
    if processes > 1 and options.device not in ("auto", "cpu", "cuda"):
        raise StError(
            f"--device {options.device}: with --processes {processes} each takes a GPU of its own; "
            "use auto, cpu or cuda"
        )
    if processes > 1 and not member:
        return launch(arguments, processes, options.device, tell=_fail)
    try:
        load_phase(options.command).run(job, **files)
    except StError:
        raise
    except Exception as error:
        told = explained(error, _batch(job))
        if told is None:
            raise
        raise StError(told) from error
    return 0


def _check_apart(
    files: dict[str, Any], inputs: Iterable[str], outputs: Iterable[str], log: Path | None
) -> None:
    """Raise StError if what is written would replace what is read, or something else of it."""

    def flat(names: Iterable[str]) -> list[Path]:
        given = (files[name] for name in names if files[name])
        return [path for value in given for path in (value if isinstance(value, list) else [value])]

    read, written = flat(inputs), [*flat(outputs), *([log] if log else [])]
    for number, path in enumerate(written):
        check_apart(path, read)
        if os.path.realpath(path) in map(os.path.realpath, written[:number]):
            raise StError(f"{path}: is named twice as what is to be written")


def _batch(job: dict[str, Any]) -> str:
    """The key that says how many images a job computes at once, and its value."""
    for section, key in (("training", "batch_size"), ("options", "batch_size")):
        size = (job.get(section) or {}).get(key)
        if size:
            return f"{section}.{key}, which is {size}"
    return "evaluation.latency_batch or training.batch_size"


class _Job(dict):
    """A job from the command line, which may lack anything."""

    def __missing__(self, key: str) -> Any:
        raise StError(
            f"--job: lacks '{key}'; the workflow passes complete jobs; without it name the "
            "experiment instead"
        )


def _job(text: str) -> dict[str, Any]:
    try:
        job = json.loads(text, object_hook=_Job)
    except (ValueError, RecursionError) as error:
        raise StError(f"--job: is not JSON ({one_line(error)})") from error
    if not isinstance(job, dict):
        raise StError("--job: must be a JSON object")
    return job


def _label(options: argparse.Namespace) -> str:
    """What progress lines call the job: its folder under results/."""
    path = getattr(options, next(iter(layout.OUTPUTS[options.command])))
    path = path[0] if isinstance(path, list) else path
    if path is None:
        return ""
    parts = path.parts[2:-1] if options.command != "evaluate" else path.parts[2:-2]
    return "/".join(parts)


def entry() -> None:
    """The program `st`: runs `main` and leaves with its status."""
    if isinstance(sys.stdout, TextIOWrapper):  # of names that are no text it shows something else
        sys.stdout.reconfigure(errors="backslashreplace")
    process.leave(main())
