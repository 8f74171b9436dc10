"""What a converted model is worth: perplexity, KL to the parent, memory."""

from gqasearch.evaluation.attention_calls import AttentionCalls
from gqasearch.evaluation.candidate_state import CandidateState, digest_of
from gqasearch.evaluation.candidates import Converter
from gqasearch.evaluation.climb import SummedLoss, climb, mean_loss
from gqasearch.evaluation.climb_state import ClimbState
from gqasearch.evaluation.embeddings import embed, embedding_cosines
from gqasearch.evaluation.hidden_quality import HiddenQuality, evaluate_hidden, hidden_errors
from gqasearch.evaluation.interval import mean_interval
from gqasearch.evaluation.memory import (
    KVSize,
    cached_kv_heads,
    cached_kv_size,
    computed_kv_bytes_per_token,
    count_parameters,
    kv_bytes_per_token,
)
from gqasearch.evaluation.pooling import Pooling, pooling_of
from gqasearch.evaluation.prefix import PrefixLosses, TiedLayer
from gqasearch.evaluation.quality import (
    CONVENTION,
    CONVENTIONS,
    Quality,
    evaluate_quality,
    kl_per_token,
)
from gqasearch.evaluation.reference import KeptPredictions, ParentLogProbs
from gqasearch.evaluation.rounded_stack import RoundedLayers
from gqasearch.evaluation.runners import LayerStack, ParentLayers, Runner, WholeModel, model_runner, tied_runner
from gqasearch.evaluation.sums import AnyQuality, How
from gqasearch.evaluation.token_cost import ForwardCount, counted_forwards

__all__ = [
    "CONVENTION",
    "CONVENTIONS",
    "AnyQuality",
    "AttentionCalls",
    "CandidateState",
    "ClimbState",
    "Converter",
    "ForwardCount",
    "HiddenQuality",
    "How",
    "KVSize",
    "KeptPredictions",
    "LayerStack",
    "ParentLayers",
    "ParentLogProbs",
    "Pooling",
    "PrefixLosses",
    "Quality",
    "RoundedLayers",
    "Runner",
    "SummedLoss",
    "TiedLayer",
    "WholeModel",
    "cached_kv_heads",
    "cached_kv_size",
    "climb",
    "computed_kv_bytes_per_token",
    "count_parameters",
    "counted_forwards",
    "digest_of",
    "embed",
    "embedding_cosines",
    "evaluate_hidden",
    "evaluate_quality",
    "hidden_errors",
    "kl_per_token",
    "kv_bytes_per_token",
    "mean_interval",
    "mean_loss",
    "model_runner",
    "pooling_of",
    "tied_runner",
]
