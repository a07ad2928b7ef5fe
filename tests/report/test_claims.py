"""What the report says about the paper's claim."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.synthetic import ACCURACY, make_job, row, write_results

from st.report import tables
from st.report.controls import as_long, controls, missing
from st.report.margins import Margin
from st.report.verdicts import claims, decide

BEST = {**ACCURACY, "st": [94.0, 94.2, 94.4]}


def two_claimants():
    """As if the other row's search had looked at the supernet."""
    job = make_job()
    job["rows"]["net"][4]["blind"] = False
    return job


def verdicts(tmp_path, accuracy, job=None, **sizes):
    job = job or make_job()
    write_results(tmp_path, job, accuracy, **sizes)
    found = claims(job, tables.collect(job, tmp_path), tables.answers(job, tmp_path))
    return {claim.method: claim for claim in found}


def test_claim_held(tmp_path):
    found = verdicts(tmp_path, BEST, two_claimants())
    claim = found["st"]
    assert claim.outcome == "held"
    # the strictest is named: the reference, more accurate than the one that was searched
    assert "HELD in this run against supernet, the reference supernet, and against " in (
        claim.sentence
    )
    assert "st, with at most 10.00 % of the parameters and 25.00 % of the MACs," in claim.sentence
    assert "+3.70 points, 95 % interval" in claim.sentence
    assert "corrected for the number of verdicts" in claim.sentence
    own, reference = claim.comparisons
    assert (own.opponent, reference.opponent) == ("supernet-sparse", "supernet")
    assert own.decided == reference.decided == 1
    # two rows make the claim, whatever they are called, and share the level
    assert list(found) == ["st", "kd-uniform"]
    assert own.confidence == pytest.approx(1 - 0.05 / 2)


def test_never_held_below_the_reference(tmp_path):
    """Surely better than the supernet it was found in, surely worse than the reference."""
    claim = verdicts(tmp_path, {**BEST, "supernet": [97.0, 97.3, 97.1]})["st"]
    assert claim.outcome == "did not hold" and "HELD" not in claim.sentence
    assert "is more accurate than supernet-sparse, but is less accurate than supernet, the " in (
        claim.sentence
    )
    assert [c.decided for c in claim.comparisons] == [1, -1]


def test_undecided_against_the_reference_is_undecided(tmp_path):
    claim = verdicts(tmp_path, {**BEST, "supernet": [94.1, 93.9, 94.6]})["st"]
    assert claim.outcome == "undecided" and "HELD" not in claim.sentence
    assert "st, with at most 10.00 % of the parameters and 25.00 % of the MACs, is more " in (
        claim.sentence
    )
    assert "than supernet-sparse, but whether it is more accurate than supernet," in claim.sentence
    assert [c.decided for c in claim.comparisons] == [1, 0]
    assert "seeds would decide it" in claim.sentence or "too few to decide" in claim.sentence


def test_a_supernet_that_was_trained_for_longer_must_be_beaten(tmp_path):
    job = make_job()
    job["rows"]["net"].insert(2, row("supernet-longer", "longer"))
    accuracy = {**BEST, "supernet-longer": [97.0, 97.3, 97.1]}
    write_results(tmp_path, job, accuracy)
    runs, answers = tables.collect(job, tmp_path), tables.answers(job, tmp_path)

    def outcome(epochs):
        changed = runs.copy()
        changed.loc[changed["method"] == "supernet-longer", "epochs"] = epochs
        return next(c for c in claims(job, changed, answers) if c.method == "st")

    longer = outcome(12)
    assert longer.outcome == "did not hold"
    assert [c.decided for c in longer.comparisons] == [1, 1, -1]
    assert longer.comparisons[-1].role == (
        "a supernet that was trained for longer (12 epochs, st 4)"
    )
    # one that was not is no opponent
    assert outcome(4).outcome == "held" and len(outcome(4).comparisons) == 2


def test_claim_did_not_hold(tmp_path):
    claim = verdicts(tmp_path, {**ACCURACY, "st": [85.0, 85.6, 86.3]})["st"]
    assert claim.outcome == "did not hold"
    assert "DID NOT HOLD" in claim.sentence and "is less accurate than" in claim.sentence
    assert "better in 0 of 3 seeds" in claim.sentence
    # not compared any further
    assert [c.decided for c in claim.comparisons] == [-1, None]


