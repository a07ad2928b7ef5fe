"""From all metrics.json to one table, and the ways to print it."""

import json
from collections.abc import Callable, Iterator, Sequence
from html import escape as escape_html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from st.config.layout import METRICS, PREDICTIONS
from st.core.errors import StError, one_line
from st.core.files import read_json
from st.core.job import Job
from st.report.columns import ACCURACY, COLUMNS, GROUP, LARGEST
from st.report.predictions import load_predictions

RUN = [*GROUP, "method", "seed"]
MEASURED = [*RUN, *LARGEST, "teacher", "device", "torch", "st"]
PROCESSOR = "processor"  # the column that says on which machine a run was evaluated
CURVES = ["epoch", "loss", "train_accuracy", "test_accuracy"]
ENVIRONMENTS = ["trained", "evaluated"]  # see st/core/provenance.py
DECIMALS = {c.name: c.decimals for c in COLUMNS if c.decimals is not None}


def place(pattern: str, folder: str | Path, **names: Any) -> Path:
    """A file of st.config.layout's patterns, below `folder` instead of results/."""
    return Path(folder) / pattern.removeprefix("results/").format(**names)


def read_metrics(job: Job, folder: str | Path, exported: bool = False) -> Iterator[dict[str, Any]]:
    """All metrics.json, checked, in the grid's order. `exported`: those of files for other programs
    too.

    Raises StError that names the one which is missing, incomplete, about something else or no
    measurement: a run is never left out silently.
    """
    for names, _ in runs_of(job, exported):
        path = place(METRICS, folder, **names)
        metrics = read_json(path)
        for problem in _problems(metrics, names):
            raise StError(f"{path}: {problem}; evaluate it again")
        yield metrics


