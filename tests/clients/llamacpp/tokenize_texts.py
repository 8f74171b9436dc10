"""Run in llama.cpp's environment: what GGUF files' tokenizers make of texts."""

import json
import sys
import urllib.request
from pathlib import Path

from run import load


def tokens(server: object, text: str) -> list:
    body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
    asked = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)["tokens"]


def answer(request: dict) -> list:
    server = load(request["model"], 64, exact=True)
    found = [tokens(server, text) for text in request["texts"]]
    # Asked before it goes: a server that is ended while it starts may wait for ever.
    server.handle_completions({"prompt": [1, 2], "n_predict": 1})
    return found


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))
