"""The command line: one sub-command for each phase, and those for people.

Imports are lazy, so that `st --help` is instant.
"""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from st import __version__
from st.config import layout
from st.core import process
from st.core.errors import StError, explained
from st.core.guest import INSTEAD, status
from st.phases.command import PARALLEL, PHASES, READS, run_phase
from st.training.launch import ABANDONED, Abandoned

Parser = argparse.ArgumentParser


def parser() -> Parser:
    """The command line. Each command's function is its default `run`."""
    root = Parser(prog="st", description="Search-and-Train: two-stage compression of CNNs.")
    root.add_argument("--version", action="version", version=f"st {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, run: Callable[[Any], int | None], *shared: str) -> Parser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        for option in shared:
            added.add_argument(f"--{option}", **SHARED[option])
        return added

    for name, (text, torch) in PHASES.items():
        _add_phase(command(name, text, _run_phase, "plugin"), name, torch)
    for add in (
        _add_estimate, _add_checks, _add_views, _add_convert, _add_predict, _add_export,
        _add_latency, _add_profile,
    ):  # fmt: skip
        add(command)
    command("schema", "print the JSON schema of params files", _schema)
    command("record", "record the finished results for DVC and other clones", _record)
    return root


def _add_estimate(command: Callable[..., Parser]) -> None:
    text = "predict jobs, hours and disk of a grid, from a short measurement"
    cost = command("estimate", text, _estimate, "device")
    _add_params(cost)
    cost.add_argument("--jobs", type=_positive, default=1, help="at a time (default: %(default)s)")
    cost.add_argument("--rates", type=Path, help="do not measure; a file from --save")
    cost.add_argument("--save", type=Path, help="write what was measured to this file")


def _add_checks(command: Callable[..., Parser]) -> None:
    params = command("params", "check a params file and print it completed", _params)
    one = params.add_mutually_exclusive_group()
    _add_params(one)
    one.add_argument(
        "params", nargs="?", default=argparse.SUPPRESS, metavar="FILE", help="the same as --params"
    )
    text = "print what params files may name (criteria, losses, ...), and the options of each"
    options = command("options", text, _options, "plugin")
    options.add_argument("names", nargs="*", metavar="NAME", help="only these, such as kd")


def _add_views(command: Callable[..., Parser]) -> None:
    text = "print a model, structure, history, metrics, data or predictions file for a person"
    show = command("show", text, _show, "json", "plugin")
    show.add_argument("path", type=Path, help="such as results/train/.../model.safetensors")
    text = "print how two models or structures differ, layer by layer"
    differ = command("diff", text, _diff, "json", "plugin")
    for name in ("one", "other"):
        differ.add_argument(name, type=Path, help="a model.safetensors or structure.json")


def _add_convert(command: Callable[..., Parser]) -> None:
    text = "make a safetensors file of a state dict that torch saved (.pth, .pt)"
    pth = command("convert", text, _convert)
    pth.add_argument("source", type=Path)
    pth.add_argument("target", type=Path)
    pth.add_argument("--key", help="which of several networks in it, such as model_ema")


def _add_predict(command: Callable[..., Parser]) -> None:
    text = "classify images with a trained model"
    predict = command("predict", text, _predict, "plugin", "device", "threads")
    predict.add_argument("model", **MODEL)
    predict.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    predict.add_argument(
        "--out", type=Path, help="write file, class, probability, error to this csv"
    )


def _add_export(command: Callable[..., Parser]) -> None:
    text = "write a trained model as a file for other programs, and check it"
    export = command("export", text, _export, "plugin")
    export.add_argument("model", **MODEL)
    export.add_argument(
        "out", type=Path,
        help="the file to write: .onnx (onnx, int8), .pt2 (torch) or .py (module); beside it lie a "
        "report of the check, OUT.json, and MODEL_CARD.md",
    )  # fmt: skip
    export.add_argument(
        "--to", default="onnx", metavar="TARGET",
        help="onnx (the default); int8: ONNX in 8-bit integers; torch: torch.export's program; "
        "module: source code in plain PyTorch, with its weights as .safetensors beside; or a "
        "plugin's",
    )  # fmt: skip
    export.add_argument(
        "--raw", action="store_true", help="it takes pixels, uint8 of 0 to 255, and normalises them"
    )
    export.add_argument(
        "--data", type=Path,
        help="the prepared data set to check it on (default: the one of the model's run)",
    )  # fmt: skip


def _add_latency(command: Callable[..., Parser]) -> None:
    text = "measure how long models and exported files take, side by side on the CPU"
    timed = command("latency", text, _latency, "json", "plugin")
    text = "model.safetensors, .onnx, .pt2 or .py files"
    timed.add_argument("files", type=Path, nargs="+", help=text)
    text = "images a call (default: 1 and 64)"
    timed.add_argument("--batch", type=_positive, nargs="+", default=[1, 64], help=text)
    text = "calls per file (default: %(default)s)"
    timed.add_argument("--rounds", type=_positive, default=50, help=text)


def _add_profile(command: Callable[..., Parser]) -> None:
    text = "measure where the time and the MACs of a model are, layer by layer; compare two"
    profiled = command("profile", text, _profile, "json", "plugin")
    profiled.add_argument("models", type=Path, nargs="+", help="one or two model.safetensors")
    profiled.add_argument("--batch", type=_positive, default=1, help="images (default: 1)")
    text = "calls per operator (default: %(default)s)"
    profiled.add_argument("--rounds", type=_positive, default=50, help=text)
    profiled.add_argument("--threads", type=_threads, default=1, help="CPU threads; 0: all")


def _add_phase(command: Parser, name: str, torch: bool) -> None:
    what = command.add_mutually_exclusive_group(required=name != "report")
    if name != "report":
        text = "the experiment in --params, such as digits/vgg/seed0/st; files have their usual "
        what.add_argument("experiment", nargs="?", help=text + "places under results/")
    what.add_argument("--job", help="the job as JSON, as the workflow passes it")
    _add_params(command)
    command.add_argument("--log", type=Path, help="also write all messages to this file")
    for option in (*layout.INPUTS[name], *layout.OUTPUTS[name]):
        several: dict[str, Any] = {"nargs": "+"} if option in layout.LISTS else {}
        role = "input" if option in layout.INPUTS[name] else "output"
        command.add_argument(f"--{option}", type=Path, help=f"{role} file", **several)
    for option in ("device", "threads") if torch else ("threads",) if name in READS else ():
        command.add_argument(f"--{option}", **SHARED[option])
    if name in PARALLEL:
        text = "compute it with N processes, each on a GPU of its own (default: 1)"
        command.add_argument("--processes", type=_processes, default=1, metavar="N", help=text)


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


# Options and arguments of several commands.
SHARED: dict[str, dict[str, Any]] = {
    "plugin": {"action": "append", "default": [], "help": "a module to import"},
    "json": {"action": "store_true", "help": "print it as JSON"},
    "device": {"default": "auto", "help": "auto, cpu, cuda, cuda:1, ..."},
    "threads": {"type": _threads, "default": 0, "help": "CPU threads"},
}
MODEL: dict[str, Any] = {"type": Path, "help": "such as results/train/.../model.safetensors"}


def _run_phase(options: argparse.Namespace) -> int:
    return run_phase(options, _fail)


def _estimate(options: argparse.Namespace) -> None:
    from st.estimate.predict import run

    run(options.params, options.jobs, options.device, options.rates, options.save)


def _params(options: argparse.Namespace) -> None:
    import yaml

    from st.config.check import load

    found = load(options.params, images=True).model_dump()
    print(yaml.safe_dump(found, sort_keys=False), end="")


def _options(options: argparse.Namespace) -> None:
    from st.config.options import told

    print(*told(options.names), sep="\n")


def _show(options: argparse.Namespace) -> None:
    from st.report.show import show

    show(options.path, options.json)


def _convert(options: argparse.Namespace) -> None:
    from st.networks.weights import convert

    print(f"{options.target}: {convert(options.source, options.target, options.key)}")


def _diff(options: argparse.Namespace) -> None:
    from st.report.diff import diff

    diff(options.one, options.other, options.json)


def _predict(options: argparse.Namespace) -> None:
    from st.deploy.predict import predict

    predict(options.model, options.images, options.out, options.device, options.threads)


def _export(options: argparse.Namespace) -> None:
    from st.deploy.export import export, told

    given = {"raw": options.raw, "data": options.data}
    report = export(options.model, options.out, options.to, **given)
    print(f"{options.out}: {told(report)}")


def _latency(options: argparse.Namespace) -> None:
    from st.deploy.latency import latency

    latency(options.files, options.batch, options.rounds, options.json, options.plugin)


def _profile(options: argparse.Namespace) -> None:
    from st.deploy.profile import show

    show(options.models, options.batch, options.rounds, options.threads, options.json)


def _schema(options: argparse.Namespace) -> None:
    from st.config.params import schema

    print(json.dumps(schema(), indent=2))


def _record(options: argparse.Namespace) -> None:
    from st.core.versions import record

    record()


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 2 after one line about what is wrong."""
    options = parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    if options.command in ("deploy", "export"):  # what is half written goes
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if "plugin" in options and options.command not in PHASES:  # a job names them itself
            from st.core.registry import load_plugins

            load_plugins(options.plugin)
        ended = options.run(options)
        sys.stdout.flush()
        return ended or 0
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
        line = explained(error, "the images", "") if options.command not in PHASES else None
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


def entry() -> None:
    """The program `st`: runs `main` and leaves with its status."""
    if isinstance(sys.stdout, TextIOWrapper):  # of names that are no text it shows something else
        sys.stdout.reconfigure(errors="backslashreplace")
    process.leave(main())
