"""What is different in the ragged layout of an encoder: its modelling file, its classes, its head."""

from __future__ import annotations

from typing import Any

ENCODER_MODULE = "modeling_ragged_bert"
# Architecture of the source -> what its classes are called in the modelling file, after "Ragged" and before "Config",
# "Model" and "ForMaskedLM".
ENCODER_NAMES = {
    "BertForMaskedLM": "Bert",
    "BertForPreTraining": "Bert",
    "RobertaForMaskedLM": "Roberta",
    "XLMRobertaForMaskedLM": "XLMRoberta",
    "DistilBertForMaskedLM": "DistilBert",
    "ElectraForMaskedLM": "Electra",
}


def encoder_classes(name: str) -> dict[str, Any]:
    """Fields of ``config.json`` that say which code loads it."""
    return {
        "architectures": [f"Ragged{name}ForMaskedLM"],
        "auto_map": {
            "AutoConfig": f"{ENCODER_MODULE}.Ragged{name}Config",
            "AutoModel": f"{ENCODER_MODULE}.Ragged{name}Model",
            "AutoModelForMaskedLM": f"{ENCODER_MODULE}.Ragged{name}ForMaskedLM",
        },
    }
