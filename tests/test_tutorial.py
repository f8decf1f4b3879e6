"""The notebook of the manual, and the Python on its pages, run as they stand, on fewer steps."""

import contextlib
import io
import json

import pytest
from helpers.docs import AT_MOST, ROOT, blocks, shrunk

TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
SHORT = 'SHORT = ["evaluation.ais.temperatures=50", "evaluation.ais.raise_points=2", "eval_every=0"]'
LESS = {
    "STEPS = 5000": "STEPS = 100",
    '"tracker=none"]': '"tracker=none", "evaluation=[ais,samples]", *SHORT]',
    "import numpy as np": "import numpy as np\n" + SHORT,
    "steps=1000": "steps=20",
    "steps=500": "steps=20",
    "max_iter=1000": "max_iter=10",
}


def cells(kind):
    return [cell for cell in json.loads(TUTORIAL.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_notebook_holds_no_outputs():
    assert [cell for cell in cells("code") if cell["outputs"] or cell["execution_count"] is not None] == []
    assert "".join(cells("markdown")[0]["source"]).startswith("# ")


@pytest.mark.long
def test_the_notebook_runs(tmp_path):
    """In a kernel of its own; steps are shown as a bar, and a run with its pictures."""
    import nbclient
    import nbformat

    notebook = nbformat.read(TUTORIAL, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for old, new in LESS.items():
        assert sum(cell.source.count(old) for cell in code) == 1, old
        for cell in code:
            cell.source = cell.source.replace(old, new)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [[dict(one.get("data", {})) for one in cell.outputs] for cell in code]
    assert 'max="100"></progress> <code>step 100/100' in shown[1][0]["text/html"]
    assert "data:image/png;base64" in shown[1][-1]["text/html"]
    assert all("image/png" in shown[at][-1] for at in (2, 3, 5))
    said = ["".join(one.get("text", "") for one in cell.outputs) for cell in code]
    assert "by AIS of summary.json" in said[4]
    assert "Imputed(384 values of 12 rows" in said[5]
    assert len((*tmp_path.glob("outputs/*"),)) == 1


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_python_of_the_chapter_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shrunk(monkeypatch, {**AT_MOST, "steps": 8, "hidden": 64})  # enough for digits to be told apart
    said, names = io.StringIO(), {}
    less = {"steps=200": "steps=20", "random_state=0": "random_state=0, n_iter=1"}
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for language, text in blocks("python"):
            if language == "python":
                for old, new in less.items():
                    text = text.replace(old, new)
                exec(text, names)
    assert names["draws"].shape == (10, 20, 8, 8)
    assert "Imputed(320 values of 10 rows" in said.getvalue()
    assert names["likely"].low.mean() <= names["likely"].high.mean()
    assert 0.5 < names["search"].best_score_ <= 1
