"""llama.cpp's quantised KV caches: what it predicts with them, and what ``gqasearch.rounding`` says that it does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

from gqasearch.embedded import model_directory
from gqasearch.errors import UserError
from gqasearch.evaluation import LayerStack, ParentLayers, RoundedLayers
from gqasearch.models import Parent, load_parent
from gqasearch.rounding import CacheFormat, KVFormat, make_format, parse_format
from gqasearch.rounding.llamacpp import BlockFormat
from tests.clients.cases import TINY_VOCAB, TOLERANCE
from tests.clients.test_llamacpp import CONTEXT, LLAMACPP
from tests.tiny_models import save_checkpoint, tiny_model

MODULES = {"llama": modeling_llama, "qwen3": modeling_qwen3}
HEADS, LAYERS = 2, 2
# A number that lies in the middle between two steps goes one way there and the other here: a thousandth of all, as
# sums are of another order. It moves every prediction after it by the share of one step in one number.
ONE_STEP = 5e-2


@dataclass(frozen=True)
class Cache:
    """K and V of a model whose heads have ``head_dim`` numbers; ``rotate``: as llama.cpp does if nothing is said."""

    family: str
    head_dim: int
    k: str
    v: str
    rotate: bool = True

    def format(self) -> KVFormat:
        names = [name if self.rotate or name == "f16" else f"{name}_unrotated" for name in (self.k, self.v)]
        return parse_format("/".join(names))


CASES = [
    Cache("llama", 32, "q8_0", "q8_0"),
    Cache("llama", 32, "q4_0", "q4_0"),
    Cache("llama", 64, "q8_0", "q8_0"),
    Cache("llama", 64, "q4_0", "q4_0"),
    Cache("llama", 64, "q4_0", "q8_0", rotate=False),
    Cache("llama", 96, "q8_0", "q4_0"),
    Cache("llama", 96, "q4_0", "q5_1"),
    Cache("llama", 128, "q5_0", "iq4_nl"),
    Cache("llama", 128, "iq4_nl", "q4_1"),
    Cache("qwen3", 64, "q4_0", "q4_0"),
    Cache("qwen3", 96, "q8_0", "q5_0"),
]


def save(models: Iterable[tuple[str, int]], folder: Path) -> dict[tuple[str, int], Path]:
    """Checkpoints in ``folder`` and, beside each, its GGUF file."""
    files = {}
    for family, head_dim in models:
        source = folder / f"{family}{head_dim}"
        save_checkpoint(tiny_model(family, vocab=TINY_VOCAB, head_dim=head_dim, heads=4, kv_heads=HEADS), source)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(model_directory() / name, source / name)
        files[family, head_dim] = source.with_suffix(".gguf")
    jobs = [[str(path.with_suffix("")), str(path)] for path in files.values()]
    LLAMACPP.run("convert.py", jobs, folder)
    return files


def some_prompts() -> list[list[int]]:
    """Short ones: every number that is rounded may go the other way."""
    drawn = torch.randint(2, 2048, (8, 5), generator=torch.Generator().manual_seed(0))
    return [[0, *row] for row in drawn.tolist()]


@contextmanager
def rounded_queries(parent: Parent, keys: CacheFormat) -> Iterator[None]:
    """On CPUs llama.cpp rounds queries to q8_0, too, rotated and in the order of the keys, to multiply integers."""
    module = MODULES[parent.family.name]
    turn, queries = module.apply_rotary_pos_emb, make_format("q8_0", "k")
    assert isinstance(keys, BlockFormat) and isinstance(queries, BlockFormat)
    queries = replace(queries, rotate=keys.rotate, interleaved=parent.family.pairs_side_by_side)

    def rounded(q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        q, k = turn(q, k, *args, **kwargs)
        return queries.round(q), k

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "apply_rotary_pos_emb", rounded)
        yield


def next_tokens(stack: LayerStack, prompts: list[list[int]]) -> Tensor:
    """Log-probabilities (prompts, V)."""
    ids = torch.tensor(prompts)
    return stack(ids, torch.ones_like(ids, dtype=torch.bool))[:, -1].double().log_softmax(-1)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], list[str]]:
    """The folder of the checkpoints; of every case llama.cpp's answer, and what it printed."""
    LLAMACPP.require()
    folder = tmp_path_factory.mktemp("caches")
    files = save(dict.fromkeys((case.family, case.head_dim) for case in CASES), folder)
    shared = {"prompts": some_prompts(), "vocab": TINY_VOCAB, "context": CONTEXT}
    requests = [
        {"model": str(files[case.family, case.head_dim]), "k": case.k, "v": case.v, "rotate": case.rotate, **shared}
        for case in CASES
    ]
    answer = LLAMACPP.run("caches.py", requests, folder)
    return folder, answer.result, re.split(r"(?=llama_kv_cache: size = )", answer.log)[1:]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}{case.head_dim}-{case.k}-{case.v}")
def test_predictions(case: Cache, answers: tuple[Path, list[dict[str, Any]], list[str]]) -> None:
    folder, results, logs = answers
    told = results[CASES.index(case)]["log_probs"]
    kept = [number for number, found in enumerate(told) if found is not None]
    assert len(kept) >= 4
    theirs = torch.tensor([told[number] for number in kept], dtype=torch.float64)
    prompts = [some_prompts()[number] for number in kept]
    parent, kv = load_parent(str(folder / f"{case.family}{case.head_dim}")), case.format()

    def off(format_: KVFormat | None) -> Tensor:
        """Largest difference of every prompt."""
        stack = ParentLayers(parent)
        run = stack if format_ is None else RoundedLayers(stack, format_)
        return (next_tokens(run, prompts) - theirs).abs().amax(-1)

    with rounded_queries(parent, kv.k):
        own, unrounded = off(kv), off(None)
        turned = replace(case, rotate=not case.rotate).format()
        others = [off(turned)] if case.head_dim % 64 == 0 else []
    assert float(own.max()) < ONE_STEP
    assert int((own <= TOLERANCE).sum()) >= len(prompts) / 2, own
    for wrong in (unrounded, *others):
        assert float(wrong.min()) > 100 * TOLERANCE
    # Queries that are not rounded, as on a GPU: another 8 bits' worth, where a cache has 4 or 8.
    assert float(off(kv).median()) < float(unrounded.median())

    log = logs[CASES.index(case)]
    sizes = [float(found) for found in re.findall(r"[KV] \(\w+\): +([\d.]+) MiB", log.partition("\n")[0])]
    for part, size in zip((kv.k, kv.v), sizes, strict=True):
        promised = CONTEXT * HEADS * LAYERS * part.bytes_per_head(case.head_dim) / 2**20
        assert size == pytest.approx(promised, abs=0.006)
        quantised = isinstance(part, BlockFormat) and part.rotate and case.head_dim % 64 == 0
        assert f"n_rot_{part.role} = {case.head_dim if part.role == 'k' else 64}," in log if quantised else True


def test_head_sizes_that_it_refuses(tmp_path: Path) -> None:
    LLAMACPP.require()
    (path,) = save([("llama", 48)], tmp_path).values()
    shared = {"prompts": some_prompts(), "vocab": TINY_VOCAB, "context": 256, "rotate": True, "model": str(path)}
    answer = LLAMACPP.run("caches.py", [{"k": "q8_0", "v": "q8_0", **shared}], tmp_path)
    assert "refused" in answer.result[0]
    assert "block size 32 does not divide n_embd_head_k=48" in answer.log
    with pytest.raises(UserError, match="multiple of 32; this model's is 48"):
        parse_format("q8_0").check(48)