def test_claim_undecided(tmp_path):
    claim = verdicts(tmp_path, {**ACCURACY, "st": [91.0, 90.5, 91.5]}, two_claimants())["st"]
    assert claim.outcome == "undecided" and "IS UNDECIDED" in claim.sentence
    assert "+0.50 points, 95 % interval" in claim.sentence
    assert "better in 2 of 3 seeds and equal in 1" in claim.sentence
    assert "the corrected interval contains zero" in claim.sentence
    assert "the claim is UNDECIDED for st: +0.50 points (" in claim.short


def test_both_bounds_that_are_exceeded_are_named(tmp_path):
    claim = verdicts(tmp_path, BEST, kept=(0.11, 0.6))["st"]
    assert (
        "keeps up to 11.00 % of the parameters, more than the claim's 10 %, and up to 60.00 % of "
        "the MACs, more than the claim's 50 %. Its margins"
    ) in claim.sentence


@pytest.mark.parametrize("kept", [(0.11, 0.25), (0.1, 0.51)])
def test_claim_needs_its_budget(tmp_path, kept):
    claim = verdicts(tmp_path, BEST, kept=kept)["st"]
    assert claim.outcome == "not tested"
    assert "NOT TESTED" in claim.sentence
    over = "11.00 % of the parameters, more than the claim's 10 %"
    over = over if kept[0] > 0.1 else "51.00 % of the MACs, more than the claim's 50 %"
    assert f"keeps up to {over}. Its margins" in claim.sentence


def test_a_structure_that_nobody_searched_for_makes_no_claim(tmp_path):
    """It is a control: no verdict is about it, and the level is not shared with it."""
    found = verdicts(tmp_path, BEST)
    assert list(found) == ["st"]
    assert found["st"].comparisons[0].confidence == pytest.approx(0.95)
    assert "kd-uniform" in [control.opponent for control in found["st"].controls]


def test_held_by_a_row_that_was_trained_longest_says_so(tmp_path):
    job = make_job()
    write_results(tmp_path, job, BEST)
    runs, answers = tables.collect(job, tmp_path), tables.answers(job, tmp_path)
    words = "it was trained longer than any supernet, which may be the reason"
    (claim,) = claims(job, runs, answers)
    assert claim.outcome == "held" and words not in claim.sentence + claim.short
    runs.loc[runs["method"] == "st", "epochs"] = 8
    (claim,) = claims(job, runs, answers)
    assert claim.outcome == "held" and words in claim.sentence and words in claim.short
    assert claim.to_json([0, 1, 2])["trained_longest"]
    assert "Missing control, the supernet trained as long" in claim.missing[-1]
    (claim,) = claims({**job, "claims": {"st": ["supernet"]}}, runs, answers)
    assert claim.outcome == "held" and words not in claim.sentence  # that file names its opponents


def test_rows_beyond_the_budget_take_no_level(tmp_path):
    job = two_claimants()
    write_results(tmp_path, job, BEST)
    runs, answers = tables.collect(job, tmp_path), tables.answers(job, tmp_path)
    runs.loc[runs["method"] == "kd-uniform", "params_kept"] = 0.2
    st, uniform = claims(job, runs, answers)
    assert uniform.outcome == "not tested"
    assert st.comparisons[0].confidence == pytest.approx(0.95)
    assert "corrected" not in st.sentence


def test_a_loss_less_training_makes_no_claim_and_a_params_key_names_pairs(tmp_path):
    job = two_claimants()
    job["claims"] = {"scratch-b": ["supernet"], "st": ["kd-uniform", "supernet"]}
    found = verdicts(tmp_path, BEST, job, kept=(0.3, 0.7))
    # of another claim, and of other sizes, than the paper's
    assert "net on toy: the params file's claim is UNDECIDED for st: +" in found["st"].short
    assert "the params file's claim IS UNDECIDED in this run: " in found["st"].sentence
    assert found["kd-uniform"].outcome == "not tested"
    assert [c.opponent for c in found["scratch-b"].comparisons] == ["supernet"]
    assert [c.opponent for c in found["st"].comparisons] == ["kd-uniform", "supernet"]
    assert list(found) == ["st", "scratch-b", "kd-uniform"]


