"""The families that are a few words each, by the name of their ``model_type``."""

from __future__ import annotations

from gqasearch.models.described import Described
from gqasearch.models.family import Family
from gqasearch.models.gpt_oss import GptOss
from gqasearch.models.hybrid import Hybrid
from gqasearch.models.whole_norm import WholeNormed

DENSE: tuple[Family, ...] = (
    # arXiv 2403.08295: RMS norms whose stored weights are added to 1.
    Described(name="gemma", architectures=("GemmaForCausalLM",), biases=("attention_bias", False)),
    # arXiv 2402.19173: biases on all projections, LayerNorm, a sliding window.
    Described(name="starcoder2", architectures=("Starcoder2ForCausalLM",), biases=("use_bias", True)),
    # arXiv 2402.00838: a LayerNorm without weights before attention.
    Described(
        name="olmo",
        architectures=("OlmoForCausalLM",),
        biases=("attention_bias", False),
        pairs_side_by_side=True,
        clip="clip_qkv",
    ),
    # Granite 3 (IBM, 2024): a scale of scores, and a factor on what attention adds to the stream.
    Described(
        name="granite",
        architectures=("GraniteForCausalLM",),
        biases=("attention_bias", False),
        pairs_side_by_side=True,
        scale="attention_multiplier",
        gain="residual_multiplier",
    ),
    # Kyutai, 2025. W_o is square, so no head can be added.
    Described(
        name="helium",
        architectures=("HeliumForCausalLM",),
        biases=("attention_bias", False),
        default_kv_heads=20,
        default_head_dim=128,
        default_rope_theta=100_000.0,
        neighbours=True,
        padding="none",
    ),
    # Arcee, 2025: squared ReLU.
    Described(
        name="arcee",
        architectures=("ArceeForCausalLM",),
        biases=("attention_bias", False),
        pairs_side_by_side=True,
        padding="divisors",
    ),
    # ByteDance, 2025.
    Described(
        name="seed_oss",
        architectures=("SeedOssForCausalLM",),
        biases=("attention_bias", True),
        default_kv_heads=8,
        default_head_dim=128,
    ),
    # arXiv 2406.12793.
    Described(
        name="glm",
        architectures=("GlmForCausalLM",),
        biases=("attention_bias", True),
        default_kv_heads=2,
        default_head_dim=128,
        default_rotary_fraction=0.5,
        neighbours=True,
    ),
    # GLM-4-0414: norms before and after attention.
    Described(
        name="glm4",
        architectures=("Glm4ForCausalLM",),
        biases=("attention_bias", True),
        default_kv_heads=2,
        default_head_dim=128,
        default_rotary_fraction=0.5,
        neighbours=True,
        norm_after=("post_self_attn_layernorm", 1.5625e-7),
    ),
    # Command R7B and Command A (arXiv 2504.00698).
    Hybrid(
        name="cohere2",
        architectures=("Cohere2ForCausalLM",),
        biases=("attention_bias", False),
        neighbours=True,
        rotates_without_windows=False,
    ),
    # arXiv 2407.14679 (Minitron): LayerNorms whose weights are added to 1, squared ReLU.
    Described(
        name="nemotron",
        architectures=("NemotronForCausalLM",),
        biases=("attention_bias", False),
        default_rotary_fraction=0.5,
    ),
    # arXiv 2507.11407.
    Hybrid(
        name="exaone4",
        architectures=("Exaone4ForCausalLM",),
        has_head_norms=True,
        default_kv_heads=32,
        norm_after=("post_attention_layernorm", 1e-5),
        rotates_without_windows=True,
    ),
    # arXiv 2509.14233: the activation xIELU, which has parameters of its own.
    Described(
        name="apertus",
        architectures=("ApertusForCausalLM",),
        biases=("attention_bias", False),
        has_head_norms=True,
        default_rope_theta=12_000_000.0,
        scales_rope_unasked=True,
    ),
    # Mistral AI, 2025: queries of tokens far from the beginning are made longer.
    Described(
        name="ministral3",
        architectures=("Ministral3ForCausalLM",),
        pairs_side_by_side=True,
        default_kv_heads=8,
        default_head_dim=128,
        default_rope_theta=1_000_000.0,
        scales_rope_unasked=True,
    ),
    # Mistral AI, 2024: sliding windows in some layers.
    Described(name="ministral", architectures=("MinistralForCausalLM",), pairs_side_by_side=True, default_kv_heads=8),
)
# Mixtures of experts: the same attention, and a merge changes nothing else.
MIXTURES: tuple[Family, ...] = (
    # arXiv 2407.10671; Qwen1.5-MoE.
    Described(name="qwen2_moe", architectures=("Qwen2MoeForCausalLM",), biases=("qkv_bias", True), default_kv_heads=16),
    # arXiv 2505.09388.
    Described(
        name="qwen3_moe",
        architectures=("Qwen3MoeForCausalLM",),
        biases=("attention_bias", False),
        has_head_norms=True,
        default_kv_heads=4,
    ),
    # arXiv 2401.04088.
    Described(
        name="mixtral",
        architectures=("MixtralForCausalLM",),
        pairs_side_by_side=True,
        default_kv_heads=8,
        default_rope_theta=1_000_000.0,
    ),
    # IBM, 2024.
    Described(
        name="granitemoe",
        architectures=("GraniteMoeForCausalLM",),
        biases=("attention_bias", False),
        pairs_side_by_side=True,
        scale="attention_multiplier",
        gain="residual_multiplier",
    ),
    # Phi-3.5-MoE (arXiv 2404.14219).
    Described(
        name="phimoe",
        architectures=("PhimoeForCausalLM",),
        biases=("attention_bias", False),
        default_kv_heads=8,
        default_rope_theta=1_000_000.0,
    ),
    GptOss(
        name="gpt_oss",
        architectures=("GptOssForCausalLM",),
        biases=("attention_bias", True),
        default_kv_heads=8,
        default_head_dim=64,
        default_rope_theta=150_000.0,
        scales_rope_unasked=True,
    ),
)

# A norm over the keys of all heads.
WHOLE_NORMED: tuple[Family, ...] = (
    # arXiv 2501.00656.
    WholeNormed(
        name="olmo2",
        architectures=("Olmo2ForCausalLM",),
        biases=("attention_bias", False),
        norm_after=("post_attention_layernorm", 1e-5),
    ),
    # Allen Institute for AI, 2025: sliding windows, whose layers take no scaled RoPE.
    WholeNormed(
        name="olmo3",
        architectures=("Olmo3ForCausalLM",),
        biases=("attention_bias", False),
        norm_after=("post_attention_layernorm", 1e-5),
        default_rope_theta=500_000.0,
        default_local_rope_theta=500_000.0,
    ),
    # arXiv 2409.02060: a mixture of experts. Its norm of queries is as wide as the model, so no head can be added.
    WholeNormed(
        name="olmoe",
        architectures=("OlmoeForCausalLM",),
        biases=("attention_bias", False),
        padding="none",
        clip="clip_qkv",
    ),
)

DESCRIBED = (*DENSE, *MIXTURES, *WHOLE_NORMED)
