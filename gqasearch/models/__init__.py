"""Where the heads are: geometry and Q/K/V/O access, one small file per architecture family."""

from gqasearch.models.device import check_device
from gqasearch.models.families import FAMILIES, family_of, objective_of, read_config, supported_architectures
from gqasearch.models.family import OBJECTIVES, TOKENS, Config, Family, Objective
from gqasearch.models.identity import identity_of
from gqasearch.models.layer import HeadGeometry, LayerWeights, augmented, tie_heads
from gqasearch.models.loading import load_model, whole_tensors
from gqasearch.models.loading_on_demand import load_model_within
from gqasearch.models.model_record import model_record
from gqasearch.models.on_demand import device_of
from gqasearch.models.parent import Parent, load_parent
from gqasearch.models.partial import (
    Arguments,
    Entered,
    decoder_layer,
    enter,
    hidden_states_of,
    layers_stubbed,
    output_projection,
    outputs_noted,
    run_from,
    run_layer,
)
from gqasearch.models.precision import quick_products
from gqasearch.models.prediction import prediction_of
from gqasearch.models.rounded_attention import RoundedCache, rounded_arguments, run_rounded_layer
from gqasearch.models.source import ModelSource, resolve_model
from gqasearch.models.stream import stream_after, wanted_of_attention
from gqasearch.models.tensors import CheckpointTensors, fingerprint
from gqasearch.models.tied import layers_replaced

__all__ = [
    "FAMILIES",
    "OBJECTIVES",
    "TOKENS",
    "Arguments",
    "CheckpointTensors",
    "Config",
    "Entered",
    "Family",
    "HeadGeometry",
    "LayerWeights",
    "ModelSource",
    "Objective",
    "Parent",
    "RoundedCache",
    "augmented",
    "check_device",
    "decoder_layer",
    "device_of",
    "enter",
    "family_of",
    "fingerprint",
    "hidden_states_of",
    "identity_of",
    "layers_replaced",
    "layers_stubbed",
    "load_model",
    "load_model_within",
    "load_parent",
    "model_record",
    "objective_of",
    "output_projection",
    "outputs_noted",
    "prediction_of",
    "quick_products",
    "read_config",
    "resolve_model",
    "rounded_arguments",
    "run_from",
    "run_layer",
    "run_rounded_layer",
    "stream_after",
    "supported_architectures",
    "tie_heads",
    "wanted_of_attention",
    "whole_tensors",
]
