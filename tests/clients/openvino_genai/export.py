"""A checkpoint for OpenVINO GenAI, in float32: traced as transformers runs it, whatever heads its layers have.

GenAI takes a model with these inputs whose keys and values are its own state, and a tokenizer beside it or none.
"""

from pathlib import Path

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")


class Step(torch.nn.Module):
    """A model whose cache goes in and out as tensors: keys and values of every layer, (batch, KV heads, tokens, d)."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, beam_idx, *past):
        cache = DynamicCache()
        for keys, values in zip(past[::2], past[1::2], strict=True):
            layer = DynamicLayer()  # filled by hand: its update begins with an empty tensor of one dimension
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys.index_select(0, beam_idx), values.index_select(0, beam_idx)
            cache.layers.append(layer)
        length = attention_mask.shape[1]
        at = length - input_ids.shape[1] + torch.arange(input_ids.shape[1])  # place of every token in the text
        seen = (torch.arange(length)[None] <= at[:, None])[None] & attention_mask.bool()[:, None]
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None]
        out = self.model(input_ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache)
        return out.logits, *(side for layer in cache.layers for side in (layer.keys, layer.values))


def export(checkpoint: str, target: Path, *, trust: bool) -> list[int]:
    """Write ``target/openvino_model.xml``; the KV heads of every layer."""
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, trust_remote_code=trust, attn_implementation="eager"
    ).eval()
    ids = torch.ones(2, 3, dtype=torch.int64)
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        past = [side[:, :, :2] for layer in cache.layers for side in (layer.keys, layer.values)]
        example = (
            ids,
            torch.ones(2, 5, dtype=torch.int64),
            torch.arange(2, 5).expand(2, 3),
            torch.arange(2).int(),
            *past,
        )
        converted = ov.convert_model(Step(model), example_input=example)
    names = {}
    for index, (put_in, got_out) in enumerate(zip(converted.inputs[4:], converted.outputs[1:], strict=True)):
        layer, side = index // 2, ("key", "value")[index % 2]
        heads, size = past[index].shape[1], past[index].shape[3]
        put_in.get_node().set_partial_shape(ov.PartialShape([-1, heads, -1, size]))
        put_in.get_tensor().set_names({f"past_key_values.{layer}.{side}"})
        got_out.get_tensor().set_names({f"present.{layer}.{side}"})
        names[f"past_key_values.{layer}.{side}"] = f"present.{layer}.{side}"
    for name, put_in in zip(INPUTS, converted.inputs[:4], strict=True):
        put_in.get_node().set_partial_shape(ov.PartialShape([-1] if name == "beam_idx" else [-1, -1]))
        put_in.get_tensor().set_names({name})
    converted.outputs[0].get_tensor().set_names({"logits"})
    converted.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(converted, names)
    begin_empty(converted)
    target.mkdir()
    ov.save_model(converted, target / "openvino_model.xml", compress_to_fp16=False)
    return [side.shape[1] for side in past[::2]]


def begin_empty(model: ov.Model) -> None:
    """A text begins with a state of no tokens, which the CPU wants said."""
    batch = ops.gather(ops.shape_of(model.input("input_ids")), [0], 0)
    for state in [op for op in model.get_ops() if op.get_type_name() == "ReadValue"]:
        _, heads, _, size = state.get_output_partial_shape(0)
        shape = ops.concat([batch, ops.constant([heads.get_length(), 0, size.get_length()], dtype=np.int64)], 0)
        state.set_arguments([ops.broadcast(ops.constant(0.0, dtype=np.float32), shape).output(0)])
    model.validate_nodes_and_infer_types()
