"""Every command and every block of Python in the README and the pages of the docs that teach is run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import gqasearch as gqs
from gqasearch import api
from gqasearch.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"^File `([^`]+)`[^\n]*\n.*?^```\w+\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SWEEP = "objectives: [kl]\nparameters: {merge: [mean, optimal]}\n"
PREPARE = "search --method neighbour --merge mean --fitness weight-sharing-error --output-dir runs/NAME -q"

# A comparison of few groupings on little text.
SMALL = "--seeds 0 --sample 3 --sample-tokens 512 --refine none" + "".join(
    f" --set {name}_tokens=1024" for name in ("calibration", "search", "evaluation")
)
FEW_TOKENS = "".join(f" --{name}-tokens 1024" for name in ("calibration", "search", "evaluation"))
# The last of two values counts.
FEW_STEPS = " --steps 2 --batch-blocks 1 --validation-tokens 1024 --evaluation-tokens 1024"
QUICK = " --method neighbour --merge mean --refine none --fitness weight-sharing-error --no-baseline -q"


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(page: Path) -> list[str]:
    return commands_of("".join(blocks(page, "sh")))


def commands_of(block: str) -> list[str]:
    """What is given to ``gqasearch``, without comments."""
    lines = block.replace("\\\n", "").splitlines()
    return [line.removeprefix("gqasearch ").split(" #")[0].strip() for line in lines if line.startswith("gqasearch ")]


def call(command: str) -> str:
    command, _, output = command.partition(" > ")
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, f"{command}\n{result.output}"
    if output:
        Path(output).write_text(result.stdout, encoding="utf-8")
    return result.output


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gqasearch.run.heal.work.POOL", 1 << 14)
    pages = [ROOT / "README.md", DOCS / "commands.md", DOCS / "get-started.md"]
    listed = dict.fromkeys(command for page in pages for command in commands(page))
    assert len(listed) >= 20
    call(PREPARE + " --evaluation-tokens 4096")
    for command in listed:
        verb = shlex.split(command)[0]
        if verb == "search":  # whole searches are run by other tests; here every flag must be right
            call(command.replace("path/to/llama", "embedded") + FEW_TOKENS + " --dry-run")
        elif verb == "compare":
            assert call(f"{command} {SMALL}")
        elif verb == "sweep":
            (tmp_path / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
            assert "study sweep in sqlite:" in call(command + " --dry-run")
        elif verb == "heal":
            assert "trained on 512 tokens in 2 steps" in call(command + FEW_STEPS)
        elif verb == "evaluate":
            assert call(command + (" --limit 20" if "--tasks" in command else " --evaluation-tokens 2048"))
        else:
            assert call(command + (" --overwrite" if verb == "report" else ""))
    assert (tmp_path / "converted" / "model.safetensors").is_file()


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and Python as they stand in it, one after the other, in one folder, on little text."""
    monkeypatch.chdir(tmp_path)
    run_python = python_on_little_text(monkeypatch)
    for name, text in NAMED.findall(page.read_text(encoding="utf-8")):
        few = re.sub(r"^settings:$", "settings:\n  evaluation_tokens: 1024", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(re.sub(r"tokens: \d+", "tokens: 1024", few), encoding="utf-8")
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            run_python(block)
        for command in commands_of(block) if language == "sh" else []:
            words = shlex.split(command)
            if words[0] == "search":
                call(command + QUICK + FEW_TOKENS)
            elif words[0] == "compare":
                call(f"{command} {SMALL}")
            elif words[0] == "evaluate" and "--tasks" not in words:
                call(command + " --evaluation-tokens 1024")
            else:
                call(command)


# What loads a checkpoint in an engine is run by tests/clients.
TAUGHT = [page for page in PAGES if blocks(page, "python") and page.stem != "serve" and page not in TUTORIALS]


@pytest.mark.parametrize("page", TAUGHT, ids=lambda page: page.stem)
def test_python(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page one after the other: on the embedded model, on little text, searched briefly."""
    monkeypatch.chdir(tmp_path)
    if page.stem == "README" or page.stem == "checkpoints":
        call(PREPARE + FEW_TOKENS)
    run_python = python_on_little_text(monkeypatch)
    for block in blocks(page, "python"):
        run_python(block)


def python_on_little_text(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Runs blocks that share their names. ``gqasearch.load`` gives the embedded model, ``search`` is brief."""
    few = {f"{name}_tokens": 1024 for name in ("calibration", "search", "evaluation")}
    names: dict[str, Any] = {}

    def load(*_: Any, **__: Any) -> gqs.ParentWithText:
        return api.load("embedded", **few)

    def search(parent: gqs.ParentWithText, **settings: Any) -> gqs.SearchResult:
        return api.search(parent, **{"refine": "none", "max_evaluations": 200} | settings)

    monkeypatch.setattr(gqs, "load", load)
    monkeypatch.setattr(gqs, "search", search)
    return lambda block: exec(re.sub(r"KL\(tokens=[\d_]+\)", "KL(tokens=512)", block), names)


def test_lists_are_complete() -> None:
    pages = {"fitness": "fitness.md", "merges": "merges.md", "refinements": "merges.md", "methods": "search-methods.md"}
    for what, page in pages.items():
        text = (DOCS / page).read_text(encoding="utf-8")
        for row in json.loads(call(f"ls {what} --json"))[what]:
            assert f"`{row['name']}`" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    """Every file that a page links to is there, and every heading."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, target
