"""The report's figures, on a synthetic results tree."""

from io import BytesIO
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from helpers.synthetic import ACCURACY, make_job, place, row, write_results
from matplotlib.axes import Axes
from matplotlib.legend import Legend

from st.config.layout import STRUCTURE
from st.report import figures, tables
from st.report.verdicts import claims


def test_pareto_front():
    #       beaten  on it  on it  same cost, worse  beaten  on it
    cost = [3, 1, 2, 2, 5, 8]
    accuracy = [80, 70, 85, 84, 85, 90]
    assert figures.pareto(cost, accuracy) == [1, 2, 5]


def test_points_of_one_cost_are_drawn_apart():
    cost = np.array([100.0, 1000.0, 100.0, 101.0])
    drawn = figures.side_by_side(cost)
    assert drawn[1] == pytest.approx(1000)
    assert drawn[0] < drawn[2] < drawn[3]
    assert np.all(np.abs(drawn / cost - 1) < 0.1)


def test_many_points_of_one_cost_stay_near_it():
    cost = np.array([1000.0] + [100.0] * 30)
    drawn = figures.side_by_side(cost)[1:]
    assert np.all(np.diff(drawn) > 0)
    assert np.all(np.abs(drawn / 100 - 1) < 0.2)


def test_accuracy_figure(made):
    job, _, _, table = made
    figure = figures.accuracy(job, table, "toy", "net")
    left, right = figure.axes
    assert left.get_xscale() == "log"
    assert (left.get_xlabel(), right.get_xlabel()) == ("Parameters", "MACs for one image")
    assert left.get_ylabel() == "Test accuracy (%)"
    lines = {line.get_label(): line for line in left.get_lines()}
    assert set(ACCURACY) | {"Pareto front"} <= set(lines)
    assert lines["supernet"].get_marker() == "*"
    assert lines["st"].get_ydata()[0] == pytest.approx(91.6333, abs=1e-4)
    # all subnets cost the same: the best of them is the front, and beats the supernets
    assert lines["Pareto front"].get_ydata() == pytest.approx([91.7, 91.7])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["Pareto front", *ACCURACY]


def test_the_user_s_settings_change_nothing(made, tmp_path):
    job, _, _, table = made
    figures.save(figures.accuracy(job, table, "toy", "net"), tmp_path / "plain.png")
    unusual = {"font.size": 30, "lines.linewidth": 9, "figure.facecolor": "pink", "savefig.dpi": 7}
    with mpl.rc_context(unusual):
        figures.save(figures.accuracy(job, table, "toy", "net"), tmp_path / "unusual.png")
        assert mpl.rcParams["font.size"] == 30  # theirs stay theirs
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "unusual.png").read_bytes()


def drawn_margins(folder, job, accuracy=ACCURACY):
    write_results(folder, job, accuracy)
    found = claims(job, tables.collect(job, folder), tables.answers(job, folder))
    return found, figures.margins(job, found, "toy", "net")


