"""The report's figures. Each function returns a matplotlib Figure and writes nothing."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import chain
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from st.config.layout import STRUCTURE
from st.core.errors import StError
from st.core.files import read_json, whole
from st.core.job import Job
from st.core.shares import SHARE
from st.report.captions import split
from st.report.columns import short
from st.report.controls import Control
from st.report.margins import CONFIDENCE, between, signed
from st.report.tables import history, place
from st.report.verdicts import Claim, Comparison

# Okabe & Ito's colours, which colour-blind people can tell apart. In greyscale, markers and dashes
# do it: the numbers of colours, markers and dashes share no factor, so that combinations repeat
# late.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
GREYS = ("#000000", "#777777", "#AAAAAA")
RC: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.linewidth": 0.6, "lines.linewidth": 1.1,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.5,
    "axes.axisbelow": True, "legend.frameon": False, "pdf.fonttype": 42,
    "svg.hashsalt": "st", "figure.constrained_layout.use": True,
}  # fmt: skip
WIDTH = 7.0  # inches: a page's text
SHARE_COLUMNS = 5  # panels side by side
TITLE, LONG_TITLE = 20, 95  # characters a line: above a small panel, above one of full width
LINE = 0.11  # inches
CAPTIONS = {
    "accuracy": "Accuracy against size and computation (log scales). Points are means over seeds, "
    "bars their sample standard deviations, stars supernets; the grey step line is the Pareto "
    "front of the means. Networks of nearly the same cost are drawn side by side, by rising cost.",
    "margins": "By how much the rows that make the claim are more accurate than the rows named on "
    "the left: what they must beat, in this order, then their controls. Thick bars are 95 % "
    "intervals over seeds and evaluated images, thin ones those corrected for the number of "
    "verdicts, black ticks single seeds; on the right the mean and its 95 % interval. A point is "
    "filled where the interval that decides it excludes zero; one seed has none.",
    "channels": "Channels that each search keeps of each prunable group, from the input to the "
    "output: the line is the median over seeds, the band reaches from the fewest to the most, the "
    "grey area is the supernet. Percentages are medians over seeds.",
    "curves": "Training by epoch: means over seeds, bands of one sample standard deviation. The "
    "cross-entropy with the labels is shown for all methods, whatever else their objectives "
    "contain. Training values are those of the augmented batches while the network learns them. "
    "The last of the upper panels begins near the last values; earlier ones may lie below. Lower "
    "panels, of rows with several losses: the share of each loss in the gradient, at the earliest "
    "intermediate value that one of them reads; a loss whose area cannot be seen does nothing.",
}


@contextmanager
def _styled() -> Iterator[None]:
    """matplotlib's own settings, changed by RC: whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def style(job: Job) -> dict[str, dict[str, Any]]:
    """Row -> colour, marker and linestyle: the same in all figures of a report."""
    rows = list(chain.from_iterable(job["rows"].values()))
    supernets = dict.fromkeys(row["method"] for row in rows if "search" not in row)
    methods = dict.fromkeys(row["method"] for row in rows if "search" in row)
    styles = {
        name: {"color": GREYS[n % 3], "marker": "*", "linestyle": DASHES[n % 2]}
        for n, name in enumerate(supernets)
    }
    for n, name in enumerate(methods):
        styles[name] = {
            "color": COLOURS[n % len(COLOURS)],
            "marker": MARKERS[n % len(MARKERS)],
            "linestyle": DASHES[n % len(DASHES)],
        }
    return styles


def pareto(cost: Sequence[float], accuracy: Sequence[float]) -> list[int]:
    """Indices, by rising cost, of the points that nothing as cheap or cheaper reaches."""
    front: list[int] = []
    for index in sorted(range(len(cost)), key=lambda i: (cost[i], -accuracy[i])):
        if not front or accuracy[index] > accuracy[front[-1]]:
            front.append(index)
    return front


