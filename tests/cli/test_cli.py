"""The command line: every verb, every kind of mistake, one clear message and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from gqasearch import grouping_document
from gqasearch.cli.app import app
from gqasearch.config import RunConfig
from gqasearch.sections import SECTIONS
from tests.samples import text_file
from tests.tiny_models import save_checkpoint, tiny_model

O_PROJ = "model.layers.0.self_attn.o_proj.weight"
SMALL = ["--set", "method.population=6", "--set", "method.generations=2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tiny_model("llama"), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def common(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    text = text_file(tmp_path_factory.mktemp("text"))
    tokens = ["--calibration-tokens", "600", "--search-tokens", "300", "--evaluation-tokens", "300"]
    return ["--model", str(checkpoint), "--calibration-text", str(text), "--block-length", "32", *tokens]


@pytest.fixture(scope="module")
def finished(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = call("search", "--output-dir", str(folder), *common, *SMALL)
    assert result.exit_code == 0, result.output
    assert "neighbour" in result.output and str(folder / "report.html") in result.output.replace("\n", "")
    return folder


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split()), result.stderr
    assert "Traceback" not in result.output + result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    "verb", ["search", "materialize", "evaluate", "export", "export-gguf", "import", "validate", "ls", "report"]
)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: gqasearch {verb}" in " ".join(result.output.split())


def test_search_as_json(common: list[str], tmp_path: Path) -> None:
    result = call("search", "--output-dir", str(tmp_path / "run"), *common, *SMALL, "--json", "--kv-heads", "2")
    found = json.loads(result.stdout)
    assert found["results"]["converted"]["kl"] > 0 and found["targets"] > 100


def test_dry_run_writes_nothing(common: list[str], tmp_path: Path) -> None:
    result = call("search", "--output-dir", str(tmp_path / "run"), *common, "--dry-run", "--fitness", "kl")
    assert result.exit_code == 0 and "objectives:\n- kl\n" in result.stdout
    assert not (tmp_path / "run").exists()


def test_file_and_flags(common: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("kv_ratio: 0.5\nseed: 7\nmethod: random\n")
    result = call("search", "--config", str(path), *common, "--kv-heads", "2", "--dry-run", "--json")
    config = json.loads(result.stdout)["config"]
    assert (config["kv_ratio"], config["kv_heads"], config["seed"], config["method"]) == (None, 2, 7, "random")


def test_other_verbs_work_on_a_run(finished: Path, checkpoint: Path, common: list[str], tmp_path: Path) -> None:
    grouping = str(finished / "grouping.json")
    assert "valid" in call("validate", grouping, "--model", str(checkpoint)).output
    assert json.loads(call("validate", grouping, "--json").stdout)["kv_heads_total"] == 6
    assert call("export", grouping).stdout.startswith("layer,head,group\n")
    out = tmp_path / "labels.npz"
    assert call("export", str(finished), "--format", "npz", "-o", str(out)).exit_code == 0
    assert np.load(out)["labels"].shape == (2, 6)
    refused(call("export", str(finished), "--format", "npz", "-o", str(out)), "exists already")
    again = [
        "--model",
        str(checkpoint),
        "--calibration-text",
        common[3],
        "--block-length",
        "32",
        "--calibration-tokens",
        "600",
    ]
    result = call("materialize", grouping, "--output-dir", str(tmp_path / "model"), *again, "--json")
    assert json.loads(result.stdout)["layout"].startswith("stock-")
    told = call("materialize", grouping, "--output-dir", str(tmp_path / "told"), *again).stdout
    assert (
        f"{tmp_path / 'told'}: 1 MB, layout stock-" in told and f"next: gqasearch evaluate {tmp_path / 'told'} " in told
    )
    assert "fitted on " in told and ".txt: " not in told
    a, b = (load_file(folder / "model.safetensors") for folder in (finished / "model", tmp_path / "model"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    evaluate = [
        "--parent",
        str(checkpoint),
        "--calibration-text",
        common[3],
        "--block-length",
        "32",
        "--evaluation-tokens",
        "300",
    ]
    measured = json.loads(call("evaluate", str(finished), *evaluate, "--json").stdout)
    stored = json.loads((finished / "metrics.json").read_text())
    assert measured["results"]["converted"]["kl"] == pytest.approx(stored["results"]["converted"]["kl"], rel=1e-6)
    other = tmp_path / "neighbour"
    plain = ["--method", "neighbour", "--merge", "mean", "--fitness", "weight-sharing-error", "--no-baseline"]
    assert call("search", "--output-dir", str(other), *common, *plain).exit_code == 0
    both = tmp_path / "both.html"
    assert call("report", str(other), str(finished), "-o", str(both)).exit_code == 0
    assert "heat map" in both.read_text() and "heat map" not in (other / "report.html").read_text()
    page = tmp_path / "page.html"
    assert call("report", str(finished), "-o", str(page), "--csv", str(tmp_path / "t.csv")).exit_code == 0
    assert page.stat().st_size > 10_000 and (tmp_path / "t.csv").read_text().count("\n") == 4


def test_refinements_from_the_command_line(finished: Path, checkpoint: Path, common: list[str], tmp_path: Path) -> None:
    """``search`` resolves and records it; ``materialize`` takes the grouping's, the flag's, or the merge's."""
    shown = call("search", *common, "--dry-run", "--json", "--set", "refine.steps=80")
    config = json.loads(shown.stdout)["config"]
    assert (config["refine"], config["refine_parameters"]) == ("descent", {"steps": 80})
    recorded = json.loads((finished / "grouping.json").read_text())["refinement"]
    assert recorded["name"] == "descent" and recorded["parameters"]["steps"] == 240
    again = ["--model", str(checkpoint), *common[2:6], "--calibration-tokens", "600", "--quiet"]
    cases = {"none": ["--refine", "none"], "outputs": ["--refine", "outputs"], "merge": ["--merge", "mean"]}
    written, source_size = {}, float(load_file(checkpoint / "model.safetensors")[O_PROJ].norm())
    for name, flags in cases.items():
        out = tmp_path / name
        result = call("materialize", str(finished / "grouping.json"), "--output-dir", str(out), *again, *flags)
        assert result.exit_code == 0, result.output
        written[name] = json.loads((out / "grouping.json").read_text())
        weights = load_file(out / "model.safetensors")
        assert not torch.equal(weights[O_PROJ], load_file(finished / "model" / "model.safetensors")[O_PROJ])
        # The mean only reorders the columns of W_o, and nothing is fitted after it.
        same_size = float(weights[O_PROJ].norm()) == pytest.approx(source_size, rel=1e-5)
        assert same_size == (name == "merge")
    assert {name: document["refinement"]["name"] for name, document in written.items()} == {
        "none": "none",
        "outputs": "outputs",
        "merge": "none",
    }


