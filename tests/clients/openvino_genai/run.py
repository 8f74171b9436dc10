"""Run in OpenVINO GenAI's environment: greedy tokens of its pipeline, log-probabilities of the model in it."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai
from export import export

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def answer(request: dict) -> dict:
    own = {"version": version("openvino-genai")}
    path = Path(request["target"])
    if request["model"].endswith(".gguf"):
        try:
            openvino_genai.LLMPipeline(request["model"], "CPU", enable_save_ov_model=True, **EXACT)
        except RuntimeError as error:
            return own | {"refused": str(error).splitlines()[-1]}
        path = Path(request["model"]).parent  # where it saves what it makes of the file
    else:
        export(request["model"], path, trust=request["trust"])
    model = ov.Core().compile_model(path / "openvino_model.xml", "CPU", EXACT).create_infer_request()
    log_probs = [next_token(model, prompt, request["vocab"]) for prompt in request["prompts"]]
    heads = {
        state.name.removeprefix("past_key_values.").partition("present")[0]: state.state.shape[1]
        for state in model.query_state()
    }
    return own | {
        "log_probs": log_probs,
        "greedy": greedy(path, request["prompts"][-1], request["new_tokens"]),
        "cached_heads": [heads[f"{layer}.key"] for layer in range(len(heads) // 2)],
        "cached_values": [heads[f"{layer}.value"] for layer in range(len(heads) // 2)],
    }


def next_token(model: ov.InferRequest, prompt: list, vocab: int) -> list:
    """Log-probabilities of every token."""
    model.reset_state()
    count = len(prompt)
    found = model.infer(
        {
            "input_ids": np.array([prompt], dtype=np.int64),
            "attention_mask": np.ones((1, count), dtype=np.int64),
            "position_ids": np.arange(count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
    )
    logits = found["logits"][0, -1, :vocab].astype(np.float64)
    shifted = logits - logits.max()
    return (shifted - np.log(np.exp(shifted).sum())).tolist()


def greedy(path: Path, prompt: list, tokens: int) -> list:
    """Of GenAI's own loop."""
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = tokens
    config.do_sample = config.apply_chat_template = False
    config.set_eos_token_id(1)  # it has no tokenizer to ask
    ids = np.array([prompt], dtype=np.int64)
    pipeline = openvino_genai.LLMPipeline(path, "CPU", **EXACT)
    asked = openvino_genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
    return list(pipeline.generate(asked, config).tokens[0])


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))