def test_margins_figure(tmp_path):
    """Every comparison and control, with what verdicts.json says of it."""
    job = make_job()
    job["rows"]["net"][4]["blind"] = False  # another row that makes the claim
    found, figure = drawn_margins(tmp_path, job, {**ACCURACY, "st": [99.0, 99.5, 99.8]})
    (axes,) = figure.axes
    names = ["supernet-sparse", "supernet", "scratch-b"]
    lines = [*(f"st \N{MINUS SIGN} {name}" for name in names), "kd-uniform \N{MINUS SIGN} supernet"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == lines
    assert axes.yaxis_inverted()  # the first on top
    beside = [other for claim in found for other in (*claim.comparisons, *claim.controls)]
    means = [line for line in axes.get_lines() if line.get_marker() not in ("|", "None")]
    assert [line.get_xdata()[0] for line in means] == [other.margin.mean for other in beside]
    styles = figures.style(job)
    assert [line.get_marker() for line in means] == [styles[o.opponent]["marker"] for o in beside]
    # filled where it is decided: st is surely better than all, kd-uniform is not
    filled = [line.get_markerfacecolor() != "white" for line in means]
    assert filled == [True] * 3 + [False]
    # each has two intervals, and the corrected one holds the other
    ends = [c.get_segments()[0][:, 0].tolist() for c in axes.collections]
    for other, wide, narrow in zip(beside, ends[::2], ends[1::2], strict=True):
        assert narrow == pytest.approx(other.margin.interval())
        assert wide == pytest.approx(other.margin.interval(getattr(other, "confidence", 0.95)))
    corrected = [wide[0] < narrow[0] for wide, narrow in zip(ends[::2], ends[1::2], strict=True)]
    assert corrected == [True, True, False, False]  # st is decided, the other has all 5 %
    said = [text.get_text() for text in axes.texts]
    assert said[0].startswith("+8.93 (+") and " to +" in said[0]


def test_a_control_that_claims_name_is_one_line(tmp_path):
    job = make_job()
    job["claims"] = {"st": ["supernet", "scratch-b"]}
    _, figure = drawn_margins(tmp_path, job)
    names = [tick.get_text().split()[-1] for tick in figure.axes[0].get_yticklabels()]
    assert names == ["supernet", "scratch-b", "kd-uniform"]


def test_one_seed_has_margins_without_intervals(tmp_path):
    _, figure = drawn_margins(tmp_path, make_job(seeds=[0]))
    (axes,) = figure.axes
    assert not axes.collections
    assert axes.texts[0].get_text() == "+1.00"


def test_no_claim_no_margins(tmp_path):
    job = make_job()
    assert figures.margins(job, [], "toy", "net") is None
    assert figures.margins(job, drawn_margins(tmp_path, job)[0], "other", "net") is None


def test_channels_figure(made):
    job, folder, _, _ = made
    figure = figures.channels(job, folder, "toy", "net")
    assert [axes.get_title(loc="left").split(":")[0] for axes in figure.axes] == ["slim", "uniform"]
    full, _, band, median = (patch.get_data() for patch in figure.axes[0].patches)
    assert list(full.values) == [8, 16]
    # 2, 3 and 4 channels of conv1 in the three seeds; conv2 is kept whole
    assert (list(band.baseline), list(band.values)) == ([2, 16], [4, 16])
    assert list(median.values) == [3, 16]
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["conv1", "conv2"]


def test_curves_figure(made):
    job, folder, _, _ = made
    figure = figures.curves(job, folder, "toy", "net")
    loss, _, test = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["Epoch"] * 3
    assert loss.get_yscale() == "log"
    line = {line.get_label(): line for line in test.get_lines()}["st"]
    assert list(line.get_xdata()) == [2, 4]
    assert list(line.get_ydata()) == [63, 65]
    assert line.get_color() == figures.style(job)["st"]["color"]


def test_shares_of_the_gradient_are_drawn(tmp_path):
    job = make_job()
    write_results(tmp_path, job)
    for seed in job["seeds"]:
        path = place(job["rows"]["net"][2]["history"], tmp_path, seed=seed)
        header, *rows = path.read_text().splitlines()
        lines = [f"{row},{60 + seed},{40 - seed}" for row in rows]
        path.write_text("\n".join([header + ",share_kd,share_cc", *lines]) + "\n")
    figure = figures.curves(job, tmp_path, "toy", "net")
    above, below = figure.subfigs
    assert len(above.axes) == 3
    (panel,) = [axes for axes in below.axes if axes.get_visible()]
    assert panel.get_title() == "st" and panel.get_ylim() == (0, 100)
    kd, cc = panel.collections
    # means over seeds 0, 1, 2: 61 and 39 percent, stacked
    assert kd.get_datalim(panel.transData).intervaly.tolist() == [0, 61]
    assert cc.get_datalim(panel.transData).intervaly.tolist() == [61, 100]
    assert [text.get_text() for text in below.legends[0].get_texts()] == ["kd", "cc"]


def inside(figure) -> list:
    """The rectangles of the panels' titles; these and the legends' names must lie in the figure."""
    figure.savefig(BytesIO(), format="png")
    panels = [axes for axes in figure.findobj(Axes) if axes.get_visible()]
    titles = [title for axes in panels for title in (axes.title, axes._left_title)]
    names = [text for legend in figure.findobj(Legend) for text in legend.get_texts()]
    for text in (*titles, *names):
        box = text.get_window_extent()
        assert not text.get_text() or 0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
    return [title for title in titles if title.get_text()]


@pytest.mark.parametrize("length, epochs", [(18, 1), (42, 4), (100, 4)])
def test_long_names_are_drawn_whole(tmp_path, length, epochs):
    names = [f"{'search-and-train-' * 6}"[: length - 2] + f"{n:02}" for n in range(7)]
    job = make_job(seeds=[0])
    search = "wide" * (length // 4)
    rows = [row(name, search=search, init="random", objective={"kd": 1}) for name in names]
    job["rows"]["net"] += rows
    write_results(tmp_path, job, ACCURACY | {name: [91.0] for name in names})
    structure = place(STRUCTURE, tmp_path, search="slim", seed=0)
    target = place(STRUCTURE, tmp_path, search=search, seed=0)
    target.parent.mkdir(parents=True)
    target.write_bytes(structure.read_bytes())
    for one in job["rows"]["net"]:
        path = place(one["history"], tmp_path, seed=0)
        header, *lines = path.read_text().splitlines()
        lines = [f"{line}{'50' if line.endswith(',') else ''},60,40" for line in lines[:epochs]]
        path.write_text("\n".join([header + ",share_kd,share_cc", *lines]) + "\n")
    table = tables.aggregate(tables.collect(job, tmp_path))
    inside(figures.accuracy(job, table, "toy", "net"))
    inside(figures.channels(job, tmp_path, "toy", "net"))
    figure = figures.curves(job, tmp_path, "toy", "net")
    titles = inside(figure)
    for one, other in combinations(titles, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent())
    # which differ at their ends only
    assert {title.get_text().replace("\n", "") for title in titles} >= set(names)
    ticks = figure.findobj(Axes)[0].get_xticks()
    assert [tick for tick in ticks if tick != round(tick)] == []


def test_seeds_of_different_length():
    short = pd.Series([1.0, 2.0], index=[10, 16])
    long = pd.Series([3.0, 4.0, 6.0], index=[10, 20, 24])
    epochs, mean, std = figures.over_seeds([short, long])
    assert list(epochs) == [10, 20]
    assert list(mean) == [2, 4]
    assert std == pytest.approx([np.sqrt(2), np.sqrt(8)])


def test_styles_differ_in_greyscale():
    rows = [row(f"m{n}", search="s", init="random") for n in range(20)]
    looks = figures.style({"rows": {"net": rows}}).values()
    assert len({(look["marker"], look["linestyle"]) for look in looks}) == 20
    assert len({(look["marker"], look["color"]) for look in looks}) == 20
