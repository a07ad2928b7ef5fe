"""What docs/api.md and the example notebook show, run as it stands there."""

import re

import pytest
from helpers.project import ROOT

import st

PAGE = (ROOT / "docs/api.md").read_text()
NOTEBOOK = ROOT / "examples/own-network.ipynb"


@pytest.mark.slow
def test_the_page_s_examples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert {path.name for path in tmp_path.iterdir()} == {"small.safetensors", "own.pt"}
    assert names["structure"].cost()[0] <= 0.5 * names["large"].structure.cost()[0]
    assert "Prediction(label=" in capsys.readouterr().out


def test_the_page_names_all_that_is_public():
    assert not [name for name in st.__all__ if name[:2] != "__" and f"st.{name}" not in PAGE]


def test_the_notebook_is_stored_with_its_results():
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds == {"stream", "execute_result", "display_data"}  # no error
    assert not re.search(r"/home|/tmp|/root", NOTEBOOK.read_text())


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    from st.report.notebook import environment

    for name, value in environment(tmp_path / "jupyter").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "work").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = [[o.output_type for o in cell.get("outputs", [])] for cell in notebook.cells]
    place = {"metadata": {"path": str(tmp_path / "work")}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    assert stored == [[o.output_type for o in cell.get("outputs", [])] for cell in notebook.cells]
    tables = [o.data["text/plain"] for cell in notebook.cells for o in cell.get("outputs", [])
              if "text/html" in o.get("data", {})]  # fmt: skip
    rows = {line[:20].strip(): line[20:].split() for line in tables[0].splitlines()[1:]}
    assert float(rows["supernet"][0]) > 95 and float(rows["search and train"][0]) > 90
    assert float(rows["search and train"][3]) <= 0.1 and float(rows["search and train"][4]) <= 0.5
    assert (tmp_path / "work" / "small.safetensors").exists()
