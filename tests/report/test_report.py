"""The report's tables, figures and files, on a synthetic results tree."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers.project import ROOT
from helpers.synthetic import ACCURACY, IMAGES, make_job, place, write_results

from st.config.layout import METRICS, PREDICTIONS, STRUCTURE
from st.core.errors import StError
from st.phases import report
from st.report import captions, columns, figures, tables
from st.report.predictions import load_predictions, save_predictions
from st.report.verdicts import claims

COLUMNS = [
    "dataset", "architecture", "method", "seeds", "accuracy_mean", "accuracy_std", "params",
    "params_kept", "macs", "macs_kept", "bytes", "latency_ms", "epochs", "teacher",
]  # fmt: skip


def test_aggregates_over_seeds(made):
    table = made[3]
    assert list(table.columns) == COLUMNS
    assert list(table["method"]) == list(ACCURACY)
    st = table.set_index("method").loc["st"]
    assert st["seeds"] == 3
    assert st["accuracy_mean"] == pytest.approx(91.63333333)
    # sum of squares around the mean / (3 - 1)
    assert st["accuracy_std"] == pytest.approx(0.650640709)
    assert (st["params"], st["macs"], st["epochs"]) == (101, 10000, 4)
    assert st["params_kept"] == pytest.approx(0.1)
    assert st["latency_ms"] == pytest.approx(0.2)
    assert st["teacher"] == "supernet-sparse"


def test_one_seed_has_no_spread(tmp_path):
    job = make_job(seeds=[7])
    write_results(tmp_path, job)
    runs = tables.collect(job, tmp_path)
    table = tables.aggregate(runs)
    assert table["accuracy_std"].isna().all()
    assert tables.to_csv(table).splitlines()[3] == (
        "toy,net,st,1,91.0,,100,0.1,10000,0.25,4000,0.5,4,supernet-sparse"
    )
    assert "one seed" in captions.caption(job, runs)
    verdict = claims(job, runs, tables.answers(job, tmp_path))[0]
    assert verdict.outcome == "undecided"
    assert "one seed has no spread" in verdict.sentence


@pytest.mark.parametrize("seed", [0, 2])
def test_missing_run_is_named(tmp_path, seed):
    job = make_job()
    write_results(tmp_path, job)
    missing = place(METRICS, tmp_path, seed=seed, method="st")
    missing.unlink()
    with pytest.raises(StError, match=re.escape(str(missing))):
        tables.collect(job, tmp_path)


def test_run_of_something_else_is_refused(tmp_path):
    job = make_job()
    write_results(tmp_path, job)
    path = place(METRICS, tmp_path, seed=1, method="st")
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps({**metrics, "seed": 0}))
    with pytest.raises(StError, match=r"seed1.*'seed' is 0 instead of 1"):
        tables.collect(job, tmp_path)
    del metrics["accuracy"]
    path.write_text(json.dumps(metrics))
    with pytest.raises(StError, match=r"seed1.*'accuracy' is missing"):
        tables.collect(job, tmp_path)


BAD_METRICS = [
    ("accuracy", "90"), ("accuracy", float("nan")), ("accuracy", -1), ("accuracy", 101),
    ("accuracy", True), ("accuracy", None), ("params", float("inf")), ("macs", [1]),
    ("latency_ms", {}), ("epochs", "4"), ("teacher", 3), ("device", None), ("torch", 2.0),
    ("trained", None), ("evaluated", "here"), ("data", None), ("data", {"sha256": "x"}),
    ("dataset", ["x" * 999] * 999),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD_METRICS, ids=lambda x: str(x)[:20])
def test_metrics_that_are_no_measurements(tmp_path, key, value):
    job = make_job()
    write_results(tmp_path, job)
    path = place(METRICS, tmp_path, seed=1, method="st")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(StError) as caught:
        report.run(job, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: '{key}' ") and "evaluate it again" in message
    assert "\n" not in message and len(message) < 400
    assert not (tmp_path / "table.csv").exists()


@pytest.mark.parametrize("text", ["", "epoch\n", "epoch,loss\n1,2\n", "a,b\n1\n", "\x00", "[]"])
def test_histories_that_are_none(tmp_path, text):
    job = make_job()
    write_results(tmp_path, job)
    path = place(job["rows"]["net"][2]["history"], tmp_path, seed=1)
    path.write_text(text)
    with pytest.raises(StError, match="is not a training history") as caught:
        report.run(job, tmp_path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.slow
def test_predictions_that_do_not_belong(tmp_path):
    job = make_job()
    write_results(tmp_path, job)
    path = place(PREDICTIONS, tmp_path, seed=1, method="st")
    good = path.read_bytes()
    predicted, labels = load_predictions(path)
    assert predicted.dtype == np.uint8 and len(predicted) == len(labels) == IMAGES
    right = predicted == labels
    found = tables.answers(job, tmp_path)["toy", "net", "st"]
    assert found.shape == (3, IMAGES) and (found[1] == right).all()

    save_predictions(path, np.where(right, predicted, labels), labels)
    with pytest.raises(StError, match="does not belong to the metrics"):
        report.run(job, tmp_path)
    save_predictions(path, (predicted + 1) % 10, (labels + 1) % 10)
    with pytest.raises(StError, match="is about other images"):
        report.run(job, tmp_path)
    save_predictions(path, predicted[:3], labels[:2])
    with pytest.raises(StError, match="does not hold a class for each image"):
        report.run(job, tmp_path)
    path.write_bytes(good[:-1])
    with pytest.raises(StError) as caught:
        report.run(job, tmp_path)
    assert str(path) in str(caught.value) and not (tmp_path / "table.csv").exists()
    path.unlink()
    with pytest.raises(StError, match="is missing"):
        report.run(job, tmp_path)


@pytest.mark.parametrize("classes, kind", [(10, np.uint8), (256, np.uint8), (1000, np.uint16)])
def test_predictions_are_compact(tmp_path, classes, kind):
    labels = np.arange(classes)
    save_predictions(tmp_path / "p", labels[::-1].copy(), labels)
    predicted, again = load_predictions(tmp_path / "p")
    assert predicted.dtype == again.dtype == kind
    assert (predicted == labels[::-1]).all() and (again == labels).all()


@pytest.mark.slow
def test_losses_without_effect_are_named(tmp_path, caplog):
    job = make_job()
    write_results(tmp_path, job)
    path = place(job["rows"]["net"][2]["history"], tmp_path, seed=1)
    header, *rows = path.read_text().splitlines()
    shares = [(99.2, 0.8), (99.6, 0.4), (99.5, 0.5), (99.9, 0.1)]
    lines = [f"{row},{kd},{cc}" for row, (kd, cc) in zip(rows, shares, strict=True)]
    path.write_text("\n".join([header + ",share_kd,share_cc", *lines]) + "\n")
    note, *others = captions.notes(job, tmp_path)
    assert all("not faster" in other for other in others)
    assert note == (
        "st of net on toy: the loss cc did next to nothing in 1 of 3 seeds; its share of the "
        "gradient was 0.45 % (median of the epochs)."
    )
    with caplog.at_level("INFO", "st"):
        report.run(job, tmp_path)
    assert note in caplog.text
    path.write_text(path.read_text().replace(",99.6,0.4", ",97,3").replace(",99.5,0.5", ",97,3"))
    assert list(captions.notes(job, tmp_path)) == others


def test_searches_of_supernets_that_are_not_sparse_are_named(tmp_path):
    job = make_job()
    write_results(tmp_path, job)
    assert not any("near zero" in note for note in captions.notes(job, tmp_path))

    def near_zero(*shares):
        for seed, share in zip(job["seeds"], shares, strict=True):
            path = place(STRUCTURE, tmp_path, search="slim", seed=seed)
            text = json.loads(path.read_text()) | {"scales_near_zero": share}
            path.write_text(json.dumps(text))
        return [note for note in captions.notes(job, tmp_path) if "near zero" in note]

    # of 24 channels 4 to 6 are removed
    assert not near_zero(0.02, 0.02, 0.03)
    (note,) = near_zero(0.0, 0.001, 0.03)  # the mean counts; once, though two rows use the search
    assert note.startswith("search slim of net on toy: 21 % of the channels were removed, and of ")
    assert "supernet sparse, which rank them, 1.0 % are near zero" in note


def test_trainings_of_less_computation_are_named(made):
    job, _, runs, _ = made
    assert "max_epoch_factor" not in captions.caption(job, runs)
    row = {**job["rows"]["net"][3], "epoch_rule": "computation", "max_epoch_factor": 2.0}
    capped = {**job, "rows": {"net": [*job["rows"]["net"][:3], row]}}
    # a quarter of the MACs
    supernet, own = (runs["method"] == name for name in ("supernet-sparse", "scratch-b"))
    for trained, share in ((8, "50 %"), (4, "25 %")):
        told = captions.caption(capped, runs.assign(epochs=runs["epochs"].mask(own, trained)))
        assert f"had of its supernet's computation: scratch-b {share}." in told
    # all of it, in four times the epochs, if the supernet was not trained for longer
    whole = runs.assign(epochs=runs["epochs"].mask(own, 16))
    assert "max_epoch_factor" not in captions.caption(capped, whole)
    longer = whole.assign(epochs=whole["epochs"].mask(supernet, 12))
    assert "computation: scratch-b 33 %." in captions.caption(capped, longer)
    brought = whole.assign(epochs=whole["epochs"].mask(supernet, 0))
    assert "max_epoch_factor" not in captions.caption(capped, brought)
    # data sets are told apart
    other = runs.assign(dataset="other", epochs=runs["epochs"].mask(own, 4))
    several = {**capped, "datasets": job["datasets"] | {"other": ""}}
    both = pd.concat([runs.assign(epochs=runs["epochs"].mask(own, 8)), other])
    assert "computation: scratch-b 25 to 50 %." in captions.caption(several, both)


def test_environments_are_counted(made):
    job, folder, _, _ = made
    found = tables.environment(job, folder)
    rows = len(ACCURACY)
    assert found == {
        "params": "0123",
        "data": {
            "toy": {"sha256": "5a" * 32, "fingerprint": "f1", "classes": ["cat", "dog"]},
        },
        "trained": [
            {"processor": "slow", "threads": 1, "networks": rows},
            {"processor": "fast", "threads": 1, "networks": 2 * rows},
        ],
        "evaluated": [{"processor": "fast", "commit": None, "networks": 3 * rows}],
    }
    pairs = captions.environment(found)
    assert ("Data toy", f"2 classes (cat, dog), prepared {'5a' * 8}, source f1") in pairs
    assert (f"{rows} networks trained", "processor slow, threads 1") in pairs
    assert pairs[-1] == (f"{3 * rows} networks evaluated", "processor fast")


def test_prints_best_in_bold(made):
    job, _, runs, table = made
    caption = captions.caption(job, runs)
    text = tables.to_markdown(table, caption)
    # kd-uniform has the highest mean, 91.7; st follows with 91.6
    assert re.findall(r"\| (\S+) +\| +\*\*(.*?)\*\*", text) == [("kd-uniform", "91.7 ± 0.8")]
    assert re.search(r"\| st +\| +91\.6 ± 0\.7 \| +101 \| +90\.0 % \| +10\.0k \| +75\.0 %", text)
    assert "test images" in caption and "over 3 seeds" in caption
    assert "<b>91.7 ± 0.8</b>" in tables.to_html(table)


@pytest.mark.parametrize("device, words", [("CPU", "on CPU; it"), ("NVIDIA H200", "captured")])
def test_a_gpus_latency_is_explained(made, device, words):
    job, _, runs, _ = made
    caption = captions.caption(job, runs.assign(device=device))
    assert words in caption and ("captured" in caption) == (device != "CPU")


@pytest.mark.parametrize(
    "machine, words",
    [
        (lambda run: "fast", "it compares networks on this machine"),
        (lambda run: f"m{run.seed}", "on the same one (m0 / m1 / m2): it compares the rows"),
        (lambda run: run.method, "(supernet / "),
        # one row of one seed elsewhere is enough
        (lambda run: "slow" if (run.method, run.seed) == ("st", 1) else "fast", "only those of"),
    ],
)
def test_latencies_of_several_machines_are_no_one_machines(made, machine, words):
    job, _, runs, _ = made
    measured = runs.assign(processor=[machine(run) for run in runs.itertuples()])
    caption = captions.caption(job, measured)
    assert words in caption
    assert ("this machine" in caption) == (measured["processor"].nunique() == 1)
    gpus = measured.assign(device=[f"GPU {number}" for number in measured["seed"]])
    assert "this machine" not in captions.caption(job, gpus)


def test_ties_are_both_bold():
    def bold(*means):
        frame = pd.DataFrame({"accuracy_mean": means, "accuracy_std": np.nan})
        column = next(c for c in columns.COLUMNS if c.title == columns.ACCURACY)
        return tables.best(column.cells(frame))

    assert bold(91.04, 90.98, 90.94) == [True, True, False]
    assert bold(97.35, 97.34, 97.30) == [True, True, True]  # 97.3 all


def test_latex(made):
    job, _, runs, table = made
    text = tables.to_latex(table, captions.caption(job, runs))
    assert r"CPU\_0 \& co" in text
    assert r"\textbf{91.7 $\pm$ 0.8}" in text and r"90.0 \%" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert not re.search(r"[^\x00-\x7f]|(?<!\\)%(?! needs)", text)
    rows = [line for line in text.splitlines() if " & " in line and line.endswith(r"\\")]
    assert len(rows) == 6
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {9}
    assert tables.latex("a_b{c}~50%^\\") == (
        r"a\_b\{c\}\textasciitilde{}50\%\textasciicircum{}\textbackslash{}"
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (999, "999"), (999.6, "1.00k"), (7227, "7.23k"), (99960, "100k"), (313e6, "313M"),
     (999_600, "1.00M"), (14_720_000, "14.7M"), (4.09e9, "4.09G")],
)  # fmt: skip
def test_short_numbers(number, text):
    assert columns.short(number) == text


def test_holdout_is_said(tmp_path):
    job = make_job(held_out="held-out images")
    write_results(tmp_path, job)
    runs = tables.collect(job, tmp_path)
    assert "on held-out images" in captions.caption(job, runs)
    figure = figures.accuracy(job, tables.aggregate(runs), "toy", "net")
    assert figure.axes[0].get_ylabel() == "Held-out accuracy (%)"
    few = {key: answers[:, :5] for key, answers in tables.answers(job, tmp_path).items()}
    (claim,) = claims(job, runs, few)
    told = json.dumps(claim.to_json(job["seeds"]))
    assert "5 held-out images are too few to decide anything" in told and "test images" not in told


def test_definitions(made):
    job, _, runs, _ = made
    found = dict(captions.definitions(job, runs))
    assert list(found) == list(ACCURACY)
    assert "new random weights" in found["st"] and "(temperature 4)" in found["st"]
    assert "at most 0.1 of the parameters and 0.5 of the MACs, in 3 rounds" in found["st"]


@pytest.mark.slow
def test_report_writes_the_same_bytes_again(made, tmp_path):
    job = make_job()
    write_results(tmp_path, job)
    before = set(tmp_path.rglob("*"))
    contents = []
    for _ in range(2):
        report.run(job, tmp_path)
        new = sorted(set(tmp_path.rglob("*")) - before)
        contents.append({path: path.read_bytes() for path in new if path.is_file()})
    assert contents[0] == contents[1]
    drawn = {f"toy-net-{name}.{kind}" for name in figures.CAPTIONS for kind in ("png", "pdf")}
    assert {path.name for path in contents[0]} == drawn | {
        "runs.csv", "curves.csv", "metrics.json", "environment.json", "table.csv", "table.md",
        "table.tex", "verdicts.json",
    }  # fmt: skip
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 15
    assert list(pd.read_csv(tmp_path / "table.csv").columns) == COLUMNS


def test_failed_report_leaves_the_old_one(tmp_path, monkeypatch):
    job = make_job(seeds=[0])
    write_results(tmp_path, job)
    (tmp_path / "table.csv").write_text("old")
    path = tmp_path / "figures" / "a.png"

    def fail(self, target, **_):
        Path(target).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(StError, match="cannot be written"):
        report.run(job, tmp_path)
    assert (tmp_path / "table.csv").read_text() == "old"
    assert not list(path.parent.iterdir())


NOTEBOOK = ROOT / "workflow" / "notebooks" / "comparison.ipynb"


def test_notebook_is_clean():
    """As it should be in git: no outputs, named cells, parameters for papermill."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert [c.id for c in code if "parameters" in c.metadata.get("tags", [])] == ["parameters"]


