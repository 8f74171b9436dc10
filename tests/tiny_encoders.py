"""Tiny random encoders, and tokenizers with mask tokens, in the manner of ``tiny_models``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)

from gqasearch.calibration import NO_TARGET, TokenBlocks
from gqasearch.calibration.masking import masked
from gqasearch.models import Parent
from tests.samples import random_blocks
from tests.tiny_models import randomise

ENCODERS = ("bert", "roberta", "distilbert", "electra")
HEADLESS = tuple(f"{family}-headless" for family in ENCODERS)
MASK, SPECIAL = 4, ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # as RoBERTa has them
VOCAB_SIZE = len(SPECIAL) + 256

_CLASSES: dict[str, tuple[type[Any], type[Any]]] = {
    "bert": (BertConfig, BertForMaskedLM),
    "roberta": (RobertaConfig, RobertaForMaskedLM),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaForMaskedLM),
    "distilbert": (DistilBertConfig, DistilBertForMaskedLM),
    "electra": (ElectraConfig, ElectraForMaskedLM),
    "bert-headless": (BertConfig, BertModel),
    "roberta-headless": (RobertaConfig, RobertaModel),
    "xlm-roberta-headless": (XLMRobertaConfig, XLMRobertaModel),
    "distilbert-headless": (DistilBertConfig, DistilBertModel),
    "electra-headless": (ElectraConfig, ElectraModel),
}


def tiny_encoder(family: str, *, heads: int = 6, layers: int = 2, head_dim: int = 8, seed: int = 0) -> PreTrainedModel:
    """A random model; positions, token types and biases are not trivial."""
    config_class, model_class = _CLASSES[family]
    width = heads * head_dim
    fields: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 130,
        "pad_token_id": 1,
        "tie_word_embeddings": False,
    }
    fields |= {"hidden_dim": 2 * width} if family.startswith("distilbert") else {"intermediate_size": 2 * width}
    fields |= {"embedding_size": 24} if family.startswith("electra") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(config_class(**fields))
    randomise(model, seed)
    return model.eval()


def encoder_parent(family: str, **options: Any) -> Parent:
    """``tiny_encoder`` as a parent in memory; same options."""
    return Parent.from_model(tiny_encoder(family, **options))


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, no merges, every special token that BERT's and RoBERTa's tokenizers have."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    start, pad, end, unk, mask = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=start,
        pad_token=pad,
        sep_token=end,
        unk_token=unk,
        mask_token=mask,
        model_max_length=128,
    )


def save_encoder(model: PreTrainedModel, directory: Path) -> Path:
    """Write model and tokenizer as a checkpoint folder."""
    model.save_pretrained(directory)
    encoder_tokenizer().save_pretrained(directory)
    return directory


def masked_blocks(**options: Any) -> TokenBlocks:
    """``random_blocks`` with masks, and padding tokens on padding: RoBERTa counts positions without them."""
    plain = random_blocks(VOCAB_SIZE, **options)
    ids = plain.ids.clamp_min(len(SPECIAL))
    ids[~plain.mask] = 1
    hidden, labels = masked(ids, plain.mask, MASK, range(len(SPECIAL)))
    return TokenBlocks(hidden, plain.mask, plain.source, plain.bytes_per_token, labels)


def whole_blocks(**options: Any) -> TokenBlocks:
    """The same with no token masked, and every one a target, as models without a head read them."""
    blocks = masked_blocks(**options)
    return replace(blocks, ids=blocks.text, labels=blocks.text.masked_fill(~blocks.mask, NO_TARGET))
