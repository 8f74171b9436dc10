"""``gqasearch doctor``: every fault that it is for is found in a checkpoint that has it, and in no other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gqasearch.checkpoints import write_joined
from gqasearch.cli.app import app
from gqasearch.doctor import ENGINES, EngineName, Finding, Patient, examine
from gqasearch.embedded import model_directory
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import load_parent, read_config, resolve_model
from gqasearch.targets import TARGETS
from tests.checkpoints.convert import PADDED, SYMMETRIC
from tests.checkpoints.uneven import UNEVEN, saved, write
from tests.tiny_models import edit_config

LAYOUTS: dict[str, tuple[Grouping, LayoutChoice]] = {
    "stock-symmetric": (SYMMETRIC, "stock"),
    "stock-padded": (PADDED, "stock"),
    "deci": (UNEVEN, "deci"),
    "ragged": (UNEVEN, "ragged"),
    "mimo": (UNEVEN, "mimo"),
    "openelm": (UNEVEN, "openelm"),
    "anymodel": (UNEVEN, "anymodel"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama with heads of 16, in every layout."""
    folder = tmp_path_factory.mktemp("doctor")
    parent, source = saved(folder, "llama", head_dim=16)
    for name, (grouping, layout) in LAYOUTS.items():
        write(parent, source, folder / name, grouping, layout)
    return {name: folder / name for name in LAYOUTS}


def found(folder: Path, engine: EngineName, **options: Any) -> dict[str, Finding]:
    """The worst finding of every check."""
    order = ("ok", "warning", "fails")
    findings = sorted(examine(Patient(folder, engine, **options)), key=lambda finding: order.index(finding.severity))
    return {finding.check: finding for finding in findings}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_says_what_targets_and_clients_say(layout: Any, engine: EngineName, written: dict[str, Path]) -> None:
    patient = Patient(written[layout], engine)
    assert patient.layout == layout
    said = found(written[layout], engine)
    target = TARGETS.get(engine)  # type: ignore[call-overload]
    if target is None:
        assert (said["layout"].severity == "ok") == (layout in ENGINES[engine].loads)
    else:
        why = target.objection(layout, patient.architecture)
        assert said["layout"].severity == ("ok" if why is None else "fails")
        assert why is None or why in said["layout"].words
    has_code = layout in ("deci", "ragged", "openelm", "anymodel")
    assert said["remote code"].severity == ("warning" if has_code and ENGINES[engine].runs_code else "ok")
    assert {said[name].severity for name in ("weights", "tokenizer")} == {"ok"}


def test_heads_are_counted_in_the_words_of_every_layout(written: dict[str, Path]) -> None:
    heads = {
        name: (Patient(path, "vllm").query_heads, Patient(path, "vllm").kv_heads) for name, path in written.items()
    }
    assert heads["stock-padded"] == ([9, 9], [3, 3])
    assert heads["deci"] == heads["mimo"] == heads["anymodel"] == ([12, 12], [2, 4])
    assert heads["openelm"] == ([8, 12], [2, 4])
    assert heads["ragged"] == ([6, 6], [2, 4])
    # 16-bit keys and values of six heads of 16.
    words = found(written["deci"], "mlx")["KV cache"].words
    assert words.startswith("768 bytes per token in 32 bits as stored (384 in 16): 2 to 4 KV heads")


@pytest.mark.parametrize(
    ("layout", "count", "severity", "words"),
    [
        ("mimo", 2, "ok", "2 divides the query and KV heads"),
        ("deci", 3, "fails", "3 devices neither divide 2 KV heads nor"),
        ("stock-padded", 2, "fails", "2 does not divide 9 query heads"),
        ("deci", 4, "warning", "layers of 2 KV heads have a copy on several of 4 devices: .* take 1.33 times"),
    ],
)
def test_devices_that_share_a_layer(
    layout: str, count: int, severity: str, words: str, written: dict[str, Path]
) -> None:

    finding = found(written[layout], "vllm", tensor_parallel=count)["tensor parallel"]
    assert finding.severity == severity and re.search(words, finding.words)
    assert "tensor parallel" not in found(written[layout], "vllm")
    assert found(written[layout], "llama.cpp", tensor_parallel=count)["tensor parallel"].severity == "warning"


