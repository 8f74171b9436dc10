"""Numbers of KV heads by layer, as configurations of models that may differ by layer say them."""

from __future__ import annotations

import json

from gqasearch.grouping_document import GroupingDocument


def kv_heads_per_layer_json(document: GroupingDocument) -> bytes:
    """``num_key_value_heads_per_layer``, as DeciLM's first configurations."""
    return (json.dumps({"num_key_value_heads_per_layer": document.grouping.group_counts}) + "\n").encode()


def block_configs_json(document: GroupingDocument) -> bytes:
    """The attention part of ``block_configs``, as later DeciLM's configurations say it and vLLM reads it.

    ``n_heads_in_group`` counts query heads of one KV head and is the same within a layer, so ``num_attention_heads``
    is the fewest for which that is possible: the source's, or more with empty ones, as the layout ``deci`` writes.

    https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/nemotron_nas.py
    """
    heads = document.grouping.common_query_heads(document.queries_per_kv)
    blocks = [
        {"attention": {"n_heads_in_group": heads // count, "no_op": False, "replace_with_linear": False}}
        for count in document.grouping.group_counts
    ]
    rows = ",\n  ".join(json.dumps(block) for block in blocks)
    return f'{{\n "num_attention_heads": {heads},\n "block_configs": [\n  {rows}\n ]\n}}\n'.encode()
