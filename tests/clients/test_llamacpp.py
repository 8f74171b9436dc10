"""llama.cpp: ``gqasearch export-gguf`` writes what llama.cpp's converter would, and it computes what it should."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gqasearch.checkpoints import export_gguf
from gqasearch.models import read_config
from gqasearch.models.gguf.file import GgufFile
from tests.checkpoints.gguf_parent import write_parent
from tests.clients.cases import STOCK, difference, heal_case, make_case, make_joined_case
from tests.clients.client import Client, ClientError
from tests.clients.summary import Record
from tests.matrix import sampled
from tests.tiny_models import edit_config

LLAMACPP = Client("llamacpp", "llama.cpp", in_suite=True)
CONTEXT = 8192  # so long that caches take whole hundredths of a MiB, which llama.cpp prints
MODELS = {
    "embedded": (*STOCK, "deci", "mimo", "anymodel"),
    "mistral": (*STOCK, "deci", "mimo"),
    "qwen2": STOCK,
    "qwen3": STOCK,
}
# What the converter takes from the folder's name and card, and counts.
OF_THE_FOLDER = re.compile(r"general\.(?!architecture|alignment|file_type|quantization_version)")


@pytest.mark.parametrize("model", sampled(MODELS, ["embedded"]))
def test_layouts(model: str, tmp_path: Path, record_property: Any) -> None:
    LLAMACPP.require()
    case = make_case(model, MODELS[model], tmp_path)
    parent = tmp_path / "parent.gguf"
    # Its converter fails on a MiMo in transformers' words (test_mimo_in_llama_cpps_own_code), and knows no AnyModel.
    written_as_deci = ("mimo", "anymodel")
    direct = {layout: tmp_path / f"{layout}-direct.gguf" for layout in case.converted if layout not in written_as_deci}
    jobs = [(case.source, parent), *((case.converted[layout].folder, path) for layout, path in direct.items())]
    LLAMACPP.run("convert.py", [[str(source), str(target)] for source, target in jobs], tmp_path)
    # tests/checkpoints stand on files made by hand, which are not thorough about the tokenizer.
    assert_same_file(write_parent(case.source, tmp_path / "by-hand.gguf"), parent, but=r"tokenizer\.")
    exported = {layout: tmp_path / f"{layout}.gguf" for layout in case.converted}
    for layout, path in exported.items():
        written = export_gguf(parent, case.converted[layout].folder, path)
        if (model, layout) == ("qwen2", "stock-padded"):  # llama.cpp cannot load what its converter makes of it
            assert written.architecture == "llama"
        elif layout in written_as_deci:
            assert written.architecture == "deci"
        else:
            assert_same_file(path, direct[layout])
    requests = [case.converted[layout].request(path, context=CONTEXT) for layout, path in exported.items()]
    answer = LLAMACPP.run("run.py", requests, tmp_path)
    caches = kv_caches(answer.log)
    assert len(caches) == 2 * len(exported)
    for (layout, converted), result in zip(case.converted.items(), answer.result, strict=True):
        largest = difference(result, converted)
        counts = converted.grouping.group_counts
        head = CONTEXT * case.parent.geometry.head_dim
        # Without flash attention llama.cpp gives V of every layer the room of the largest.
        assert caches.pop(0) == (4 * head * sum(counts), 4 * head * len(counts) * max(counts))
        assert caches.pop(0) == (2 * head * sum(counts), 2 * head * sum(counts))
        Record(LLAMACPP.title, result["version"], layout, model, largest, kv_bytes=True).write(record_property)


def test_mimo_in_llama_cpps_own_code(tmp_path: Path, record_property: Any) -> None:
    """With sinks and windows, which its file of a DeciLM has not; the converter wants RoPE in older words."""
    LLAMACPP.require()
    case = make_case("mistral", ("mimo",), tmp_path)
    converted = case.converted["mimo"]
    with pytest.raises(ClientError, match="KeyError: 'partial_rotary_factor'"):
        LLAMACPP.run("convert.py", [[str(converted.folder), str(tmp_path / "none.gguf")]], tmp_path)
    edit_config(converted.folder, rope_parameters=read_config(converted.folder)["rope_parameters"]["full_attention"])
    LLAMACPP.run("convert.py", [[str(converted.folder), str(tmp_path / "mimo.gguf")]], tmp_path)
    assert GgufFile(tmp_path / "mimo.gguf").value("general.architecture") == "mimo2"
    answer = LLAMACPP.run("run.py", [converted.request(tmp_path / "mimo.gguf", context=CONTEXT)], tmp_path)
    largest, (result,) = difference(answer.result[0], converted), answer.result
    Record(LLAMACPP.title, result["version"], "mimo", "mistral as mimo2", largest).write(record_property)


def test_joined_heads(tmp_path: Path, record_property: Any) -> None:
    """Wide heads whose RoPE has every frequency twice; the parent's file is of the model without them."""
    LLAMACPP.require()
    layouts = (*STOCK, "deci")
    case, plain = make_joined_case(layouts, tmp_path)
    parent = write_parent(plain, tmp_path / "parent.gguf")
    exported = {layout: tmp_path / f"{layout}.gguf" for layout in layouts}
    for layout, path in exported.items():
        export_gguf(parent, case.converted[layout].folder, path)
    requests = [case.converted[layout].request(path, context=CONTEXT) for layout, path in exported.items()]
    answer = LLAMACPP.run("run.py", requests, tmp_path)
    for converted, result in zip(case.converted.values(), answer.result, strict=True):
        largest = difference(result, converted)
        head = CONTEXT * case.parent.geometry.head_dim
        assert 4 * head * converted.grouping.kv_heads_total in [keys for keys, _ in kv_caches(answer.log)]
        Record(LLAMACPP.title, result["version"], converted.layout, case.model, largest, kv_bytes=True).write(
            record_property
        )