@pytest.mark.slow
def test_notebook_runs(made, tmp_path):
    import papermill

    job, folder, runs, _ = made
    done = papermill.execute_notebook(
        NOTEBOOK, tmp_path / "done.ipynb", {"job": json.dumps(job), "folder": str(folder)},
        cwd=tmp_path, progress_bar=False,
    )  # fmt: skip
    text = "".join(
        "".join(output["data"]["text/html"])
        for cell in done.cells if cell.cell_type == "code"
        for output in cell.outputs if "text/html" in output.get("data", {})
    )  # fmt: skip
    assert claims(job, runs, tables.answers(job, folder))[0].sentence in text
    assert "<b>91.7 ± 0.8</b>" in text
    assert text.count("<svg") == len(figures.CAPTIONS)


def test_metrics_and_curves_repeat_the_table(made):
    job, folder, _, table = made
    nested = tables.to_metrics(table)["toy"]["net"]
    assert list(nested) == list(ACCURACY)
    assert nested["st"]["accuracy_mean"] == pytest.approx(np.mean(ACCURACY["st"]), abs=0.001)
    lines = tables.curves(job, folder)
    assert len(lines) == len(ACCURACY) * 3 * 4  # rows, seeds, epochs
    one = lines[(lines["method"] == "st") & (lines["seed"] == 1) & (lines["epoch"] == 3)]
    assert one["train_accuracy"].item() == 54