def _problems(metrics: Any, names: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the contents of a metrics.json about `names`."""
    if not isinstance(metrics, dict):
        yield "must be a JSON object"
        return
    for key in (*MEASURED, *ENVIRONMENTS, "data"):
        if key not in metrics:
            yield f"'{key}' is missing"
            return
    for key, value in names.items():
        if metrics[key] != value:
            yield f"'{key}' is {one_line(repr(metrics[key]), 40)} instead of {value!r}"
    for key, most in LARGEST.items():
        value = metrics[key]
        # also false for NaN
        if type(value) not in (int, float) or not 0 <= value <= most:
            yield f"'{key}' is {one_line(repr(value), 40)}, which is not a valid measurement"
    for key in ("device", "torch", "st"):
        if not isinstance(metrics[key], str):
            yield f"'{key}' must be a string"
    if not isinstance(metrics["teacher"], str | None):
        yield "'teacher' must be a string or null"
    for key in ENVIRONMENTS:
        if not isinstance(metrics[key], dict):
            yield f"'{key}' does not say where"
    match metrics["data"]:
        case {"sha256": str(), "fingerprint": str() | None, "classes": [*classes]} if all(
            isinstance(name, str) for name in classes
        ):
            pass
        case _:
            yield "'data' does not say which images"


def collect(job: Job, folder: str | Path) -> pd.DataFrame:
    """All runs: one line per data set, architecture, row and seed, in the grid's order.

    Columns are `MEASURED` and `PROCESSOR`. Raises StError as `read_metrics`.
    """
    runs = [
        {key: run[key] for key in MEASURED}
        | {PROCESSOR: str(run["evaluated"].get(PROCESSOR, "unknown"))}
        for run in read_metrics(job, folder, exported=True)
    ]
    return pd.DataFrame(runs, columns=[*MEASURED, PROCESSOR])


def answers(job: Job, folder: str | Path) -> dict[tuple[str, str, str], np.ndarray]:
    """Whether each network classified each test image correctly, bool (seeds, images), by data set,
    architecture and row; seeds in the job's order.

    Raises StError that names the predictions which are missing, damaged, or not those of its
    metrics.json and of the other networks' images.
    """
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    images: dict[str, np.ndarray] = {}
    for metrics in read_metrics(job, folder):
        names = {key: metrics[key] for key in ("dataset", "architecture", "seed", "method")}
        path = place(PREDICTIONS, folder, **names)
        predicted, labels = load_predictions(path)
        correct = predicted == labels
        if not np.array_equal(images.setdefault(metrics["dataset"], labels), labels):
            raise StError(f"{path}: is about other images than the rest; evaluate it again")
        if abs(100 * correct.mean() - metrics["accuracy"]) > 1e-6:
            raise StError(
                f"{path}: does not belong to the metrics.json beside it; evaluate it again"
            )
        found.setdefault((names["dataset"], names["architecture"], names["method"]), []).append(
            correct
        )
    return {key: np.stack(rows) for key, rows in found.items()}


def runs_of(job: Job, exported: bool = False) -> Iterator[tuple[dict[str, Any], Job]]:
    """What each run is called, and its row of the report's job, in the grid's order. `exported`:
    files for other programs too, after the networks of their architecture."""
    for dataset in job["datasets"]:
        for architecture, rows in job["rows"].items():
            files = job["exports"][architecture] if exported else []
            for row in (*rows, *files):
                for seed in job["seeds"]:
                    names = {"dataset": dataset, "architecture": architecture, "seed": seed}
                    yield {**names, "method": row["method"]}, row


def environment(job: Job, folder: str | Path) -> dict[str, Any]:
    """What made the table: a hash of the params, what was in the data sets, and where the networks
    were trained and evaluated, each environment once with the number of its networks."""
    found: dict[str, dict[str, dict]] = {kind: {} for kind in ENVIRONMENTS}
    data: dict[str, Any] = {}
    for metrics in read_metrics(job, folder):
        data.setdefault(metrics["dataset"], metrics["data"])
        for kind in ENVIRONMENTS:
            key = json.dumps(metrics[kind], sort_keys=True)
            entry = found[kind].setdefault(key, {**metrics[kind], "networks": 0})
            entry["networks"] += 1
    made = {kind: list(found[kind].values()) for kind in found}
    return {"params": job["params"], "data": data, **made}


def aggregate(runs: pd.DataFrame) -> pd.DataFrame:
    """The table: one line per data set, architecture and row, with the columns of
    `st.report.columns`.

    Accuracy in percent, its standard deviation that of a sample (NaN for one seed); fractions of
    the reference supernet; latency in ms, the median over seeds; everything else means over seeds.
    """
    ways = {column.name: (column.of, column.over_seeds) for column in COLUMNS}
    table = runs.groupby([*GROUP, "method"], sort=False).agg(**ways).reset_index()
    table["teacher"] = table["teacher"].fillna("")
    for column in COLUMNS:
        if column.whole:
            table[column.name] = table[column.name].round().astype(int)
    return table


def to_metrics(table: pd.DataFrame) -> dict:
    """The table as nested objects, as `dvc metrics` shows and compares them."""
    names = ["accuracy_mean", "accuracy_std", "params_kept", "macs_kept"]
    nested: dict = {}
    for row in table.round(DECIMALS).to_dict("records"):
        place = nested.setdefault(row["dataset"], {}).setdefault(row["architecture"], {})
        place[row["method"]] = {name: row[name] for name in names if not pd.isna(row[name])}
    return nested


def curves(job: Job, folder: str | Path) -> pd.DataFrame:
    """All trainings' accuracies by epoch, one line each: for `dvc plots`."""
    parts = []
    for names, row in runs_of(job):
        found = history(place(row["history"], folder, **names)).reset_index()
        found = found[CURVES]
        parts.append(found.assign(**names))
    return pd.concat(parts)


def history(path: Path) -> pd.DataFrame:
    """A training's history, indexed by epoch; all columns are numbers."""
    try:
        found = pd.read_csv(path)
        return (
            found.astype(dict.fromkeys({*found, *CURVES}, float))
            .astype({"epoch": int})
            .set_index("epoch")
        )
    except OSError as error:
        raise StError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StError(
            f"{path}: is not a training history ({one_line(error)}); delete it and train again"
        ) from error


def groups(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(data set, architecture, its lines of the table), in the table's order."""
    for (dataset, architecture), group in table.groupby(list(GROUP), sort=False):
        yield dataset, architecture, group


def to_csv(table: pd.DataFrame) -> str:
    """CSV, with as many decimals as the table has."""
    return table.round(DECIMALS).to_csv(index=False, lineterminator="\n")


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """GitHub Markdown: a small table per data set and architecture, then the caption."""
    parts = []
    for dataset, architecture, group in groups(table):
        shown = printed(group, bold="**{}**")
        align = ["left", *["right"] * (shown.shape[1] - 2), "left"]
        body = shown.to_markdown(index=False, disable_numparse=True, colalign=align)
        parts.append(f"### {dataset}, {architecture}\n\n{body}\n")
    return "\n".join([*parts, caption, ""])


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """A LaTeX table; needs the package booktabs."""
    lines: list[str] = []
    columns = 0
    for dataset, architecture, group in groups(table):
        shown = printed(group, latex, r"\textbf{{{}}}")
        columns = shown.shape[1]
        if not lines:
            lines += [r"\toprule", _line(latex(name) for name in shown.columns)]
        title = rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{latex(f'{dataset}, {architecture}')}}}"
        lines += [r"\midrule", title + r"} \\", r"\addlinespace[2pt]"]
        lines += [_line(row) for row in shown.itertuples(index=False)]
    body = "\n".join([*lines, r"\bottomrule"])
    return (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{table*}\n\\centering\n\\footnotesize\n\\setlength{\\tabcolsep}{4pt}\n"
        f"\\caption{{{latex(caption)}}}\n\\label{{tab:comparison}}\n"
        f"\\begin{{tabular}}{{l{'r' * (columns - 2)}l}}\n{body}\n\\end{{tabular}}\n"
        "\\end{table*}\n"
    )


def _line(cells) -> str:
    return " & ".join(cells) + r" \\"


def to_html(group: pd.DataFrame) -> str:
    """One group as an HTML table of class `st-table`."""
    shown = printed(group, escape_html, "<b>{}</b>")
    return shown.to_html(index=False, escape=False, border=0, classes="st-table")


def printed(
    group: pd.DataFrame, escape: Callable[[str], str] = str, bold: str = "{}"
) -> pd.DataFrame:
    """One group's cells as a paper prints them; `bold` is the template of the best accuracies."""
    cells = {"Method": list(group["method"])}
    cells |= {
        column.title: column.cells(group) for column in COLUMNS if column.title and column.cells
    }
    shown = pd.DataFrame({name: list(map(escape, column)) for name, column in cells.items()})
    shown[ACCURACY] = [
        bold.format(cell) if top else cell
        for cell, top in zip(shown[ACCURACY], best(cells[ACCURACY]), strict=True)
    ]
    return shown


def best(accuracies: Sequence[str]) -> list[bool]:
    """Which of these cells have the highest mean accuracy: a tie in print is a tie."""
    means = [float(cell.split()[0]) for cell in accuracies]
    return [mean == max(means) for mean in means]


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    **{character: "\\" + character for character in "&%$#_{}"},
}  # fmt: skip


def latex(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)
