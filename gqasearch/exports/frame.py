"""A grouping as a pandas table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gqasearch.grouping_document import GroupingDocument
from gqasearch.separate_grouping import SIDES

if TYPE_CHECKING:
    import pandas as pd


def grouping_frame(document: GroupingDocument) -> pd.DataFrame:
    """A row per layer and KV head of the source, (L * H) rows; of keys and values grouped apart one for each, (2 L H),
    with a column ``side`` after ``layer``.

    ``head``: of the source; ``first_query_head``, ``query_heads``: those that it carries; ``group``: its KV head in
    the converted model, from 0 within a layer; ``group_size``: heads that share it; ``layer_groups``: groups of the
    layer; ``layer_error``, ``layer_lower_bound``, ``proven_optimal``: of the whole layer, missing where not known.
    """
    import pandas as pd

    queries = document.queries_per_kv
    rows = [
        {
            **place,
            "head": head,
            "first_query_head": head * queries,
            "query_heads": queries,
            "group": group,
            "group_size": layer.grouping.sizes[group],
            "layer_groups": layer.grouping.num_groups,
            "layer_error": layer.error,
            "layer_lower_bound": layer.lower_bound,
            "proven_optimal": layer.proven_optimal,
        }
        for place, layer in zip(_places(document), document.layers, strict=True)
        for head, group in enumerate(layer.grouping.labels)
    ]
    floats = {"layer_error": "float64", "layer_lower_bound": "float64"}
    return pd.DataFrame(rows).astype({**floats, "proven_optimal": "boolean"})


def _places(document: GroupingDocument) -> list[dict[str, Any]]:
    """What every partition of the document is of."""
    layers = range(document.model.num_layers)
    if not document.separate_kv:
        return [{"layer": layer} for layer in layers]
    return [{"layer": layer, "side": side} for layer in layers for side in SIDES]


def frame_csv(document: GroupingDocument) -> bytes:
    """``grouping_frame`` as CSV; what is not known is empty."""
    return grouping_frame(document).to_csv(index=False, lineterminator="\n").encode()


def frame_json(document: GroupingDocument) -> bytes:
    """``grouping_frame`` as a JSON list of records, one a line; what is not known is null."""
    frame = grouping_frame(document).astype(object)
    records = frame.where(frame.notna(), None).to_dict("records")
    return ("[\n " + ",\n ".join(json.dumps(record, allow_nan=False) for record in records) + "\n]\n").encode()