@pytest.mark.parametrize(
    ("engine", "cache", "severity", "words"),
    [
        ("llama.cpp", None, "warning", "heads of 16 do not take q8_0"),
        ("llama.cpp", "q8_0", "fails", "takes heads whose size is a multiple of 32; this model's is 16"),
        ("vllm", "fp8", "ok", "fp8"),
        ("vllm", "q8_0", "fails", "q8_0 is no format that vllm is known to have: f16, fp8"),
        ("mlx", None, "warning", "kv_group_size of 64 fails for heads of 16.*5,000 tokens; no other fits"),
        ("transformers", None, "warning", "q_group_size=16; its default of 64 fails .* has 48 numbers a token"),
    ],
)
def test_caches(engine: EngineName, cache: str | None, severity: str, words: str, written: dict[str, Path]) -> None:

    finding = found(written["stock-symmetric"], engine, cache=cache)["cache formats"]
    assert finding.severity == severity and re.search(words, finding.words)


@pytest.mark.parametrize(
    ("engine", "size", "severity"),
    [
        ("vllm", 16, "warning"),
        ("vllm", 128, "ok"),
        ("vllm", 20, "fails"),
        ("onnxruntime-genai", 24, "fails"),
        ("onnxruntime-genai", 16, "ok"),
        ("mlx", 24, "ok"),
    ],
)
def test_sizes_of_heads(engine: EngineName, size: int, severity: str, tmp_path: Path) -> None:
    _, source = saved(tmp_path, "llama", head_dim=8)
    edit_config(source, head_dim=size)
    assert found(source, engine)["head size"].severity == severity


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def edited(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **changes)


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_code(folder: Path) -> None:
    (folder / "modeling_deci.py").write_text("print()\n")


@pytest.mark.parametrize(
    ("layout", "engine", "damage", "check", "severity", "words"),
    [
        ("deci", "vllm", without("model.safetensors"), "weights", "fails", "holds no weights"),
        ("deci", "vllm", cut_short, "weights", "fails", "model.safetensors"),
        ("deci", "vllm", other_code, "remote code", "warning", "not written by this gqasearch: modeling_deci.py"),
        ("deci", "vllm", without("tokenizer.json"), "tokenizer", "fails", "there is none"),
        ("deci", "vllm", without("tokenizer_config.json"), "tokenizer", "warning", "how a chat is written"),
        ("deci", "mlx", edited(rope_theta=5.0), "RoPE", "fails", "itself rope_theta 5, which is the one that is read"),
        ("deci", "vllm", edited(rope_theta=None), "RoPE", "warning", "no rope_theta; transformers 4 reads that one"),
        ("mimo", "vllm", edited(rope_theta=5.0), "RoPE", "fails", "which is the one that is read"),
        ("deci", "vllm", edited(rope_scaling={"rope_type": "linear"}), "RoPE", "warning", "transformers takes rope_sc"),
        (
            "mimo",
            "mlx",
            edited(layernorm_epsilon=1.0),
            "config fields",
            "fails",
            "rms_norm_eps .*layernorm_epsilon 1.0",
        ),
        ("mimo", "mlx", edited(hybrid_layer_pattern=[1, 0]), "config fields", "fails", "layer_types and hybrid"),
        (
            "mimo",
            "mlx",
            edited(sliding_window_size=9),
            "config fields",
            "fails",
            "window shorter than the longest text",
        ),
        ("deci", "vllm", edited(dtype=None, torch_dtype=None), "config fields", "warning", "names no dtype"),
    ],
)
def test_what_is_damaged_is_found(
    layout: str,
    engine: EngineName,
    damage: Callable[[Path], None],
    check: str,
    severity: str,
    words: str,
    written: dict[str, Path],
    tmp_path: Path,
) -> None:

    folder = Path(shutil.copytree(written[layout], tmp_path / "copy"))
    whole = found(folder, engine)
    assert check not in whole or whole[check].severity == "ok" or check == "remote code"
    damage(folder)
    finding = found(folder, engine)[check]
    assert finding.severity == severity and re.search(words, finding.words), finding


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neo", "qwen3", "gemma3_text", "phi3"])
def test_other_families_name_their_heads_otherwise(family: str, tmp_path: Path) -> None:
    parent, source = saved(tmp_path, family)
    layout = write(parent, source, tmp_path / "out", UNEVEN, "auto")
    said = Patient(tmp_path / "out", "transformers")
    assert layout.name == said.layout == "ragged"
    assert (said.kv_heads, said.head_dim) == ([2, 4], parent.geometry.head_dim)
    assert all(finding.severity != "fails" for finding in examine(said))
    assert found(source, "transformers")["layout"].severity == "ok"


