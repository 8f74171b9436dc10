"""What belongs beside the weights of a checkpoint: which files are asked of the hub, and which a converted one gets."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

# Asked of the hub, weights and configuration included. Names, since a repository may hold gigabytes of anything else.
WANTED_FILES = [
    "*.safetensors",
    "*.json",
    "tokenizer*",
    "*.tokenizer",
    "*.txt",
    "*.model",
    "*.codes",
    "*.spm",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*",
    "LICENSE*",
    "NOTICE*",
    "README.md",
]

# Never taken along from a folder: weights in any form, code, what a conversion writes itself, what no model needs.
# A sub-folder with one of these is the model in another form, and is left as a whole.
_WEIGHTS = (
    *("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "*.ckpt*", "*.pkl", "*.pickle", "*.joblib", "*.dill"),
    *("*.h5", "*.hdf5", "*.keras", "*.msgpack", "*.ot", "*.pb", "*.tflite", "*.onnx*", "*.gguf", "*.ggml", "*.ggjt"),
    *("*.npz", "*.npy", "*.nemo", "*.mlmodel", "*.mlpackage", "*.xml", "*.engine", "*.plan", "*.llamafile", "*.task"),
    *("*.distcp", "*.tar*", "*.tgz", "*.zip", "*.7z", "*.zst", "*.gz"),
)
_CODE = ("*.py", "*.py[cdo]", "*.so", "*.dll", "*.dylib", "*.ipynb", "*.sh", "*.js", "*.exe")
# What a conversion and a healing write themselves.
_OWN = ("config.json", "README.md", "grouping.json", "healing.json")
# What a tokenizer is made of, whatever its class calls it.
_TOKENIZER = ("tokenizer*", "vocab*", "merges*", "*.model", "*.codes", "*.spm", "*.tokenizer", "*.tiktoken", "dict.txt")
# Names that transformers asks for; where one is a link it is followed, as every file of the hub's cache is a link.
_NAMED = (
    *_TOKENIZER,
    *("special_tokens_map.json", "added_tokens.json", "chat_template*", "generation_config.json", "LICENSE*"),
    *("NOTICE*", "*.jinja"),
)


def companions(folder: Path) -> Iterator[Path]:
    """Paths in ``folder``, relative to it, of what a converted checkpoint gets: all that is no weights and no code.

    Without hidden files, and without links that lead out of the folder under names that nobody asks for.
    """
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file():
            if not _matches(path, _WEIGHTS + _CODE + _OWN) and (_matches(path, _NAMED) or _stays_in(path, folder)):
                yield path.relative_to(folder)
        elif path.is_dir() and not path.is_symlink():
            yield from (file.relative_to(folder) for file in _of_subfolder(path, folder))


def written_beside(folder: Path) -> Iterator[Path]:
    """Paths in the folder of a converted checkpoint, relative to it, of what is neither weights nor a companion."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and (path.name in _OWN or path.suffix == ".py"):
            yield path.relative_to(folder)


def has_tokenizer(folder: Path) -> bool:
    """Whether any file of a tokenizer lies there; without one, transformers may make one that knows no word."""
    return any(_matches(path, _TOKENIZER) for path in folder.iterdir() if path.is_file())


def _of_subfolder(path: Path, folder: Path) -> list[Path]:
    """Its files, none where one of them is weights or code."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if any(_matches(file, _WEIGHTS + _CODE) for file in files):
        return []
    visible = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    return [file for file in visible if _matches(file, _NAMED) or _stays_in(file, folder)]


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path.name.lower(), pattern.lower()) for pattern in patterns)


def _stays_in(path: Path, folder: Path) -> bool:
    """Whether a file is what it seems, or a link to another of the folder, or to the store of the hub's cache."""
    real, home = path.resolve(), folder.resolve()
    store = home.parent.parent / "blobs"
    return real.is_relative_to(home) or (home.parent.name == "snapshots" and real.is_relative_to(store))
