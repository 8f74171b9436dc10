"""Every command of the README is run, on a run folder of the embedded model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gqasearch.cli.app import app

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0] for line in re.findall(r"^\.venv/bin/gqasearch (.+)$", README, flags=re.MULTILINE)]
SWEEP = "objectives: [kl]\nparameters: {merge: [mean, optimal]}\n"
PREPARE = "search --method neighbour --merge mean --fitness weight-sharing-error --output-dir runs/NAME -q"

# A comparison of few groupings on little text.
SMALL = "--seeds 0 --sample 3 --sample-tokens 512 --refine none" + "".join(
    f" --set {name}_tokens=1024" for name in ("calibration", "search", "evaluation")
)
FEW_TOKENS = "".join(f" --{name}-tokens 1024" for name in ("calibration", "search", "evaluation"))
# The last of two values counts.
FEW_STEPS = " --steps 2 --batch-blocks 1 --validation-tokens 1024 --evaluation-tokens 1024"


def call(command: str) -> str:
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, f"{command}\n{result.output}"
    return result.output


def test_commands_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gqasearch.run.heal.work.POOL", 1 << 14)
    assert len(COMMANDS) >= 7
    call(PREPARE + " --evaluation-tokens 4096")
    for command in COMMANDS:
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
            assert call(command)
    assert (tmp_path / "converted" / "model.safetensors").is_file()


def test_lists_are_complete() -> None:
    for what in ("fitness", "merges", "refinements", "methods"):
        for row in json.loads(call(f"ls {what} --json"))[what]:
            assert f"`{row['name']}`" in README
