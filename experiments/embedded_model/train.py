"""Train the embedded model from nothing: tokenizer, weights, training log.

    python -m experiments.embedded_model.train --output-dir runs/embedded

An MHA Llama (RoPE, RMSNorm, SwiGLU, tied embeddings). Muon for the matrices, AdamW for the rest,
linear warm-down to zero, bf16 autocast on GPUs. Every block is ``<s>`` and context - 1 tokens. The three
held-out sets of ``gqasearch.embedded.library_text`` are never trained on; the log reports bits per byte on
the evaluation set.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.embedded_model.corpus import Corpus, build_corpus
from gqasearch.embedded.library_text import held_out_documents

BOS, EOS = "<s>", "</s>"


@dataclass(frozen=True)
class Settings:
    """Sizes of the model and of its training."""

    vocab_size: int = 2048
    hidden_size: int = 192
    num_layers: int = 6
    num_heads: int = 12
    intermediate_size: int = 512
    context: int = 256
    steps: int = 3200
    blocks_per_step: int = 16
    muon_lr: float = 0.02
    adamw_lr: float = 4e-3
    warmup: int = 60
    warmdown_from: float = 0.3  # fraction of the steps after which the rate falls linearly to zero
    stdlib_epochs: float = 2.0
    seed: int = 0


def train_tokenizer(corpus: Corpus, settings: Settings) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the training text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.stdlib + corpus.packages[::10], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=settings.context,
        clean_up_tokenization_spaces=False,
    )


def blocks_of(texts: list[str], tokenizer: PreTrainedTokenizerFast, context: int) -> np.ndarray:
    """Concatenate the texts with ``</s>`` between and cut: (blocks, context), each begins with ``<s>``."""
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    stream = np.concatenate([np.array([*e.ids, tokenizer.eos_token_id], dtype=np.int32) for e in encoded])
    body = context - 1
    blocks = stream[: len(stream) // body * body].reshape(-1, body)
    return np.concatenate([np.full((len(blocks), 1), tokenizer.bos_token_id, dtype=np.int32), blocks], axis=1)


def training_order(stdlib: np.ndarray, packages: np.ndarray, settings: Settings) -> np.ndarray:
    """All blocks in the order they are seen: the standard library's share grows towards the end."""
    rng = np.random.default_rng(settings.seed)
    total = settings.steps * settings.blocks_per_step
    own = min(int(len(stdlib) * settings.stdlib_epochs), total // 2)
    chosen = np.concatenate([rng.permutation(len(stdlib)) for _ in range(math.ceil(own / len(stdlib)))])[:own]
    rest = rng.permutation(len(packages))[: total - own]
    if len(rest) < total - own:
        raise SystemExit(f"too little text: {len(rest)} package blocks, {total - own} wanted")
    when = np.concatenate([rng.beta(2.0, 1.0, own), rng.beta(1.0, 1.25, len(rest))])
    blocks = np.concatenate([stdlib[chosen], packages[rest]])
    return blocks[np.argsort(when, kind="stable")]


def build_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def bits_per_byte(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: int) -> dict[str, float]:
    """Held-out evaluation modules in blocks of ``context``; every token after ``<s>`` is a target."""
    texts = [d.text for d in held_out_documents("evaluation")]
    blocks = torch.from_numpy(blocks_of(texts, tokenizer, context)).long()
    device = next(model.parameters()).device
    nats, targets = 0.0, 0
    with torch.no_grad():
        for batch in blocks.split(16):
            batch = batch.to(device)
            logits = model(batch).logits[:, :-1].float()
            nats += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
            ).item()
            targets += batch[:, 1:].numel()
    size = sum(len(text.encode()) + 1 for text in texts)
    covered = targets / sum(len(e) + 1 for e in tokenizer(texts, add_special_tokens=False)["input_ids"])
    return {
        "bits_per_byte": nats / math.log(2) / (size * covered),
        "perplexity": math.exp(nats / targets),
        "targets": targets,
    }


def optimizers(model: LlamaForCausalLM, settings: Settings) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=settings.muon_lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=settings.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(step: int, settings: Settings) -> float:
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    start = settings.warmdown_from * settings.steps
    return min(1.0, max(0.0, (settings.steps - step) / (settings.steps - start)))


def make_readable_by_old_transformers(folder: Path) -> None:
    """Names that transformers 4.x looks for, beside those that 5.x writes."""
    changes = {
        "config.json": {"rope_theta": 10000.0, "torch_dtype": "float32"},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    }
    for name, added in changes.items():
        content = json.loads((folder / name).read_text(encoding="utf-8")) | added
        content.pop("backend", None)
        (folder / name).write_text(json.dumps(dict(sorted(content.items())), indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true")
    for name, value in asdict(Settings()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    args = parser.parse_args()
    settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
    out: Path = args.output_dir
    out.mkdir(parents=True, exist_ok=True)

    corpus = build_corpus(settings.seed)
    tokenizer = train_tokenizer(corpus, settings)
    tokenizer.save_pretrained(out)
    stdlib = blocks_of(corpus.stdlib, tokenizer, settings.context)
    packages = blocks_of(corpus.packages, tokenizer, settings.context)
    order = training_order(stdlib, packages, settings)
    model = build_model(settings, tokenizer).to(args.device)
    print(
        f"stdlib {len(stdlib)} blocks, packages {len(packages)} blocks, left out for overlap {len(corpus.left_out)} "
        f"files; {model.num_parameters() / 1e6:.2f} M parameters",
        flush=True,
    )
    for name in corpus.left_out:
        print("  overlap:", name)

    opts = optimizers(model, settings)
    base = [[g["lr"] for g in o.param_groups] for o in opts]

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        # bf16 pays on a GPU; on CPUs without bf16 matrix units its backward pass is twice as slow as fp32's.
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.device != "cpu"):
            logits = model(batch, use_cache=False).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())

    step_loss = loss_of if args.no_compile else torch.compile(loss_of)
    log = (out / "training_log.jsonl").open("w")
    started, running = time.time(), 0.0
    size = settings.blocks_per_step
    for step in range(settings.steps):
        batch = torch.from_numpy(order[step * size : (step + 1) * size]).long().to(args.device)
        factor = schedule(step, settings)
        for opt, rates in zip(opts, base, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss = step_loss(batch)
        loss.backward()
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        running += loss.item()
        if (step + 1) % 50 == 0:
            line = {"step": step + 1, "loss": round(running / 50, 4), "seconds": round(time.time() - started, 1)}
            running = 0.0
            if (step + 1) % 400 == 0 or step + 1 == settings.steps:
                model.eval()
                line |= {k: round(v, 4) for k, v in bits_per_byte(model, tokenizer, settings.context).items()}
                model.train()
                model.save_pretrained(out)
            print(line, flush=True)
            log.write(json.dumps(line) + "\n")
            log.flush()
    make_readable_by_old_transformers(out)
    log.write(json.dumps({"settings": asdict(settings), "overlap": corpus.left_out}) + "\n")
    log.close()


if __name__ == "__main__":
    main()