@_styled()
def accuracy(job: Job, table: pd.DataFrame, dataset: str, architecture: str) -> Figure:
    """Accuracy against parameters and against MACs, from the aggregated table."""
    group = table[(table["dataset"] == dataset) & (table["architecture"] == architecture)]
    styles = style(job)
    group = group[group["method"].isin(styles)]  # not the same networks once more, as files
    mean = group["accuracy_mean"].to_numpy()
    figure = Figure(figsize=(WIDTH, 2.8))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, column, label in zip(
        panels, ("params", "macs"), ("Parameters", "MACs for one image"), strict=True
    ):
        cost = group[column].to_numpy(dtype=float)
        axes.set_xscale("log")
        places, front = side_by_side(cost), pareto(cost, mean)
        # an accuracy that is reached holds for all larger budgets
        edge = places.max() * (places.max() / places.min()) ** 0.05
        axes.step(
            [*places[front], edge], [*mean[front], mean[front[-1]]],
            where="post", color="#AAAAAA", linewidth=1, zorder=1, label="Pareto front",
        )  # fmt: skip
        for x, row in zip(places, group.itertuples(), strict=True):
            look = styles[row.method]
            if not np.isnan(row.accuracy_std):
                axes.errorbar(
                    x, row.accuracy_mean, row.accuracy_std,
                    fmt="none", color=look["color"], elinewidth=0.9, capsize=1.8, zorder=3,
                )  # fmt: skip
            axes.plot(
                x, row.accuracy_mean, look["marker"], color=look["color"], label=row.method,
                markersize=9 if look["marker"] == "*" else 5.5,
                markeredgecolor="white", markeredgewidth=0.4, zorder=4,
            )  # fmt: skip
        _cost_ticks(axes)
        axes.set_xlabel(label)
    panels[0].set_ylabel(_accuracy_label(job, dataset))
    _legend(figure, panels[0])
    return figure


@_styled()
def margins(job: Job, claims: Sequence[Claim], dataset: str, architecture: str) -> Figure | None:
    """Margins of each row that makes the claim, over its opponents and controls; None without
    any such row."""
    found = [c for c in claims if (c.dataset, c.architecture) == (dataset, architecture)]
    beside: list[list[Comparison | Control]] = []
    for claim in found:
        named = {one.opponent for one in claim.comparisons}
        controls = [one for one in claim.controls if one.opponent not in named]
        beside.append([*claim.comparisons, *controls])
    if not found:
        return None
    styles, lines = style(job), sum(map(len, beside)) + len(found) - 1
    figure = Figure(figsize=(WIDTH, 0.75 + 0.19 * lines))
    axes = figure.subplots()
    axes.axvline(0, color="#8C8C8C", linewidth=0.8, zorder=1)
    places, names, y = [], [], 0
    for claim, others in zip(found, beside, strict=True):
        for other in others:
            _margin(axes, y, other, styles[other.opponent])
            places.append(y)
            names.append(f"{claim.method} \N{MINUS SIGN} {other.opponent}")
            y += 1
        y += 1  # a line between claimants
    axes.set_yticks(places, names)
    axes.set_ylim(y - 1.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        f"Margin in {_accuracy_label(job, dataset).removesuffix(' (%)').lower()} (points)"
    )
    return figure


def _margin(axes: Axes, y: float, other: Comparison | Control, look: dict[str, Any]) -> None:
    """One line of the figure: seeds, intervals, the mean, and in words at the right."""
    margin, colour = other.margin, look["color"]
    for level, width in ((other.confidence, 0.8), (CONFIDENCE, 2.4)):
        interval = margin.interval(level)
        if interval:
            axes.hlines(y, *interval, color=colour, alpha=0.5, linewidth=width, zorder=2)
    axes.plot(
        margin.by_seed, [y] * margin.seeds, "|", color="black",
        markersize=5, markeredgewidth=0.6, zorder=3,
    )  # fmt: skip
    axes.plot(
        margin.mean, y, look["marker"], color=colour, zorder=4,
        markersize=9 if look["marker"] == "*" else 5.5, markeredgewidth=0.9,
        markerfacecolor=colour if margin.sign(other.confidence) else "white",
    )  # fmt: skip
    interval = margin.interval()
    text = f"{signed(margin.mean)} ({between(interval)})" if interval else signed(margin.mean)
    axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7)


