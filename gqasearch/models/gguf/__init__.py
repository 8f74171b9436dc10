"""Models in GGUF files, llama.cpp's: made into checkpoint folders, which all else reads."""

from gqasearch.models.gguf.checkpoint import gguf_folder, write_folder
from gqasearch.models.gguf.file import GgufFile, import_gguf, is_gguf, shape_of

__all__ = ["GgufFile", "gguf_folder", "import_gguf", "is_gguf", "shape_of", "write_folder"]
