"""What is different in the ragged layout of an encoder: its modelling file, its classes, its head."""

from __future__ import annotations

from typing import Any

from gqasearch.models import supported_architectures

ENCODER_MODULE = "modeling_ragged_bert"
# Architecture of the source -> what its classes are called in the modelling file, after "Ragged" and before "Config",
# "Model" and "ForMaskedLM".
ENCODER_NAMES = {
    "BertModel": "Bert",
    "RobertaModel": "Roberta",
    "XLMRobertaModel": "XLMRoberta",
    "DistilBertModel": "DistilBert",
    "ElectraModel": "Electra",
    "BertForMaskedLM": "Bert",
    "BertForPreTraining": "Bert",
    "RobertaForMaskedLM": "Roberta",
    "XLMRobertaForMaskedLM": "XLMRoberta",
    "DistilBertForMaskedLM": "DistilBert",
    "ElectraForMaskedLM": "Electra",
}


def encoder_classes(architecture: str) -> dict[str, Any]:
    """Fields of ``config.json`` that say which code loads the converted form of this architecture."""
    name = ENCODER_NAMES[architecture]
    classes = {"AutoConfig": f"Ragged{name}Config", "AutoModel": f"Ragged{name}Model"}
    own = classes["AutoModel"]
    if supported_architectures()[architecture].objective == "masked":
        own = classes["AutoModelForMaskedLM"] = f"Ragged{name}ForMaskedLM"
    return {
        "architectures": [own],
        "auto_map": {auto: f"{ENCODER_MODULE}.{found}" for auto, found in classes.items()},
    }
