"""Run in CTranslate2's environment: its converter, then log-probabilities and greedy tokens."""

import json
import sys
from pathlib import Path

import ctranslate2
import numpy as np


def name_unknown_token(path: Path) -> str:
    """Write "" where the Mistral loader wrote null, which the engine refuses: for a tokenizer that has no such token.

    Other loaders write "". A Llama that needs padding is written as a Mistral.
    """
    config = json.loads(path.read_text())
    if config["unk_token"] is not None:
        return ""
    path.write_text(json.dumps({**config, "unk_token": ""}))
    return 'with "unk_token": "" in its config.json'


def answer(request: dict) -> dict:
    version = f"ctranslate2 {ctranslate2.__version__}"
    converter = ctranslate2.converters.TransformersConverter(request["model"], trust_remote_code=request["trust"])
    try:
        folder = converter.convert(request["target"], force=True)
    except ValueError as error:
        return {"version": version, "refused": str(error).partition(" (")[0]}
    note = name_unknown_token(Path(folder) / "config.json")
    generator = ctranslate2.Generator(folder, compute_type="float32", intra_threads=1)
    log_probs = []
    for prompt in request["prompts"]:
        try:
            scores = generator.forward_batch([prompt], return_log_probs=True)
        except ValueError as error:
            return {"version": version, "refused": str(error)}
        log_probs.append(np.array(scores)[0, -1, : request["vocab"]].tolist())
    vocabulary = json.loads((Path(folder) / "vocabulary.json").read_text())
    longest = [vocabulary[token] for token in request["prompts"][-1]]
    result = generator.generate_batch(
        [longest], max_length=request["new_tokens"], sampling_topk=1, include_prompt_in_result=False, end_token=[]
    )
    return {"version": version, "log_probs": log_probs, "greedy": result[0].sequences_ids[0], "note": note}


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))
