"""The default model, its tokenizer, its text and a task: everything that works without a network."""

from __future__ import annotations

from pathlib import Path

from gqasearch.embedded.identifiers import ChoiceItem, identifier_items
from gqasearch.embedded.library_text import SPLITS, Document, Split, held_out_documents
from gqasearch.embedded.training_text import training_documents

__all__ = [
    "SPLITS",
    "ChoiceItem",
    "Document",
    "Split",
    "held_out_documents",
    "identifier_items",
    "model_directory",
    "tasks_directory",
    "training_documents",
]


def model_directory() -> Path:
    """Folder of the embedded checkpoint."""
    return Path(__file__).resolve().parent / "model"


def tasks_directory() -> Path:
    """Folder of tasks for lm-eval's ``--include_path``."""
    return Path(__file__).resolve().parent / "tasks"
