"""The default model, its tokenizer and its text: everything that works without a network."""

from __future__ import annotations

from pathlib import Path

from gqasearch.embedded.text import SPLITS, Document, Split, held_out_documents
from gqasearch.embedded.training_text import training_documents

__all__ = ["SPLITS", "Document", "Split", "held_out_documents", "model_directory", "training_documents"]


def model_directory() -> Path:
    """Folder of the embedded checkpoint."""
    return Path(__file__).resolve().parent / "model"
