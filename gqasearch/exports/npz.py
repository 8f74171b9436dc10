"""NumPy archives, without pickles."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from gqasearch.errors import UserError
from gqasearch.exports.head_map import head_map
from gqasearch.grouping import LayerGrouping
from gqasearch.grouping_document import GroupingDocument, ModelRecord


def npz(document: GroupingDocument) -> bytes:
    """NumPy archive without pickles: ``labels`` (L, H), ``head_map`` (L, Hq), ``kv_heads_per_layer`` (L,)."""
    data = io.BytesIO()
    np.savez(
        data,
        allow_pickle=False,
        labels=np.array([layer.labels for layer in document.grouping], dtype=np.int64),
        head_map=np.array(head_map(document), dtype=np.int64),
        kv_heads_per_layer=np.array(document.grouping.group_counts, dtype=np.int64),
    )
    return data.getvalue()


def read_npz(path: Path, model: ModelRecord) -> list[LayerGrouping]:
    """Layers of an archive's array ``labels`` (L, H), of any integers; nothing else in it is read, and no pickle."""
    try:
        # Opened here: NumPy leaves a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            labels = archive["labels"]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except KeyError:
        raise UserError(f"{path} holds no array 'labels'") from None
    except (ValueError, EOFError, TypeError, AttributeError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no NumPy archive without pickles: {error}") from None
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path}: labels must be integers (layers, heads), are {labels.dtype} {labels.shape}")
    if labels.shape[1] == 0:
        raise UserError(f"{path}: labels has no heads, the model has {model.num_key_value_heads} KV heads")
    return [LayerGrouping.from_labels(row) for row in labels.tolist()]
