"""Sizes and numbers of heads: kernels, devices that share a layer, cache formats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import gcd

from gqasearch.checkpoints.heads_in_config import image_layers, shape_of
from gqasearch.doctor._base import Finding, Patient
from gqasearch.errors import UserError
from gqasearch.models.stored_dtype import value_bytes
from gqasearch.rounding import parse_format

# vLLM 0.32: v1/attention/backends/cpu_attn.py, flash_attn.py, triton_attn.py, flashinfer.py.
VLLM_CPU = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
VLLM_FLASHINFER = (64, 128, 256, 512)
MLX_GROUPS, MLX_DEFAULT, MLX_START = (32, 64, 128), 64, 5000  # mlx-lm 0.32: generate.py
QUANTIZED_GROUP = 64  # transformers 5.23: cache_utils.py, with quanto and hqq
LARGEST_SDPA = 256  # transformers 5.23: integrations/sdpa_attention.py


def head_size(patient: Patient) -> Iterator[Finding]:
    """Kernels that take heads of this size."""
    size, multiple = patient.head_dim, patient.engine.head_multiple
    if size % multiple:
        yield Finding("head size", "fails", f"{size}: it takes heads of a multiple of {multiple} dimensions")
    elif patient.engine_name == "vllm":
        yield from _vllm_kernels(size)
    else:
        yield Finding("head size", "ok", str(size))


def _vllm_kernels(size: int) -> Iterator[Finding]:
    flash, triton = size % 8 == 0 and size <= 256, size >= 32
    names = [
        *(["FlashAttention"] if flash else []),
        *(["FlashInfer"] if size in VLLM_FLASHINFER else []),
        *(["Triton"] if triton else []),
    ]
    if not names:
        yield Finding("head size", "fails", f"{size}: no kernel takes it; multiples of 8 to 256, or 32 and more")
    elif size not in VLLM_CPU:
        listed = ", ".join(map(str, VLLM_CPU))
        words = f"{size}: {', '.join(names)} on GPUs; on CPUs no kernel takes it ({listed} have one)"
        yield Finding("head size", "warning", words)
    else:
        yield Finding("head size", "ok", f"{size}: {', '.join(names)} on GPUs, and CPUs")


def shared_layers(patient: Patient) -> Iterator[Finding]:
    """Whether N devices can share every layer."""
    count = patient.tensor_parallel
    if count == 1:
        return
    if not patient.engine.splits:
        words = f"gqasearch does not know how {patient.engine_name} shares heads out to {count} devices"
        yield Finding("tensor parallel", "warning", words)
        return
    queries = sorted({heads for heads in patient.query_heads if heads % count})
    if queries:
        words = f"{count} does not divide {queries[0]} query heads"
        yield Finding("tensor parallel", "fails", words)
        return
    uneven = sorted({heads for heads in patient.kv_heads if heads % count and count % heads})
    copied = sorted({heads for heads in patient.kv_heads if heads < count})
    if uneven:
        words = f"{count} devices neither divide {uneven[0]} KV heads nor are divided by them; search with"
        yield Finding("tensor parallel", "fails", f"{words} --tensor-parallel {count}")
    elif copied:
        held = sum(max(heads, count) for heads in patient.kv_heads) / sum(patient.kv_heads)
        words = f"layers of {copied[0]} KV heads have a copy on several of {count} devices: all caches together take"
        yield Finding("tensor parallel", "warning", f"{words} {held:.3g} times what one device would")
    else:
        yield Finding("tensor parallel", "ok", f"{count} divides the query and KV heads of every layer")


def cache_formats(patient: Patient) -> Iterator[Finding]:
    """Formats of the KV cache whose blocks fill a head."""
    size = patient.head_dim
    if patient.cache is not None:
        yield _one_format(patient, patient.cache)
        return
    if patient.engine_name == "mlx":
        yield _mlx_groups(size)
        return
    if patient.engine.target is None:
        return
    refused = [name for name in patient.engine.target.formats if parse_format(name).refusal(size) is not None]
    if refused:
        yield Finding("cache formats", "warning", f"heads of {size} do not take {', '.join(refused)}")
    else:
        yield Finding("cache formats", "ok", f"heads of {size} take {', '.join(patient.engine.target.formats)}")
    if patient.engine_name == "transformers":
        yield from _quantized_cache(patient)


def _quantized_cache(patient: Patient) -> Iterator[Finding]:
    """transformers' own, which rounds all numbers of some tokens of a layer in groups."""
    widths = [heads * patient.head_dim for heads in patient.kv_heads]
    if any(width % QUANTIZED_GROUP for width in widths):
        words = (
            f"QuantizedCache: give q_group_size={gcd(QUANTIZED_GROUP, *widths)}; its default of {QUANTIZED_GROUP} fails"
        )
        why = f"at most lengths of a single text, where a layer has {min(widths)} numbers a token"
        yield Finding("cache formats", "warning", f"{words} {why}")


def _one_format(patient: Patient, name: str) -> Finding:
    known = () if patient.engine.target is None else patient.engine.target.formats
    if name not in known:
        listed = ", ".join(known) or "none"
        return Finding(
            "cache formats", "fails", f"{name} is no format that {patient.engine_name} is known to have: {listed}"
        )
    refusal: UserError | None = parse_format(name).refusal(patient.head_dim)
    return Finding("cache formats", "ok", name) if refusal is None else Finding("cache formats", "fails", str(refusal))


def _mlx_groups(size: int) -> Finding:
    fitting = [group for group in MLX_GROUPS if size % group == 0]
    if MLX_DEFAULT in fitting:
        return Finding("cache formats", "ok", f"kv_bits with kv_group_size {', '.join(map(str, fitting))}")
    late = f"and the error comes only once the cache holds {MLX_START:,} tokens"
    words = f"kv_bits with the default kv_group_size of {MLX_DEFAULT} fails for heads of {size}, {late}"
    instead = f"; give kv_group_size {fitting[0]}" if fitting else "; no other fits"
    return Finding("cache formats", "warning", words + instead)


def cache_size(patient: Patient) -> Iterator[Finding]:
    """What the cache takes: in numbers as the checkpoint stores them, and in 16 bits, as most engines keep it."""
    heads, size = patient.kv_heads, patient.head_dim
    fewest, most = min(heads), max(heads)
    counts = str(most) if fewest == most else f"{fewest} to {most}"
    numbers = 2 * size * sum(heads)
    with suppress(UserError):  # damaged weights have a check of their own
        stored = value_bytes(patient.folder)
        told = f"{stored * numbers:,} bytes per token in {8 * stored} bits as stored"
        halved = "" if stored == 2 else f" ({2 * numbers:,} in 16)"
        yield Finding("KV cache", "ok", f"{told}{halved}: {counts} KV heads of {size}")
        if of_image := image_layers(patient.config):
            numbers = 2 * size * len(of_image) * shape_of(patient.config).num_kv_heads
            words = f"{stored * numbers:,} bytes per token of an image, in layers that are the parent's own"
            yield Finding("KV cache", "ok", words)
    if patient.engine_name == "llama.cpp" and fewest != most:
        words = "without flash attention, values take the room of the largest layer in every layer"
        yield Finding("KV cache", "warning", words)
    if patient.engine_name == "transformers" and patient.layout not in ("ragged", "mimo", "anymodel"):
        if any(count & (count - 1) for count in patient.query_heads):
            words = "flex_attention copies keys and values for every query head, as their number is no power of two"
            yield Finding("KV cache", "warning", words)
        if size > LARGEST_SDPA:
            yield Finding("KV cache", "warning", f"sdpa copies keys and values of heads beyond {LARGEST_SDPA}")
