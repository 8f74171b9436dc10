"""ONNX Runtime GenAI's model builder on a DeciLM: ``build_deci.py CHECKPOINT TARGET CACHE``, float32, for CPUs.

The builder knows no DeciLM, and one number of KV heads for all layers of what it takes for a Mistral; the runtime takes
what the graph says. So the layer that is built is given its own number. Runs the checkpoint's modelling file.
"""

import sys

from onnxruntime_genai.models import builder
from onnxruntime_genai.models.builders import MistralModel


class DeciModel(MistralModel):
    """A Mistral whose layers have their own numbers of KV heads."""

    def __init__(self, config, *more):
        self.kv_heads_of = list(config.num_key_value_heads_per_layer)
        super().__init__(config, *more)

    def make_key_value_cache_shape(self, layer_id, shape):
        batch, _, *rest = super().make_key_value_cache_shape(layer_id, shape)
        return [batch, self.kv_heads_of[layer_id], *rest]

    def make_attention(self, layer_id, attention, root_input, **more):
        own = self.num_kv_heads, self.kv_size
        self.num_kv_heads = self.kv_heads_of[layer_id]
        self.kv_size = self.num_kv_heads * self.head_size
        super().make_attention(layer_id, attention, root_input, **more)
        self.num_kv_heads, self.kv_size = own


def as_mistral(details):
    """The builder goes by the architecture's name."""

    def hf_details(*arguments):
        found = details(*arguments)
        found["hf_config"].architectures = ["MistralForCausalLM"]
        return found

    return hf_details


if __name__ == "__main__":
    source, target, cache = sys.argv[1:]
    builder.MistralModel = DeciModel
    builder.get_hf_details = as_mistral(builder.get_hf_details)
    paths = (None, source, target, "fp32", "cpu", cache)
    builder.create_model(*paths, **builder.parse_extra_options(*paths, ["hf_remote=true"]))
