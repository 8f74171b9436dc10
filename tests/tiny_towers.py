"""Tiny random models that read images, too; the text tower has the shape that is asked for."""

from __future__ import annotations

from typing import Any

import torch
import transformers

IMAGE = 258
VISION = {"hidden_size": 16, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
CLIP = VISION | {"intermediate_size": 32, "num_hidden_layers": 1}
QWEN_VISION = {"depth": 1, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 1}
QWEN_TOKENS = {"image_token_id": IMAGE, "video_token_id": 257, "vision_start_token_id": 256, "vision_end_token_id": 255}
SECTIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "query_pre_attn_scalar": 12}

# Family -> the name that its classes begin with, fields of its tower, fields of the whole.
TOWERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": (
        "Gemma3",
        WINDOWS,
        {"vision_config": CLIP, "mm_tokens_per_image": 4, "image_token_index": IMAGE},
    ),
    "qwen2_vl": (
        "Qwen2VL",
        SECTIONS,
        QWEN_TOKENS | {"vision_config": QWEN_VISION | {"embed_dim": 16, "hidden_size": 48}},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        SECTIONS,
        QWEN_TOKENS
        | {"vision_config": QWEN_VISION | {"hidden_size": 16, "out_hidden_size": 48, "intermediate_size": 32}},
    ),
    "qwen3_vl": (
        "Qwen3VL",
        SECTIONS,
        QWEN_TOKENS
        | {
            "vision_config": QWEN_VISION
            | {
                "hidden_size": 16,
                "out_hidden_size": 48,
                "intermediate_size": 32,
                "deepstack_visual_indexes": [0],
                "num_position_embeddings": 16,
            }
        },
    ),
    **{
        f"llava-{kind}": (
            "Llava",
            {"model_type": kind, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
            {"vision_config": CLIP | {"model_type": "clip_vision_model"}, "image_token_index": IMAGE},
        )
        for kind in ("llama", "mistral", "qwen2")
    },
}
PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
SQUARE = CLIP | {"image_size": [28, 28], "patch_size": [14, 14]}
TOWERS |= {
    "llava_next": (
        "LlavaNext",
        PLAIN_ROPE | {"model_type": "mistral"},
        {
            "vision_config": CLIP | {"model_type": "clip_vision_model"},
            "image_token_index": IMAGE,
            "image_grid_pinpoints": [[28, 28]],
        },
    ),
    "llava_onevision": (
        "LlavaOnevision",
        PLAIN_ROPE | {"model_type": "qwen2"},
        {"vision_config": CLIP | {"model_type": "siglip_vision_model"}, "image_token_index": IMAGE},
    ),
    "mistral3": (
        "Mistral3",
        PLAIN_ROPE | {"model_type": "mistral"},
        {"vision_config": CLIP | {"model_type": "pixtral"}, "image_token_index": IMAGE},
    ),
    "internvl": (
        "InternVL",
        PLAIN_ROPE | {"model_type": "qwen3"},
        {"vision_config": SQUARE, "image_token_id": IMAGE},
    ),
    "idefics3": (
        "Idefics3",
        PLAIN_ROPE | {"model_type": "llama"},
        {"vision_config": CLIP, "image_token_id": IMAGE, "scale_factor": 2},
    ),
    "smolvlm": (
        "SmolVLM",
        PLAIN_ROPE | {"model_type": "llama"},
        {"vision_config": CLIP, "image_token_id": IMAGE, "scale_factor": 2},
    ),
}
# A layer that attends to the image stands between two that attend to text.
TOWERS["mllama"] = (
    "Mllama",
    {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "num_hidden_layers": 3,
        "cross_attention_layers": [1],
    },
    {
        "vision_config": CLIP
        | {"attention_heads": 2, "num_global_layers": 1, "intermediate_layers_indices": [0], "max_num_tiles": 1}
        | {"supported_aspect_ratios": [[1, 1]], "vision_output_dim": 32},
        "image_token_index": IMAGE,
    },
)
TOWER_NAMES = tuple(TOWERS)
# Whose tests call them with an image, too.
SEEING_NAMES = tuple(name for name in TOWERS if name.startswith(("gemma3", "qwen", "llava-", "mllama")))


def tower_model(family: str, text: dict[str, Any]) -> transformers.PreTrainedModel:
    """A model whose text tower has these fields, with the weights that transformers begins with."""
    name, own, whole = TOWERS[family]
    fields = {key: value for key, value in text.items() if key != "tie_word_embeddings"} | own
    if "layer_types" in own:
        fields["layer_types"] = (own["layer_types"] * text["num_hidden_layers"])[: text["num_hidden_layers"]]
    vision = {**whole["vision_config"]}
    for width in ("out_hidden_size", "hidden_size") if name == "Qwen2VL" else ("out_hidden_size",):
        if width in vision:
            vision[width] = text["hidden_size"]
    config = getattr(transformers, f"{name}Config")(
        **{**whole, "vision_config": vision, "text_config": fields, "tie_word_embeddings": text["tie_word_embeddings"]}
    )
    model: transformers.PreTrainedModel = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    return model


def with_image(family: str) -> dict[str, Any]:
    """What such a model is called with: a text of 24 tokens with one image in it."""
    noise = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 250, (1, 24), generator=noise)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family == "mllama":
        pixels = torch.randn(1, 1, 1, 3, 28, 28, generator=noise)
        tiles = torch.ones(1, 1, 1, dtype=torch.long)
        return given | {"pixel_values": pixels, "aspect_ratio_ids": tiles[0], "aspect_ratio_mask": tiles}
    if not family.startswith("qwen"):
        ids[0, 3:7] = IMAGE
        return given | {"pixel_values": torch.randn(1, 3, 28, 28, generator=noise)}
    ids[0, 2], ids[0, 3:19] = QWEN_TOKENS["vision_start_token_id"], IMAGE  # 4 rows of 4 patches
    patches = {"pixel_values": torch.randn(16, 3 * 2 * 14 * 14, generator=noise)}
    return given | patches | {"image_grid_thw": torch.tensor([[1, 4, 4]]), "mm_token_type_ids": (ids == IMAGE).long()}
