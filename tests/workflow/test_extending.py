"""docs/extending.md: its examples, taken from the page, run as a user's plugin."""

import csv
import re

import pytest
from helpers.project import ROOT, copy_project, edit, jobs, run, snakemake

PAGE = (ROOT / "docs/extending.md").read_text()


@pytest.fixture
def project(tmp_path):
    folder = copy_project(tmp_path)
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    params = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(code) == 6
    (folder / "my_parts.py").write_text("\n".join(code))
    (folder / "params.yaml").write_text(params[-1])
    return folder


def test_options_of_plugins_are_checked(project):
    edit(project / "params.yaml", "options: {layers: 2}", "options: {layrs: 2}")
    output = run(project, "st", "params", fails=True)
    assert "architectures.plainnet" in output and "did you mean 'layers'" in output


@pytest.mark.slow
def test_the_page_works(project):
    snakemake(project, "results/table.csv")
    with open(project / "results/table.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"supernet", "mine", "mine-pickled"}
    assert rows["mine-pickled"]["accuracy_mean"] == rows["mine"]["accuracy_mean"]
    assert rows["mine"]["dataset"] == "stripes" and float(rows["mine"]["params_kept"]) <= 0.3
    assert rows["mine"]["teacher"] == "supernet"
    # Stripes are easy: the plugin's data, network, init and loss do what they should.
    assert float(rows["mine"]["accuracy_mean"]) > 90
    assert (
        "pytorch"
        in (
            project / "results/evaluate/stripes/plainnet/seed0/mine-pickled/MODEL_CARD.md"
        ).read_text()
    )
    edit(project / "my_parts.py", "np.abs(rows).max", "np.abs(rows).min")
    assert "search stripes/plainnet/seed0/mine" in jobs(snakemake(project, "-n"))
