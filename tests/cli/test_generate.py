"""``gqasearch evaluate --generate``: in the terminal, as JSON, in a run's page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gqasearch.cli.app import app

FEW = ("--evaluation-tokens", "2048")


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Neighbours merged to a quarter of the heads: texts differ."""
    folder = tmp_path_factory.mktemp("run") / "made"
    command = "search --method neighbour --merge mean --refine none --fitness weight-sharing-error --kv-ratio 0.25 -q"
    made = CliRunner().invoke(app, [*command.split(), *FEW, "--output-dir", str(folder)])
    assert made.exit_code == 0, made.output
    return folder


def test_of_a_run_its_page_has_both_texts_before_any_table(run_folder: Path) -> None:
    shown = evaluate(str(run_folder), "--generate")
    assert shown.exit_code == 0, shown.output
    assert "Keys found again" in shown.stdout and "report  " in shown.stdout
    found = json.loads((run_folder / "generated.json").read_text())
    assert [sample["how"] for sample in found["samples"]] == ["greedy", "sampled"] * 3
    assert any(sample["parent"] != sample["converted"] for sample in found["samples"])
    assert all(row["perplexity"] > row["parent_perplexity"] for row in found["positions"])
    page = (run_folder / "report.html").read_text()
    assert page.index("<h2>What both write") < page.index("<h2>Results") < page.index("Keys found again")
    section = page.partition("<h2>What both write")[2].partition("<h2>")[0]
    assert len(re.findall("<mark>", section)) == 12 and "<script" not in section
    other = CliRunner().invoke(app, ["report", str(run_folder), "-o", str(run_folder / "again.html")])
    assert other.exit_code == 0 and "<h2>What both write" in (run_folder / "again.html").read_text()


def test_a_model_beside_itself_and_its_seed(tmp_path: Path) -> None:
    from gqasearch.embedded import model_directory

    call = (str(model_directory()), "--parent", "embedded", "--generate", "--json", "--prompt", "def main(", *FEW)
    first, again, other = (json.loads(evaluate(*call, "--seed", seed).stdout) for seed in ("1", "1", "2"))
    assert first == again and first["seed"] == 1
    assert all(sample["parent"] == sample["converted"] for sample in first["samples"])
    assert [sample["prompt"][-9:] for sample in first["samples"]] == ["def main("] * 2
    greedy, sampled = (
        [one["samples"][index]["parent"] == other["samples"][index]["parent"] for one in (first, again)]
        for index in (0, 1)
    )
    assert all(greedy) and not any(sampled)
    assert {row["kl"] for row in first["positions"]} == {0.0}
    assert all(row["parent"] == row["converted"] for row in first["needles"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--generate", "--tasks", "arc_easy"], "--tasks: no effect with --generate"),
        (["--generate", "--kv-bits", "8"], "--kv-bits: no effect with --generate"),
        (["--seed", "3"], "--seed: no effect without --generate"),
        (["--prompt", "x"], "--prompt: no effect without --generate"),
        (["--generate", "--prompt", "word " * 300], "the model's context of 256 takes at most 192"),
    ],
)
def test_mistakes(flags: list[str], message: str) -> None:
    from gqasearch.embedded import model_directory

    result = evaluate(str(model_directory()), "--parent", "embedded", *FEW, *flags)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.output
