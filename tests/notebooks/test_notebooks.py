"""The notebooks run from top to bottom on the embedded model, and are committed without output.

`make test` runs the code of one of them on little text; `make test-all` runs all of them as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import gqasearch as gqs
from tests.matrix import sampled

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


# Notebook -> what stands in it, and what takes its place: little text, few groupings.
SMALLER = {
    "anatomy_of_a_grouping": {"evaluation_tokens=8192": "**TINY"},
    "from_sweep_to_checkpoint": {
        "calibration_tokens=16384, evaluation_tokens=8192": "**TINY",
        "generations=20": "generations=2",
    },
    "which_fitness_predicts_quality": {
        "evaluation_tokens=4096": "**TINY",
        "sample=24,": "sample=4,",
        "sample_tokens=4096,": "sample_tokens=1024,",
        "evaluations=300,": "evaluations=30,",
    },
}
TINY = {f"{part}_tokens": 1024 for part in ("calibration", "search", "evaluation")}


@pytest.mark.parametrize("name", sampled(SMALLER, ["anatomy_of_a_grouping"]))
@pytest.mark.filterwarnings("ignore")  # a notebook has no such rule
def test_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    cells = [cell.source.removeprefix("%matplotlib inline\n") for cell in code(nbformat.read(path, as_version=4))]
    source = "\n".join(cells)
    for words, others in SMALLER[name].items():
        assert words in source, words
        source = source.replace(words, others)
    exec(compile(source, path.name, "exec"), {"__name__": name, "TINY": TINY})


def test_only_the_public_names_are_used(notebook: NotebookNode) -> None:
    source = "\n".join(cell.source for cell in code(notebook))
    assert "import gqasearch as gqs" in source and "from gqasearch" not in source
    assert set(re.findall(r"\bgqs\.(\w+)", source)) <= set(gqs.__all__)


@pytest.mark.nightly
def test_runs_from_top_to_bottom(notebook: NotebookNode, tmp_path: Path) -> None:
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="python3", timeout=900, resources=where).execute()
    shown = [output for cell in code(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert [output.text for output in shown if output.get("name") == "stderr"] == []  # no bars, no warnings