@pytest.mark.parametrize("what", ["fitness", "merges", "refinements", "methods", "models"])
def test_ls(what: str) -> None:
    rows = json.loads(call("ls", what, "--json").stdout)[what]
    assert len(rows) >= 3 and all(row["name"] for row in rows)
    assert rows[0]["name"] in call("ls", what).stdout


@pytest.mark.parametrize("what", ["fitness", "refinements", "methods"])
def test_ls_breaks_no_parameter(what: str) -> None:
    rows = json.loads(call("ls", what, "--json").stdout)[what]
    words = call("ls", what).stdout.split()
    for row in rows:
        assert set(row["parameters"].split(", ")) <= set(words)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fitness", "merge-eror"], "unknown fitness 'merge-eror'; did you mean 'merge-error'?"),
        (["--method", "evolutoin"], "did you mean 'evolution'?"),
        (["--merge", "men"], "did you mean 'mean'?"),
        (["--refine", "descnt"], "unknown refinement 'descnt'; did you mean 'descent'?"),
        (["--set", "refine.step=3"], "unknown parameter of refinement descent 'step'; did you mean 'steps'?"),
        (["--kv-ratio", "0"], "--kv-ratio must be above 0 and at most 1, got 0"),
        (["--kv-ratio", "2"], "--kv-ratio must be above 0 and at most 1, got 2"),
        (["--kv-heads", "7"], "--kv-heads must be in 1..6, got 7"),
        (["--kv-heads", "4", "--equal-sizes"], "[1, 2, 3, 6] are possible"),
        (["--uneven", "--kv-heads", "3"], "uneven has no effect with kv_heads or kv_budget; give kv_ratio with it"),
        (
            ["--method", "staged", "--fitness", "merge-error"],
            "staged needs a first objective that runs the model (kl, healed-kl, perplexity), got merge-error",
        ),
        (["--max-group-size", "1"], "cannot be split into 3 groups of 1 to 1 heads"),
        (["--set", "method.popluation=3"], "did you mean 'population'?"),
        (
            ["--set", "method.population=many"],
            "parameter population: must be a whole number, got 'many'",
        ),
        (["--model", "/no/such/folder"], "no such file or folder"),
        (["--model", "no-such-org/no-such-model"], "the hub did not give it"),
        (["--calibration-text", "/no/such/text.txt"], "no such file or folder"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used here"),
        (["--block-length", "100000"], "beyond this model's context"),
        (["--config", "/no/such.yaml"], "cannot read /no/such.yaml"),
        (["--objective", "kl", "--objective", "kv-ratio", "--method", "random"], "takes one objective"),
    ],
)
def test_bad_flags(common: list[str], tmp_path: Path, flags: list[str], message: str) -> None:
    refused(call("search", *common, "--output-dir", str(tmp_path / "run"), *flags), message)
    assert not (tmp_path / "run" / "grouping.json").exists()