@pytest.mark.slow
def test_files_for_other_programs_are_rows_of_the_table_alone(tmp_path):
    """Neither the claims, nor the figures, nor the curves have the same network twice."""
    job = make_job()
    write_results(tmp_path, job)
    before = claims(job, tables.collect(job, tmp_path), tables.answers(job, tmp_path))
    job["exports"] = {"net": [{"method": "st-int8", "of": "st", "to": "int8"}]}
    for seed in job["seeds"]:
        metrics = json.loads(place(METRICS, tmp_path, seed=seed, method="st").read_text())
        path = place(METRICS, tmp_path, seed=seed, method="st-int8")
        path.parent.mkdir()
        changed = {"method": "st-int8", "accuracy": 99.0, "bytes": 1234, "device": "CPU (x)"}
        path.write_text(json.dumps({**metrics, **changed}))
    report.run(job, tmp_path)
    table = pd.read_csv(tmp_path / "table.csv").set_index("method")
    assert list(table.index) == [*ACCURACY, "st-int8"]
    assert table.loc["st-int8", "accuracy_mean"] == 99 and table.loc["st-int8", "bytes"] == 1234
    text = (tmp_path / "table.md").read_text()
    assert "st-int8: these networks as files for other programs" in text and "1.23kB" in text
    runs = tables.collect(job, tmp_path)
    after = claims(job, runs, tables.answers(job, tmp_path))
    assert [c.to_json(job["seeds"]) for c in after] == [c.to_json(job["seeds"]) for c in before]
    assert "st-int8" not in (tmp_path / "curves.csv").read_text()
    assert "st-int8" in dict(captions.definitions(job, runs))
    assert dict(captions.provenance(job, runs))["Networks"].startswith("15 ")
    missing = place(METRICS, tmp_path, seed=1, method="st-int8")
    missing.unlink()
    with pytest.raises(StError, match=re.escape(str(missing))):
        tables.collect(job, tmp_path)
