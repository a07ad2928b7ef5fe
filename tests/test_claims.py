"""What the report says about the paper's claim."""

import pytest
from synthetic import ACCURACY, make_job, write_results

from st.report import tables
from st.report.verdicts import claims


def verdict(tmp_path, accuracy, **sizes):
    job = make_job()
    write_results(tmp_path, job, {**ACCURACY, "st": accuracy}, **sizes)
    (claim,) = claims(job, tables.collect(job, tmp_path))
    return claim


def test_claim_held(tmp_path):
    claim = verdict(tmp_path, ACCURACY["st"])
    assert (claim.method, claim.outcome) == ("st", "held")
    # per seed +1.0, +1.1, +1.3: mean 1.1333, std 0.15275, t(0.975, 2) = 4.30265
    assert "HELD in this run: st, with at most 10.00 % of the parameters" in claim.sentence
    assert "+1.13 points, 95 % interval +0.75 to +1.51, better in 3 of 3 seeds" in claim.sentence
    assert "supernet-sparse" in claim.sentence


def test_claim_did_not_hold(tmp_path):
    claim = verdict(tmp_path, [89.0, 89.6, 90.3])
    assert claim.outcome == "did not hold"
    assert "DID NOT HOLD" in claim.sentence and "is less accurate than" in claim.sentence
    assert "better in 0 of 3 seeds" in claim.sentence


def test_claim_undecided(tmp_path):
    claim = verdict(tmp_path, [91.0, 90.5, 91.5])
    assert claim.outcome == "undecided"
    # +1.0, 0, +0.5: mean 0.5, std 0.5, half-width 1.242
    assert "+0.50 points, 95 % interval −0.74 to +1.74" in claim.sentence  # noqa: RUF001
    assert "better in 2 of 3 seeds and equal in 1" in claim.sentence
    assert "the interval contains zero" in claim.sentence


def test_equal_margins_decide_nothing(tmp_path):
    claim = verdict(tmp_path, [90.1, 90.6, 91.1])
    assert claim.outcome == "undecided"
    assert "the same margin in all seeds" in claim.sentence


@pytest.mark.parametrize("kept", [(0.11, 0.25), (0.1, 0.51)])
def test_claim_needs_its_budget(tmp_path, kept):
    claim = verdict(tmp_path, ACCURACY["st"], kept=kept)
    assert claim.outcome == "not tested"
    assert "NOT TESTED" in claim.sentence


def test_controls(tmp_path):
    reference, teacher, search = verdict(tmp_path, ACCURACY["st"]).controls
    assert "(supernet): undecided, +0.63 points" in reference
    # +0.8, +0.7, +1.0 against scratch-b
    assert "without a teacher (scratch-b): st is better, +0.83 points" in teacher
    assert "search uniform" in search and "also another teacher" in search