def test_numbers_behind_the_verdicts(tmp_path):
    claim = verdicts(tmp_path, BEST, two_claimants())["st"]
    found = json.loads(json.dumps(claim.to_json([0, 1, 2])))
    own = found["comparisons"][0]
    assert own["points"] == pytest.approx(3.7) and own["images"] == 1000
    assert own["interval"][0] > own["corrected_interval"][0] > 0
    assert 0 < own["p_value"] < 1 - own["corrected_confidence"]
    for seed, points in (("0", 40), ("1", 37), ("2", 34)):
        counts = own["only_one_correct"][seed]
        assert counts["subnet"] - counts["opponent"] == points


def test_controls(tmp_path):
    claim = verdicts(tmp_path, BEST)["st"]
    teacher, search = claim.controls
    assert "without a teacher (scratch-b): st is better, +3.40 points" in str(teacher)
    assert "search uniform" in str(search) and "also another teacher" in str(search)
    written = claim.to_json([0, 1, 2])["controls"]
    assert [one["opponent"] for one in written] == ["scratch-b", "kd-uniform"]
    assert [one["sentence"] for one in written] == [str(teacher), str(search)]
    assert written[0]["points"] == pytest.approx(3.4) and written[0]["decided"] == 1
    assert claim.missing == [
        "Missing control, the same teacher without the search; add to searches: slim-uniform: "
        "{supernet: sparse, criterion: uniform, budget: {params: 0.1, macs: 0.5}} and to methods: "
        "st-uniform: {search: slim-uniform, objective: {kd: 0.9}}"
    ]


def test_a_control_with_other_epochs_is_not_enough(tmp_path):
    job = make_job()
    write_results(tmp_path, job, BEST)
    runs, answers = tables.collect(job, tmp_path), tables.answers(job, tmp_path)
    runs.loc[runs["method"] == "scratch-b", "epochs"] = 3
    claim = claims(job, runs, answers)[0]
    assert any("3 instead of 4 epochs" in control.also for control in claim.controls)
    (line,) = (text for text in claim.missing if "without a teacher; add to methods" in text)
    assert line.endswith("st-no-teacher: {search: slim, objective: {ce: 1}}")


def test_what_else_sets_a_control_apart(tmp_path):
    job = make_job()
    job["rows"]["net"][3]["training"] = {"epochs": 9, "lr": 0.02}
    job["rows"]["net"][4]["init_options"] = {"bn_scale": 0.5}
    write_results(tmp_path, job, BEST)
    runs, answers = tables.collect(job, tmp_path), tables.answers(job, tmp_path)
    runs.loc[runs["method"] == "kd-uniform", "macs_kept"] = 0.05
    teacher, search = map(str, claims(job, runs, answers)[0].controls)
    assert "(scratch-b; also lr 0.02 instead of 0.1)" in teacher
    assert "other init_options, 0.2 times the MACs)" in search


def test_clean_controls_leave_nothing_missing(tmp_path):
    job = make_job()
    job["rows"]["net"][4] |= {"supernet": "sparse", "criterion": "uniform"}
    claim = verdicts(tmp_path, BEST, job)["st"]
    assert len(claim.controls) == 2 and not claim.missing


