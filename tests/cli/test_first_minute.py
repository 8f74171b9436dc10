"""The first minute: help, mistakes on the command line and in files, and places where nothing can be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gqasearch.cli.app import app
from gqasearch.cli.config_file import read_config
from gqasearch.embedded import model_directory

EMBEDDED = model_directory()

# Walks every verb in one process that has imported nothing else.
WALK = """
import sys
from typer.main import get_command
from typer.testing import CliRunner
from gqasearch.cli.app import app

def verbs(command, path=()):
    yield path
    for name, inside in getattr(command, "commands", {}).items():
        yield from verbs(inside, (*path, name))

calls = [[*path, "--help"] for path in verbs(get_command(app))]
wrong = [["--version"], [], ["serach"], ["search", "--kv-ration", "1"], ["search", "--kv-ratio", "x"],
         ["search", "--set", "kv_ratio=x"], ["search", "--seed", "-1"], ["heal", "x", "--steps", "0"], ["ls", "x"]]
codes = [CliRunner().invoke(app, call).exit_code for call in calls + wrong]
completed = CliRunner().invoke(app, [], prog_name="gqasearch", env={
    "_GQASEARCH_COMPLETE": "complete_bash", "COMP_WORDS": "gqasearch search --kv", "COMP_CWORD": "2"})