def side_by_side(cost: np.ndarray) -> np.ndarray:
    """Where to draw points on a log axis, so that error bars of nearly equal costs stay apart.

    Their order is that of the costs. Many points overlap rather than show another cost.
    """
    places = np.log(cost)
    width = np.ptp(places) or 1
    step = 0.021 * width
    order = np.argsort(places, kind="stable")
    for cluster in np.split(order, np.flatnonzero(np.diff(places[order]) > step) + 1):
        middle = (len(cluster) - 1) / 2
        if middle:
            apart = min(step, 0.12 * width / (len(cluster) - 1))
            places[cluster] = places[cluster].mean() + apart * (np.arange(len(cluster)) - middle)
    return np.exp(places)


@_styled()
def channels(job: Job, folder: str | Path, dataset: str, architecture: str) -> Figure:
    """Kept channels by prunable group, a panel a search, from all seeds' structure.json."""
    searches = dict.fromkeys(r["search"] for r in job["rows"][architecture] if "search" in r)
    title = "{}: {:.1f} % of the parameters, {:.1f} % of the MACs"
    lines = _further_lines((title.format(search, 10, 10) for search in searches), LONG_TITLE)
    figure = Figure(figsize=(WIDTH, 1.1 + (1.15 + LINE * lines) * len(searches)))
    panels = figure.subplots(max(1, len(searches)), 1, sharex=True, sharey=True, squeeze=False)
    names = {"dataset": dataset, "architecture": architecture}
    groups: list[str] = []
    for number, (axes, search) in enumerate(zip(panels[:, 0], searches, strict=False)):
        sizes, kept, shares = [], [], []
        for seed in job["seeds"]:
            path = place(STRUCTURE, folder, **names, seed=seed, search=search)
            data = read_json(path)
            try:
                full, widths = data["supernet_widths"], data["widths"]
                shares.append((data["params_kept"], data["macs_kept"]))
            except (KeyError, TypeError) as error:
                raise StError(f"{path}: {error} is missing; search again") from error
            groups = list(full)
            sizes = list(full.values())
            kept.append([widths.get(name, 0) for name in full])
        colour = COLOURS[number % len(COLOURS)]
        edges = np.arange(len(groups) + 1) - 0.5
        axes.stairs(sizes, edges, fill=True, color="#EDEDED", zorder=1)
        axes.stairs(sizes, edges, color="#8C8C8C", linewidth=0.7, zorder=2, label="supernet")
        low, middle, high = np.min(kept, 0), np.median(kept, 0), np.max(kept, 0)
        axes.stairs(high, edges, baseline=low, fill=True, color=colour, alpha=0.35, zorder=3)
        axes.stairs(middle, edges, color=colour, linewidth=1.3, baseline=None, zorder=4)
        params, macs = 100 * np.median(shares, 0)
        axes.set_title(fill(title.format(search, params, macs), LONG_TITLE), loc="left", pad=3)
        axes.set_xlim(edges[0], edges[-1] + 0.004 * len(groups))
        axes.set_ylim(0)
        axes.set_ylabel("Channels")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="x", visible=False)
    every = max(1, -(-len(groups) // 30))
    shown = groups[::every]
    # about 16 letters an inch
    upright = sum(map(len, shown)) + 2 * len(shown) > 16 * 6
    panels[-1, 0].set_xticks(range(0, len(groups), every), shown, rotation=90 if upright else 0)
    label = "Prunable group" + (f" (one in {every} is named)" if every > 1 else "")
    panels[-1, 0].set_xlabel(label)
    return figure


@_styled()
def curves(job: Job, folder: str | Path, dataset: str, architecture: str) -> Figure:
    """Cross-entropy, training accuracy and test accuracy by epoch, from all history.csv; below,
    what each loss contributes to the gradient, a panel a row that has several losses."""
    names = {"dataset": dataset, "architecture": architecture}
    read = {
        row["method"]: [
            history(place(row["history"], folder, **names, seed=seed)) for seed in job["seeds"]
        ]
        for row in job["rows"][architecture]
    }
    several = {name: found for name, found in read.items() if _losses(found)}
    lines = -(-len(several) // SHARE_COLUMNS)
    columns, legend = _columns(read, 5)
    heights = [2.7 + legend, (1.25 + LINE * _further_lines(several, TITLE)) * lines]
    whole_figure = Figure(figsize=(WIDTH, sum(heights)))
    upper: Figure | SubFigure = whole_figure
    if several:
        parts: Any = whole_figure.subfigures(2, 1, height_ratios=heights)
        upper, lower = parts
        _shares(lower, several, lines)
    panels = upper.subplots(1, 3, sharex=True)
    whole_figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    styles, ends = style(job), []
    for method, histories in read.items():
        look = styles[method]
        for axes, column in zip(panels, ("ce", "train_accuracy", "test_accuracy"), strict=True):
            if not all(column in h and h[column].notna().any() for h in histories):
                continue  # an objective without cross-entropy
            epochs, mean, std = over_seeds([history[column] for history in histories])
            measured = column == "test_accuracy"
            ends += [(mean[-1], mean[-1] + std[-1])] if measured else []
            axes.fill_between(epochs, mean - std, mean + std, color=look["color"], alpha=0.13, lw=0)
            every = 1 if measured or len(epochs) == 1 else (0.08, 0.17)
            axes.plot(
                epochs, mean, color=look["color"], linestyle=look["linestyle"],
                marker=look["marker"], markersize=6 if look["marker"] == "*" else 3.5,
                markevery=every, label=method,
            )  # fmt: skip
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    panels[0].yaxis.set_minor_locator(NullLocator())
    if ends:
        # the differences at the end matter, not how bad the first epochs were
        last, high = np.transpose(ends)
        low = max(0, last.min() - max(1, 1.5 * np.ptp(last)))
        panels[2].set_ylim(low, high.max() + 0.08 * (high.max() - low))
    labels = ("Training cross-entropy (nats)", "Training accuracy (%)")
    for axes, label in zip(panels, (*labels, _accuracy_label(job, dataset)), strict=True):
        axes.set_xlabel("Epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(_epochs(5))
    handles, names_drawn = panels[2].get_legend_handles_labels()
    upper.legend(handles, names_drawn, loc="outside lower center", ncols=columns)
    return whole_figure


def _losses(histories: list[pd.DataFrame]) -> list[str]:
    """The losses whose shares of the gradient were recorded: none where there is only one loss."""
    return [c.removeprefix(SHARE) for c in histories[0] if c.startswith(SHARE)]


def _shares(figure: SubFigure, rows: dict[str, list[pd.DataFrame]], lines: int) -> None:
    """Stacked shares of the gradient by epoch, means over seeds, a panel a row of the table."""
    losses = list(dict.fromkeys(name for found in rows.values() for name in _losses(found)))
    panels = figure.subplots(lines, SHARE_COLUMNS, sharey=True, squeeze=False).flat
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    for number, (axes, (method, histories)) in enumerate(zip(panels, rows.items(), strict=False)):
        base: np.ndarray | float = 0.0
        axes.xaxis.set_major_locator(_epochs(3))
        for loss in _losses(histories):
            epochs, mean, _ = over_seeds([history[SHARE + loss] for history in histories])
            colour = COLOURS[losses.index(loss) % len(COLOURS)]
            if len(epochs) == 1:  # an area needs two
                epochs, mean = np.array([epochs[0] - 0.5, epochs[0] + 0.5]), np.repeat(mean, 2)
            axes.fill_between(epochs, base, base + mean, color=colour, lw=0, label=loss)
            base = base + mean
        axes.set_title(fill(method, TITLE), fontsize=7, pad=2)
        axes.set_ylim(0, 100)
        axes.margins(x=0)
        axes.set_yticks([0, 50, 100])
        axes.grid(visible=False)
        if number % SHARE_COLUMNS == 0:
            axes.set_ylabel("Gradient (%)")
    handles = [Patch(color=COLOURS[n % len(COLOURS)], label=loss) for n, loss in enumerate(losses)]
    columns, _ = _columns(losses, 8)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _epochs(most: int) -> MaxNLocator:
    """Ticks at whole epochs, also where there is but one."""
    return MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def _further_lines(titles: Iterable[str], width: int) -> int:
    """By how many lines the longest title exceeds one."""
    return max((fill(title, width).count("\n") for title in titles), default=0)


def over_seeds(columns: Iterable[pd.Series]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(epochs, mean, std over seeds) of what was measured, std 0 for one seed; shapes (n,).

    Seeds may have trained for different numbers of epochs (Scratch-B); epochs that only some of
    them reached are left out, but their last values are averaged at their mean last epoch.
    """
    measured = [column.dropna() for column in columns]
    values = pd.concat(measured, axis=1, join="inner").sort_index()
    epochs = values.index.to_numpy(dtype=float)
    points = values.to_numpy(dtype=float)
    ends = np.array([column.index[-1] for column in measured], dtype=float)
    if np.ptp(ends) > 0:
        epochs = np.append(epochs, ends.mean())
        points = np.vstack([points, [column.iloc[-1] for column in measured]])
        order = np.argsort(epochs, kind="stable")
        epochs, points = epochs[order], points[order]
    std = points.std(axis=1, ddof=1) if len(measured) > 1 else np.zeros(len(points))
    return epochs, points.mean(axis=1), std


def _accuracy_label(job: Job, dataset: str) -> str:
    which = split(job, dataset).removesuffix(" images")
    return f"{which.capitalize()} accuracy (%)"


def _cost_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _round(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _round(x: float) -> str:
    """A tick's number: 20k rather than 20.0k."""
    text = short(x)
    number, unit = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return f"{float(number):g}{unit}"


def _legend(figure: Figure, axes: Axes) -> None:
    """One legend below all panels. The figure grows with it, so that panels keep their size."""
    handles, labels = axes.get_legend_handles_labels()
    columns, height = _columns(labels, 5)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    figure.set_figheight(figure.get_figheight() + height)


def _columns(labels: Iterable[str], most: int) -> tuple[int, float]:
    """In how many columns a legend fits the figure's width, and its height in inches."""
    labels, size = list(labels), RC["legend.fontsize"]
    text = max(TextPath((0, 0), label, size=size).get_extents().width for label in labels)
    beside = 4.8 * size  # matplotlib's handle and spaces, in points
    columns = max(1, min(most, int(72 * WIDTH / (text + beside))))
    return columns, 0.15 * -(-len(labels) // columns)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as `path` says (.png, .pdf, .svg), the same bytes each time."""
    with whole(path) as temporary:
        _draw(figure, temporary, path.suffix[1:])


def svg(figure: Figure) -> str:
    """A figure for an HTML page."""
    text = StringIO()
    _draw(figure, text, "svg")
    return text.getvalue()


def _draw(figure: Figure, target: Path | StringIO, kind: str) -> None:
    # without dates and versions of programs
    metadata = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "svg": {"Date": None, "Creator": None},
    }[kind]
    with _styled():
        figure.savefig(target, format=kind, dpi=200, metadata=metadata)
