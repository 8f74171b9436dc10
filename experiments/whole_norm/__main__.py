"""The embedded model with norms of queries and keys put in: over all heads, over each, and none; half the heads merged.

python -m experiments.whole_norm                  # about ten minutes of one core
python -m experiments.whole_norm --tokens 4096    # fewer tokens to gather statistics on and to report on
python -m experiments.whole_norm --tokens 4096 --train 600   # each is trained on after the norms were put in

A norm's weights are what it divides by in the embedded model, on average over the calibration text; nothing is trained
unless ``--train`` says so, and then all three alike, on the embedded model's own training text. So the three begin as
one network but for what the norms do to single tokens, and each is compared with itself unmerged. The
one with a norm over all heads is an OLMoE of one expert, the one with a norm of every head a Qwen3. Neighbouring heads
share, by the optimal merge; ``mean of norms off`` leaves out the number a layer that makes up for what the norm divides
by. KL to the parent is on held-out text that nothing was gathered on.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from experiments.whole_norm.text import blocks_of, training_blocks
from experiments.whole_norm.train import train
from gqasearch.calibration import TokenBlocks, collect
from gqasearch.cli.messages import quiet_libraries
from gqasearch.embedded import model_directory
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import LayerWeights, Parent, layers_replaced, tie_heads
from gqasearch.models.loading import load_tokenizer

SHAPE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps", "rope_parameters"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)


def sizes_of(source: Parent, blocks: TokenBlocks) -> dict[str, Tensor]:
    """Root mean square of every projection of queries and keys, head by head, (H,), by its module's name."""
    found: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Tensor) -> None:
            heads = output.unflatten(-1, (-1, source.geometry.head_dim))
            found.setdefault(name, []).append(heads.square().mean((0, 1, 3)))

        return hook

    projections = {n: m for n, m in source.model.named_modules() if n.endswith(("q_proj", "k_proj"))}
    handles = [module.register_forward_hook(note(name)) for name, module in projections.items()]
    with torch.no_grad():
        source.model(blocks.ids)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(each).mean(0).sqrt() for name, each in found.items()}


def with_norms(source: Parent, sizes: dict[str, Tensor], kind: str) -> Parent:
    """The source, or its network with norms over ``all heads`` or over ``each head``."""
    if kind == "none":
        return Parent.from_model(copy.deepcopy(source.model), source.tokenizer)
    fields = {name: getattr(source.model.config, name) for name in SHAPE}
    state = dict(source.model.state_dict())
    head_dim = source.geometry.head_dim
    for name, size in sizes.items():
        norm = name.replace("_proj", "_norm")
        whole = size.square().mean().sqrt()
        width = len(size) * head_dim if kind == "all heads" else head_dim
        state[f"{norm}.weight"] = whole.expand(width).clone()
    model: PreTrainedModel
    if kind == "each head":
        model = Qwen3ForCausalLM(Qwen3Config(**fields, head_dim=head_dim))
    else:
        model = OlmoeForCausalLM(OlmoeConfig(**fields, num_experts=1, num_experts_per_tok=1))
        state = dict(_as_one_expert(state, source.geometry.num_layers))
    model.load_state_dict(state)
    return Parent.from_model(model, source.tokenizer)


def _as_one_expert(state: dict[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, tensor) for name, tensor in state.items() if ".mlp." not in name)
    for layer in range(layers):
        path = f"model.layers.{layer}.mlp"
        gate, up, down = (state[f"{path}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        yield f"{path}.experts.gate_up_proj", torch.cat([gate, up])[None]
        yield f"{path}.experts.down_proj", down[None]
        yield f"{path}.gate.weight", torch.zeros(1, gate.shape[1])


def merged(parent: Parent, grouping: LayerGrouping, blocks: TokenBlocks, *, mean_of_norms: bool) -> dict[int, Any]:
    """Every layer merged, with tied heads."""
    layers = {}
    with tempfile.TemporaryDirectory() as name:
        for index, statistics in enumerate(collect(parent, blocks, Path(name))):
            bound = make_merge("optimal").for_layer(parent.layer(index), statistics)
            weights: LayerWeights = bound.merge(grouping) if mean_of_norms else bound.merged_alone(grouping)
            layers[index] = tie_heads(weights, grouping, 1)
    return layers


def log_shares(parent: Parent, blocks: TokenBlocks) -> Tensor:
    """Log-probabilities (tokens, V) of what follows."""
    with torch.no_grad():
        logits: Tensor = parent.model(blocks.ids).logits
    return logits[:, :-1].flatten(0, 1).log_softmax(-1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384, help="to gather on, and as many to report on")
    parser.add_argument("--train", type=int, default=0, help="steps of 512 tokens before anything is merged")
    arguments = parser.parse_args()
    quiet_libraries(0)
    tokenizer = load_tokenizer(model_directory())
    source = Parent.from_model(LlamaForCausalLM.from_pretrained(model_directory(), dtype=torch.float32), tokenizer)
    known, told = (blocks_of(split, tokenizer, arguments.tokens) for split in ("calibration", "evaluation"))
    sizes = sizes_of(source, known)
    print("| norm of queries and keys | perplexity | KV heads | KL, nats per token | mean of norms off |")
    print("|---|---|---|---|---|")
    for kind in ("none", "each head", "all heads"):
        parent = with_norms(source, sizes, kind)
        if arguments.train:
            train(parent.model, training_blocks(tokenizer, 512 * arguments.train).ids, arguments.train)
        before, targets = log_shares(parent, told), told.ids[:, 1:].flatten()
        perplexity = float((-before.gather(1, targets[:, None]).mean()).exp())
        for groups in (6, 3):
            grouping, cells = LayerGrouping.neighbours(12, groups), []
            for mean_of_norms in (True, False) if kind == "all heads" else (True,):
                with layers_replaced(parent, merged(parent, grouping, known, mean_of_norms=mean_of_norms)):
                    kl = (before.exp() * (before - log_shares(parent, told))).sum(-1).mean()
                cells.append(f"{float(kl):.3f}")
            row = (kind, f"{perplexity:.2f}", f"{groups} of 12", cells[0], cells[1] if cells[1:] else "")
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
