"""Which architectures of llama.cpp's are read."""

from __future__ import annotations

from gqasearch.errors import UserError
from gqasearch.models.gguf.architecture import Architecture
from gqasearch.models.gguf.file import GgufFile
from gqasearch.models.gguf.gemma import Gemma, Gemma2, Gemma3
from gqasearch.models.gguf.gpt import GPT2, CommandR, Falcon, GPTNeoX, StableLm, Starcoder2
from gqasearch.models.gguf.llama import Granite, Llama, Olmo, SmolLM3
from gqasearch.models.gguf.phi import Phi2, Phi3
from gqasearch.models.gguf.qwen import Qwen2, Qwen3

ARCHITECTURES: dict[str, Architecture] = {
    one.name: one
    for one in (
        *(Llama(), Qwen2(), Qwen3(), Gemma(), Gemma2(), Gemma3(), Phi2(), Phi3(), Granite(), SmolLM3(), Olmo()),
        *(GPT2(), GPTNeoX(), Falcon(), Starcoder2(), StableLm(), CommandR()),
    )
}


def architecture_of_file(file: GgufFile) -> Architecture:
    """Raises ``UserError`` that lists what is read where the file's architecture is another."""
    name = file.value("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UserError(
            f"{file.path} is of llama.cpp's architecture {name!r}, which is not read; read are "
            f"{', '.join(sorted(ARCHITECTURES))}"
        )
    return ARCHITECTURES[name]
