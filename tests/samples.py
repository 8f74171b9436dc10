"""Text and statistics for tests, made from seeds."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from gqasearch.calibration import LayerStatistics, TokenBlocks
from gqasearch.models import LayerWeights, Parent

WORDS = ["alpha", "beta", "gamma", "head", "group", "query", "key", "value", "cache", "layer", "token", "norm\n"]


def random_text(characters: int, seed: int = 0) -> str:
    """Words in random order."""
    rng = random.Random(seed)
    words: list[str] = []
    while sum(map(len, words)) + len(words) < characters:
        words.append(rng.choice(WORDS))
    return " ".join(words)[:characters]


def text_file(folder: Path, characters: int = 20_000) -> Path:
    path = folder / "text.txt"
    path.write_text(random_text(characters), encoding="utf-8")
    return path


def random_blocks(vocab: int, blocks: int = 6, length: int = 24, seed: int = 0, padded: bool = False) -> TokenBlocks:
    """Uniform tokens; with ``padded`` the second half of the last block is padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab, (blocks, length), generator=generator)
    mask = torch.ones(blocks, length, dtype=torch.bool)
    if padded:
        mask[-1, length // 2 :] = False
    return TokenBlocks(ids, mask, "random tokens", 3.0)


def synthetic_statistics(weights: LayerWeights, seed: int = 0, tokens: int = 200) -> LayerStatistics:
    """Statistics of correlated gaussian inputs with a mean, kept whole in ``sample``."""
    generator = torch.Generator().manual_seed(seed)
    size, heads, queries = weights.q.shape[-1], weights.num_kv_heads, weights.q.shape[0]
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
    x = torch.randn(tokens, size, generator=generator, dtype=torch.float64) @ mixing + 0.2
    attended = (x + x[torch.randperm(tokens, generator=generator)]) / 2
    angles = torch.arange(16, dtype=torch.float64)[:, None] * 10.0 ** -torch.arange(weights.rotary_dim // 2)
    distance = torch.rand(queries, 16, generator=generator, dtype=torch.float64)
    gains = 0.5 + torch.rand(queries, generator=generator, dtype=torch.float64)
    return LayerStatistics(
        tokens=tokens,
        mean=x.mean(0),
        second_moment=x.T @ x / tokens,
        sample=x.float(),
        key_cosine=torch.eye(heads, dtype=torch.float64),
        value_cosine=torch.eye(heads, dtype=torch.float64),
        attended_mean=attended.mean(0),
        attended_moment=attended.T @ attended / tokens,
        score_gain=gains,
        residual_energy=torch.ones(1, dtype=torch.float64),
        distance=distance / distance.sum(1, keepdim=True),
        cosines=angles.cos(),
        sines=angles.sin(),
    )


def logits_of(parent: Parent, blocks: TokenBlocks) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = parent.model(input_ids=blocks.ids, attention_mask=blocks.mask.long()).logits
    return out
