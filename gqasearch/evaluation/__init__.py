"""What a converted model is worth: perplexity, KL to the parent, memory."""

from gqasearch.evaluation.attention_calls import AttentionCalls
from gqasearch.evaluation.candidate_state import CandidateState, digest_of
from gqasearch.evaluation.candidates import Converter
from gqasearch.evaluation.climb import SummedLoss, mean_loss
from gqasearch.evaluation.climb_state import ClimbState
from gqasearch.evaluation.cost import ForwardCount, counted_forwards
from gqasearch.evaluation.embeddings import embed, embedding_cosines
from gqasearch.evaluation.interval import mean_interval
from gqasearch.evaluation.memory import (
    KVSize,
    cached_kv_heads,
    cached_kv_size,
    computed_kv_bytes_per_token,
    count_parameters,
    kv_bytes_per_token,
)
from gqasearch.evaluation.prefix import PrefixLosses, TiedLayer
from gqasearch.evaluation.quality import CONVENTION, Quality, convention_of, evaluate_quality, kl_per_token
from gqasearch.evaluation.reference import KeptPredictions, ParentLogProbs
from gqasearch.evaluation.rounded import RoundedLayers
from gqasearch.evaluation.runners import LayerStack, ParentLayers, Runner, WholeModel, model_runner, tied_runner

__all__ = [
    "CONVENTION",
    "AttentionCalls",
    "CandidateState",
    "ClimbState",
    "Converter",
    "ForwardCount",
    "KVSize",
    "KeptPredictions",
    "LayerStack",
    "ParentLayers",
    "ParentLogProbs",
    "PrefixLosses",
    "Quality",
    "RoundedLayers",
    "Runner",
    "SummedLoss",
    "TiedLayer",
    "WholeModel",
    "cached_kv_heads",
    "cached_kv_size",
    "computed_kv_bytes_per_token",
    "convention_of",
    "count_parameters",
    "counted_forwards",
    "digest_of",
    "embed",
    "embedding_cosines",
    "evaluate_quality",
    "kl_per_token",
    "kv_bytes_per_token",
    "mean_interval",
    "mean_loss",
    "model_runner",
    "tied_runner",
]