def damaged(kind: str, folder: Path) -> Path:
    save_checkpoint(tiny_model("llama"), folder)
    weights = folder / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "nan":
        tensors = load_file(weights)
        tensors["model.layers.1.self_attn.k_proj.weight"][0, 0] = float("nan")
        save_file(tensors, weights, metadata={"format": "pt"})
    elif kind == "pickled":
        weights.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"")
    elif kind == "unsupported":
        config = json.loads((folder / "config.json").read_text()) | {"architectures": ["MambaForCausalLM"]}
        (folder / "config.json").write_text(json.dumps(config))
    elif kind == "config":
        (folder / "config.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "is damaged or truncated"),
        ("nan", "tensor model.layers.1.self_attn.k_proj.weight holds NaN"),
        ("pickled", "only pickled weights (pytorch_model.bin), which are never read"),
        ("unsupported", "architecture MambaForCausalLM is not supported. Supported: ApertusForCausalLM"),
        ("config", "is not valid JSON"),
    ],
)
def test_bad_checkpoints(common: list[str], tmp_path: Path, kind: str, message: str) -> None:
    folder = damaged(kind, tmp_path / "model")
    result = call("search", *common, "--model", str(folder), "--output-dir", str(tmp_path / "run"))
    refused(result, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"), [("", "is empty"), ("a few words, no more", "fewer than one block"), ("x", "too short")]
)
def test_bad_texts(common: list[str], tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text(content)
    refused(call("search", *common, "--calibration-text", str(path), "--output-dir", str(tmp_path / "run")), message)
    assert not (tmp_path / "run").exists()


def test_bad_groupings(finished: Path, checkpoint: Path, tmp_path: Path) -> None:
    good = json.loads((finished / "grouping.json").read_text())
    path = tmp_path / "grouping.json"

    def written(**changes: Any) -> str:
        path.write_text(json.dumps({**good, **changes}))
        return str(path)

    layers = json.loads(json.dumps(good["layers"]))
    layers[1]["groups"][0] = [*layers[1]["groups"][0], layers[1]["groups"][1][0]]
    refused(call("validate", written(layers=layers)), "layers[1].groups")
    other = {**good["model"], "fingerprint": "sha256:" + "0" * 64}
    target = ["--output-dir", str(tmp_path / "out"), "--model", str(checkpoint)]
    refused(call("materialize", written(model=other), *target), "belongs to another model")
    refused(call("validate", str(finished / "grouping.json"), "--model", "embedded"), "belongs to another model")
    path.write_text("{")
    refused(call("validate", str(path)), "grouping.json")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_message_and_leaves_no_checkpoint(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gqasearch.checkpoints.shards._copy_some", full)
    folder = tmp_path / "run"
    refused(call("search", "--output-dir", str(folder), *common, *SMALL), "No space left on device")
    assert (folder / "grouping.json").is_file() and not (folder / "model").exists()
    assert not [path.name for path in folder.iterdir() if "partial" in path.name]
    monkeypatch.undo()
    assert call("search", "--output-dir", str(folder), *common, *SMALL).exit_code == 0
    assert (folder / "model" / "config.json").is_file()


def test_ctrl_c_leaves_a_resumable_folder(common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gqasearch.run.pipeline.materialize", interrupt)
    arguments = ["search", "--output-dir", str(tmp_path / "run"), *common, *SMALL]
    result = call(*arguments)
    assert result.exit_code == 130 and "the same command goes on from here" in result.stderr
    monkeypatch.undo()
    assert call(*arguments).exit_code == 0


def test_a_run_with_other_settings_is_refused(finished: Path, common: list[str]) -> None:
    result = call("search", "--output-dir", str(finished), *common, *SMALL, "--seed", "5")
    refused(result, "seed was 0, is 5")


def test_verbose_shows_the_settings_that_the_run_used(finished: Path, common: list[str]) -> None:
    """Not those that were given: the merge decides the refinement."""
    shown = call("search", "--output-dir", str(finished), *common, *SMALL, "-v").stdout
    assert shown.endswith((finished / "config.yaml").read_text()) and "\nrefine: descent\n" in shown


@pytest.mark.parametrize(("handler", "code"), [(signal.SIG_IGN, 0), (signal.default_int_handler, 130)])
def test_ctrl_c_that_is_ignored_from_the_start_stays_ignored(
    handler: Any, code: int, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under nohup, and behind & in a script."""
    read = grouping_document.read_grouping

    def read_and_press(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return read(*given)

    monkeypatch.setattr(grouping_document, "read_grouping", read_and_press)
    before = signal.signal(signal.SIGINT, handler)
    try:
        result = call("validate", str(finished / "grouping.json"))
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == code, result.output


def test_every_setting_is_of_one_section_whose_heading_its_flag_is_under() -> None:
    assert sorted(name for section in SECTIONS for name in section.model_fields) == sorted(RunConfig.model_fields)