@pytest.mark.parametrize("tower", ["gemma3", "qwen3_vl"])
def test_a_model_that_reads_images(tower: str, tmp_path: Path) -> None:
    parent, source = saved(tmp_path, tower)
    write(parent, source, tmp_path / "out", SYMMETRIC, "auto")
    said = Patient(tmp_path / "out", "transformers")
    assert (said.kv_heads, said.head_dim) == ([3, 3], parent.geometry.head_dim)
    assert all(finding.severity != "fails" for finding in examine(said))


def test_joined_heads(tmp_path: Path) -> None:
    write_joined(resolve_model(str(model_directory())), 2, tmp_path / "joined")
    assert read_config(tmp_path / "joined")["joined_heads"] == 2
    assert found(tmp_path / "joined", "ctranslate2")["joined heads"].severity == "fails"
    assert "gqasearch export-gguf" in found(tmp_path / "joined", "llama.cpp")["joined heads"].words
    assert "joined heads" not in found(tmp_path / "joined", "mlx")
    assert load_parent(str(tmp_path / "joined"))


def test_command_line(written: dict[str, Path], tmp_path: Path) -> None:
    run = CliRunner()
    fine = run.invoke(app, ["doctor", str(written["stock-symmetric"]), "--target", "transformers"])
    assert fine.exit_code == 0 and "was found to load" in fine.output
    failing = run.invoke(app, ["doctor", str(written["ragged"]), "--target", "vllm", "--json"])
    told = json.loads(failing.output)
    assert failing.exit_code == 1 and told["fails"] is True
    assert {finding["severity"] for finding in told["findings"] if finding["check"] == "layout"} == {"fails"}
    unknown = run.invoke(app, ["doctor", str(written["ragged"]), "--target", "vlm"])
    assert unknown.exit_code == 2 and "did you mean 'vllm'" in unknown.stderr
    nothing = run.invoke(app, ["doctor", str(tmp_path / "none"), "--target", "vllm"])
    assert nothing.exit_code == 2 and "no such checkpoint folder" in nothing.stderr
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="names no architecture"):
        examine(Patient(tmp_path, "vllm"))


@pytest.mark.parametrize("layout", ["stock", "ragged"])
def test_the_text_model_of_one_that_reads_images(layout: LayoutChoice, tmp_path: Path) -> None:
    parent, source = saved(tmp_path, "qwen2_5_vl")
    grouping = SYMMETRIC if layout == "stock" else UNEVEN
    write(parent, source, tmp_path / "out", grouping, layout)
    patient = Patient(tmp_path / "out", "llama.cpp")
    assert (patient.head_dim, patient.query_heads, tuple(patient.kv_heads)) == (8, [6, 6], grouping.group_counts)
    assert found(tmp_path / "out", "llama.cpp")["GGUF file"].severity == "warning"
    assert found(tmp_path / "out", "transformers")["layout"].severity == "ok"
