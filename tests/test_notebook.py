"""The notebook in docs/ runs from top to bottom in a kernel of its own."""

import os
from pathlib import Path

import nbformat
import pytest
from docs_helpers import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))


def test_notebooks_are_kept_without_what_they_print() -> None:
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.outputs for cell in cells if cell.cell_type == "code"), path.name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = str([cell.get("outputs") for cell in notebook.cells])
    assert "Explanations('" in printed
    assert "nothing is reused" in printed
