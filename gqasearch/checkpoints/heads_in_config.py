"""How many heads every layer of a converted checkpoint has, as its ``config.json`` says in the words of any layout."""

from __future__ import annotations

from gqasearch.errors import UserError
from gqasearch.models import Config, HeadGeometry, family_of, supported_architectures
from gqasearch.models.family import text_of

FIELDS = ("num_hidden_layers", "num_attention_heads", "hidden_size")


def kv_heads_of(config: Config) -> list[int]:
    """KV heads of every layer, (L,); of keys where keys and values were grouped apart.

    Layers that attend to an image alone are not counted, here and in what follows.
    """
    told = {**text_of(config), **config}
    for field in ("num_key_value_heads_per_layer", "num_kv_heads"):
        if isinstance(told.get(field), list):
            return [int(count) for layer, count in enumerate(told[field]) if layer not in image_layers(config)]
    few, layers = shape_of(config).num_kv_heads, shape_of(config).num_layers
    if "hybrid_layer_pattern" in config:
        return [int(config["swa_num_key_value_heads"] if slides else few) for slides in config["hybrid_layer_pattern"]]
    return [few] * layers


def query_heads_of(config: Config) -> list[int]:
    """Query heads of every layer, empty slots counted, (L,)."""
    if isinstance(config.get("num_query_heads"), list):
        return [int(count) for count in config["num_query_heads"]]
    shape = shape_of(config)
    return [shape.num_attention_heads] * shape.num_layers


def image_layers(config: Config) -> list[int]:
    """Places of the layers that attend to an image alone, whose heads are the source's."""
    return list(text_of(config).get("cross_attention_layers") or ())


def shape_of(config: Config) -> HeadGeometry:
    """Heads of a layer; of a layout of ours, whose layers may differ, those that its fields for all layers name.

    Raises ``UserError`` where ``config.json`` names none in words that are known.
    """
    architecture, text = str(config["architectures"][0]), text_of(config)
    if architecture in supported_architectures():
        return family_of(config).geometry(config)
    if all(field in text for field in FIELDS):
        layers, heads, width = (int(text[field]) for field in FIELDS)
        layers -= len(image_layers(config))
        size = int(text.get("head_dim") or width // heads)
        return HeadGeometry(layers, heads, int(text.get("num_key_value_heads") or heads), size, width, size)
    name = architecture.removeprefix("Ragged")  # of a family with words of its own
    for own in (name, name.replace("ForCausalLM", "LMHeadModel")):
        if own in supported_architectures():
            return family_of({**config, "architectures": [own]}).geometry({**config, "architectures": [own]})
    raise UserError(
        f"config.json of this {architecture} has no fields {', '.join(FIELDS)}, which say what its heads are"
    )