def test_missing_controls_can_be_had():
    """What is proposed fits, and once it is there nothing is: for rows of every kind."""
    import yaml

    from st.config.check import parse
    from st.config.grid import Grid

    searches = {
        "slim": {"supernet": "sparse", "criterion": "bn_scale", "budget": {"params": 0.5}},
        "l1": {"supernet": "plain", "criterion": "l1_norm", "ranking": "local",
               "budget": {"params": 0.5}},
    }  # fmt: skip
    methods = {
        "st": {"search": "slim", "objective": {"kd": 1}, "training": {"epochs": 4}},
        "tuned": {"search": "l1", "init": "inherit", "training": {"lr": 0.01}},
        "taught": {"search": "l1", "init": "inherit", "objective": {"kd": 1}},
        "plain": {"search": "l1"},
    }
    data = {
        "seeds": [0], "datasets": {"digits": {"source": "digits"}},
        "architectures": {"net": {"family": "vgg", "options": {"layers": [8, "M", 8]},
                                  "sparsity": 1e-3}},
        "training": {"epochs": 2},
        "supernets": {"plain": {}, "sparse": {"sparse": True}},
        "searches": searches, "methods": methods,
        "claims": {"tuned": ["supernet"], "plain": ["supernet"], "taught": ["supernet"]},
    }  # fmt: skip

    def said():
        grid = Grid(parse(json.loads(json.dumps(data))))
        rows, names = grid.report()["rows"]["net"], grid.report()["names"]
        runs = {}
        for entry in rows:
            method = data["methods"].get(entry["method"])
            supernet = "search" not in entry
            epochs = (entry["spec"].get("training") or {}).get("epochs", 2)
            teacher = method and "kd" in method.get("objective", {}) and entry["supernet"]
            kept = 1 if supernet else 0.5
            facts = {"epochs": epochs, "teacher": teacher or None}
            sizes = {"params_kept": kept, "macs_kept": kept}
            runs[entry["method"]] = pd.DataFrame([facts | sizes])
        for entry in rows:
            if entry["method"] in ("st", "tuned", "taught", "plain"):
                correct = {r["method"]: np.ones((1, 9), bool) for r in rows}
                for control in controls(rows, entry, runs, correct, "test images"):
                    assert "no teacher" not in control.also or "kd" in str(entry["objective"])
                yield from missing(rows, entry, runs, names)
                if entry["method"] == "st":
                    yield from as_long(rows, entry, runs, names)

    proposed = list(said())
    assert len(proposed) == 6
    for text in proposed:
        parts = text.partition("; add to ")[2].split(" and to ")
        for part in parts:
            section, _, line = part.removesuffix(".").partition(": ")
            data[section] |= yaml.safe_load(line)
    assert not list(said())


def test_what_claims_may_name():
    from st.config.check import parse
    from st.core.errors import StError

    data = {
        "seeds": [0],
        "datasets": {"digits": {"source": "digits"}},
        "architectures": {"vgg": {"family": "vgg", "options": {"layers": [8, "M", 8]}}},
        "supernets": {"plain": {}, "longer": {"training": {"epochs": 300}}},
        "searches": {"s": {"criterion": "bn_scale", "budget": {"params": 0.5}}},
        "methods": {"st": {"search": "s", "objective": {"kd": 1}}},
        "claims": {"st": ["supernet-longer", "supernet"]},
    }
    params = parse(data)
    # a supernet that no method needs is there to be compared with, in a claim or as it is
    from st.config.grid import Grid

    assert Grid(params).supernets("vgg") == ["plain", "longer"]
    assert Grid(parse({**data, "claims": {}})).supernets("vgg") == ["plain", "longer"]
    for bad, words in (
        ({"sst": ["supernet"]}, "claims.sst: unknown method"),
        ({"st": ["supernet-long"]}, "claims.st: unknown row 'supernet-long'; did you mean"),
        ({"st": ["st"]}, "claims.st: unknown row 'st'"),
        ({"st": []}, "must not be empty"),
    ):
        with pytest.raises(StError, match=words):
            parse({**data, "claims": bad})


def test_supernets_of_some_architectures():
    """Whatever methods other architectures have: a supernet is for all, or for those it names."""
    from st.config.check import parse
    from st.config.grid import Grid
    from st.core.errors import StError

    data = {
        "seeds": [0],
        "datasets": {"digits": {"source": "digits"}},
        "architectures": {
            name: {"family": "vgg", "options": {"layers": [8, "M", width]}}
            for name, width in {"one": 8, "other": 4}.items()
        },
        "supernets": {"plain": {}, "longer": {"training": {"epochs": 300}}},
        "searches": {
            name: {"supernet": name, "criterion": "bn_scale", "budget": {"params": 0.5}}
            for name in ("plain", "longer")
        },
        "methods": {
            "st": {"search": "plain", "objective": {"kd": 1}},
            "st-longer": {"search": "longer", "architectures": ["other"]},
        },
    }

    def supernets(**longer):
        spec = {**data["supernets"]["longer"], **longer}
        grid = Grid(parse({**data, "supernets": {"plain": {}, "longer": spec}}))
        return [grid.supernets(name) for name in ("one", "other")]

    assert supernets() == [["plain", "longer"]] * 2
    assert supernets(architectures=["other"]) == [["plain"], ["plain", "longer"]]
    for bad, words in (
        (
            {"architectures": ["one"]},
            "methods.st-longer.search: supernet 'longer' is not for other",
        ),
        ({"architectures": ["anther"]}, "supernets.longer.architectures: unknown architecture"),
    ):
        with pytest.raises(StError, match=words):
            supernets(**bad)
    with pytest.raises(StError, match="the first supernet is every architecture's reference"):
        parse({**data, "supernets": {**data["supernets"], "plain": {"architectures": ["one"]}}})
    with pytest.raises(StError, match=r"claims\.st: 'supernet-longer' is no row of one"):
        only = {"plain": {}, "longer": {"architectures": ["other"]}}
        parse({**data, "supernets": only, "claims": {"st": ["supernet-longer"]}})