@pytest.mark.parametrize("layout", sampled(STOCK, ["stock-padded"]))
def test_healed(layout: str, tmp_path: Path) -> None:
    """What was trained is computed as transformers computes it; padded slots are still none of llama.cpp's business."""
    LLAMACPP.require()
    case = make_case("mistral", (layout,), tmp_path)
    healed = heal_case(case, layout)
    LLAMACPP.run("convert.py", [[str(case.source), str(tmp_path / "parent.gguf")]], tmp_path)
    export_gguf(tmp_path / "parent.gguf", healed.folder, tmp_path / "healed.gguf")
    answer = LLAMACPP.run("run.py", [healed.request(tmp_path / "healed.gguf", context=CONTEXT)], tmp_path)
    difference(answer.result[0], healed)


def assert_same_file(ours: Path, converters: Path, but: str = "$") -> None:
    """Every tensor bit for bit, and all metadata that does not come from the folder's name or card.

    ``but``: pattern of further keys that may differ.
    """
    mine, theirs = GgufFile(ours), GgufFile(converters)
    assert mine.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert mine.tensors[name].tensor_type == tensor.tensor_type, name
        assert mine.tensors[name].data.shape == tensor.data.shape, name
        assert np.array_equal(mine.tensors[name].data, tensor.data), name
    keys = {key for key in mine.metadata | theirs.metadata if not (OF_THE_FOLDER.match(key) or re.match(but, key))}
    assert {key: mine.value(key) for key in keys} == {key: theirs.value(key) for key in keys}
    assert mine.value("general.file_type") == gguf.LlamaFileType.ALL_F32


def kv_caches(log: str) -> list[tuple[float, float]]:
    """What llama.cpp says that K and V take, in bytes, for every model loaded."""
    sizes = re.findall(r"llama_kv_cache: size = .* K \(f\d+\): +([\d.]+) MiB, V \(f\d+\): +([\d.]+) MiB", log)
    return [(float(keys) * 2**20, float(values) * 2**20) for keys, values in sizes]