assert "--kv-ratio" in completed.stdout, completed.output
heavy = {"torch", "transformers", "pandas", "scipy", "optuna", "matplotlib", "ray"} & sys.modules.keys()
print(len(calls), codes[:len(calls) + 1], codes[len(calls) + 1:], sorted(heavy))
"""


def call(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app, list(arguments), **options)


def one_line(result: Result) -> str:
    """The message of a refused command, which is one line and no traceback."""
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.exception, result.output)
    assert result.stderr.startswith("gqasearch: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_no_help_and_no_usage_error_imports_a_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", WALK], capture_output=True, text=True, check=True, timeout=120)
    verbs = len(app.registered_commands) + 1 + 6 + 1  # sweep with its six, and gqasearch itself
    assert done.stdout.split("\n")[-2] == f"{verbs} {[0] * (verbs + 1)} {[2] * 8} []"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"kv_ratio: abc", "kv_ratio: must be a number, got 'abc'"),
        (b"kv_ration: 1", "unknown setting 'kv_ration'; did you mean 'kv_ratio'?"),
        (b"kv_ratio: yes", "kv_ratio: must be a number, got true"),
        (b"seed: on", "seed: must be a number, got true"),
        (b"kv_ratio: .nan", "kv_ratio: must be a finite number, got nan"),
        (b"max_seconds: .inf", "max_seconds: must be a finite number, got inf"),
        (b"batch_blocks: 10000000000000000000000000", "batch_blocks: must be below 2**63, got 1000"),
        (b"seed: 9223372036854775808", "seed: must be below 2**63, got 9223372036854775808"),
        (b"max_group_size: 0", "max_group_size: must be greater than or equal to 1, got 0"),
        (b"model: ''", "model: must not be empty, got ''"),
        (b"refine: ''", "refine: must not be empty, got ''"),
        (
            b"dtype: flaot32",
            "dtype: must be 'float32', 'bfloat16' or 'float16', got 'flaot32'; did you mean 'float32'?",
        ),
        (b"objectives: kl", "objectives: must be a list, got 'kl'"),
        (b"method_parameters: [a]", "method_parameters: must be a mapping of names to values, got ['a']"),
        (b"method_parameters: {1: 2}", "method_parameters.1: "),
        (b"method_parameters: {popluation: 2}", "'popluation'; did you mean 'population'?"),
        (b"method_parameters: {population: yes}", "method evolution: parameter population: must be a number, got true"),
        (b"method_parameters: {population: .inf}", "parameter population: must be a finite number, got inf"),
        (b"1: 2", "1: names must be text"),
        (b"- seed", "must hold a mapping of settings, got list"),
        (b"seed: 1\nseed: 2", "seed is given twice (line 2, column 1)"),
        (b"seed:\n\t- 1", r"found character '\t' that cannot start any token (line 2, column 1)"),
        (b"model: \xff\xfe", "is not valid YAML"),
        (b"seed: 2026-13-45", "is not valid YAML: month must be in 1..12"),
        (b"seed: !!timestamp x", "is not valid YAML"),
        (b"seed: !!bool x", "is not valid YAML"),
        (b"a: " + b"[" * 1500, "is not valid YAML: it is nested too deeply"),
        (b"seed: 1\n---\nseed: 2", "expected a single document"),
    ],
)
def test_mistakes_in_a_file_are_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    assert message in one_line(call("search", "--dry-run", "--config", str(path)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("search --kv-ratio half", "--kv-ratio: must be a number, got 'half'"),
        ("heal x --steps 1.5", "--steps: must be a whole number, got '1.5'"),
        ("sweep start x.yaml --trials 0", "--trials: must be greater than or equal to 1, got '0'"),
        ("search --kv-rati 1", "unknown option --kv-rati; did you mean '--kv-ratio'? gqasearch search --help lists"),
        ("search --seed", "option '--seed' requires an argument; see gqasearch"),
        ("evaluate", "missing argument 'checkpoint'; see gqasearch evaluate --help"),
        ("serach", "no such command 'serach'. Did you mean 'search'? See gqasearch --help"),
    ],
)
def test_mistakes_in_options_are_one_line(arguments: str, message: str) -> None:
    assert message in one_line(call(*arguments.split(), prog_name="gqasearch"))


# A file of each kind, and the command that takes it.
KINDS = {
    "run": ("kv_ratio: 0.5\nseed: 1\n", "gqasearch search --config"),
    "sweep": ("objectives: [kl]\nparameters: {seed: [0, 1]}\n", "gqasearch sweep"),
    "comparison": ("kv_ratios: [0.5]\nrun: {model: embedded}\n", "gqasearch compare --config"),
}
TAKING = {"run": ("search", "--config"), "sweep": ("sweep",), "comparison": ("compare", "--config")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", [*TAKING, "grouping"])
def test_a_file_of_another_kind_names_its_command(kind: str, wanted: str, tmp_path: Path) -> None:
    content, command = KINDS[kind]
    path = tmp_path / "file.yaml"
    path.write_text(content)
    if kind == wanted:
        assert read_config(path, kind)
        return
    told = one_line(call(*TAKING.get(wanted, ("validate",)), str(path)))
    assert told == f"gqasearch: {path} is the file of a {kind}, not of a {wanted}: {command} {path}\n"


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbfseed: 7\r\nkv_ratio: 0.25\r\n", "seed: 7\nkv_ratio: 0.25\n".encode("utf-16")]
)
def test_files_of_other_systems_are_read(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    config = json.loads(call("search", "--dry-run", "--json", "--config", str(path)).stdout)["config"]
    assert (config["seed"], config["kv_ratio"]) == (7, 0.25)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fitness", ""], "objectives.0: must not be empty"),
        (["--set", "seed=["], "--set seed=[: the value is not valid YAML: while parsing a flow node, expected"),
        (["--set", "seed=2026-13-45"], "the value is not valid YAML: month must be in 1..12"),
        (["--device", "meta"], "--device meta cannot be used here: "),
        (["--device", "mps"], "--device mps cannot be used here: "),
        (["--threads", "100000000000"], "--threads must be at least 1 and at most 4096, got 100000000000"),
        (["--fitness", "kl", "--workers", "9" * 5000], "give a number of processes, 1 to 4096"),
        (["--fitness", "kl", "--workers", "99999"], "give a number of processes, 1 to 4096"),
    ],
)
def test_mistakes_in_flags_are_one_line(flags: list[str], message: str) -> None:
    assert message in one_line(call("search", "--dry-run", *flags))
    assert len(one_line(call("search", "--dry-run", *flags))) < 500


def test_a_device_is_checked_before_a_checkpoint_is_loaded_on_it() -> None:
    assert "--device gpu cannot be used here" in one_line(
        call("evaluate", str(EMBEDDED), "--parent", "embedded", "--device", "gpu")
    )


@pytest.mark.parametrize(
    ("verb", "place"),
    [
        *(("search", place) for place in ("file/x", "/dev/null", "/dev/null/x", "/proc/x", "a" * 300)),
        ("compare", "file/x"),
        ("heal", "file/x"),
    ],
)
def test_folders_that_cannot_be_made_are_one_line(
    verb: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    model = [str(EMBEDDED), "--parent", "embedded"] if verb == "heal" else []
    assert Path(place).name in one_line(call(verb, *model, "--output-dir", place))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_terminals_without_some_letters_get_the_rest() -> None:
    """Every table under ASCII: rich's boxes, and what letters a plug-in's or a model's words have."""
    code = (
        "import gqasearch.cli.app as a\nfrom gqasearch.cli.messages import output_console\n"
        "a.app.command('greek')(lambda: output_console().print('\\u03b1'))\na.main()"
    )
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code, "greek"], env=ascii_only, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"\\u03b1\n"), done.stderr
