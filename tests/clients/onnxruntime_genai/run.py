"""Run in ONNX Runtime GenAI's environment: its model builder, then log-probabilities and greedy tokens."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_genai as og


def answer(request: dict) -> dict:
    target = request["target"]
    build(request["model"], target, request["layout"])
    model = og.Model(target)
    log_probs = []
    for prompt in request["prompts"]:
        generator = start(model, prompt, 1)
        logits = np.array(generator.get_output("logits"))[0, -1, : request["vocab"]].astype(np.float64)
        shifted = logits - logits.max()
        log_probs.append((shifted - np.log(np.exp(shifted).sum())).tolist())
    generator = start(model, request["prompts"][-1], request["new_tokens"])
    greedy = []
    while len(greedy) < request["new_tokens"]:
        generator.generate_next_token()
        greedy.append(int(generator.get_next_tokens()[0]))
    graph = onnx.load(Path(target) / "model.onnx", load_external_data=False).graph
    past = {tensor.name: tensor for tensor in graph.input if "past_key_values" in tensor.name}
    heads = {name: tensor.type.tensor_type.shape.dim[1].dim_value for name, tensor in past.items()}
    return {
        "version": version("onnxruntime-genai"),
        "log_probs": log_probs,
        "greedy": greedy,
        "cached_heads": [heads[f"past_key_values.{layer}.key"] for layer in range(len(past) // 2)],
    }


def build(model: str, target: str, layout: str) -> None:
    """By the builder as it is; of layers that differ, which it cannot say, by a few lines more."""
    if layout == "deci":
        command = [Path(__file__).parent / "build_deci.py", model, target, f"{target}-cache"]
    else:
        command = ["-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
        command += ["-i", model, "-o", target, "-c", f"{target}-cache"]
    subprocess.run([sys.executable, *command], check=True)


def start(model: og.Model, prompt: list, tokens: int) -> og.Generator:
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=len(prompt) + tokens + 1)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    return generator


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))
