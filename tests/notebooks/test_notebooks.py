"""The notebooks run from top to bottom on the embedded model, and are committed without output."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> NotebookNode:
    found: NotebookNode = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 3


def test_committed_without_output(notebook: NotebookNode) -> None:
    assert [cell for cell in code(notebook) if cell.outputs or cell.execution_count is not None] == []


def test_runs_from_top_to_bottom(notebook: NotebookNode, tmp_path: Path) -> None:
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="python3", timeout=900, resources=where).execute()
    shown = [output for cell in code(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