# The level of the whole report, simulated


def report(rng, rows, seeds, images, shared, effect=0.0):
    """Margins of a report in which all rows are as good as their supernets: each is compared with
    the supernet it was found in, then with the reference."""
    hard = rng.standard_normal(images)

    def network(level=0.8):
        ability = level + 0.1 * rng.standard_normal((seeds, 1))
        return hard + 0.7 * rng.standard_normal((seeds, images)) < ability

    own, reference = network(), network()
    for _ in range(rows):
        if not shared:
            own, reference = network(), network()
        subnet = network(0.8 + effect)
        yield [Margin(subnet, own), Margin(subnet, reference)]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("rows", [1, 4, 12])
def test_false_verdicts_are_rare(seeds, rows):
    """With nothing to find, HELD stands anywhere in a report at most in 5 % of the runs, and so
    does any decision, right or wrong, about a first comparison."""
    rng = np.random.default_rng([seeds, rows])
    held, any_positive, any_decided, repetitions = 0, 0, 0, 400
    for number in range(repetitions):
        margins = list(report(rng, rows, seeds, 200, shared=number % 2 == 0))
        decided = [signs for signs, _ in decide(margins)]
        held += any(signs == [1, 1] for signs in decided)
        any_positive += any(1 in signs for signs in decided)
        any_decided += any(sign for signs in decided for sign in signs)
    assert held / repetitions <= 0.05
    assert any_positive / repetitions <= 0.05
    assert any_decided / repetitions <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / repetitions)


def test_without_the_correction_they_would_not_be():
    """The simulation notices: eight rows, each judged at 5 % by itself and against one supernet,
    from the spread over seeds alone, as reports did before."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        margins = [first for first, _ in report(rng, 8, 5, 200, shared=False)]
        held += any(margin.sign() == 1 for margin in margins)
    assert held / 200 > 0.08


def test_what_is_there_is_found():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        ((signs, _),) = decide(list(report(rng, 1, 5, 1000, shared=True, effect=0.6)))
        held += signs == [1, 1]
    assert held > 90


def test_decided_rows_leave_their_level_to_the_others():
    class Fixed(Margin):
        def __init__(self, p):
            object.__setattr__(self, "p", p)

        def sign(self, confidence=0.95):
            return int(self.p <= 1 - confidence + 1e-12)

    found = decide([[Fixed(0.01)], [Fixed(0.02)], [Fixed(0.04)]])
    assert [signs for signs, _ in found] == [[1], [1], [1]]
    assert [1 - confidence for _, confidence in found] == pytest.approx([0.05 / 3, 0.025, 0.05])
    # Holm: the smallest must pass a third of the level first
    found = decide([[Fixed(0.02)], [Fixed(0.02)], [Fixed(0.04)]])
    assert [signs for signs, _ in found] == [[0], [0], [0]]
    # a row keeps its level until its last comparison
    found = decide([[Fixed(0.01), Fixed(0.03)], [Fixed(0.04)]])
    assert [signs for signs, _ in found] == [[1, 0], [0]]
    found = decide([[Fixed(0.01), Fixed(0.02)], [Fixed(0.04)]])
    assert [signs for signs, _ in found] == [[1, 1], [1]]


def test_frames_are_not_changed(tmp_path):
    job = make_job()
    write_results(tmp_path, job, BEST)
    runs = tables.collect(job, tmp_path)
    before = runs.copy()
    claims(job, runs, tables.answers(job, tmp_path))
    pd.testing.assert_frame_equal(runs, before)
