"""Modelling files that a checkpoint brings along: ours, byte for byte, or somebody else's."""

from __future__ import annotations

import shutil
from pathlib import Path

from gqasearch.checkpoints.ragged_encoders import ENCODER_MODULE, ENCODER_NAMES
from gqasearch.errors import UserError
from gqasearch.models import read_config
from gqasearch.targets import LayoutName

REMOTE = Path(__file__).parent / "remote"
MODELING_FILES: dict[LayoutName, str] = {"deci": "modeling_deci.py", "ragged": "modeling_ragged.py"}
# Written architectures whose file is another than their layout's.
OTHER_FILES = dict.fromkeys(("RaggedOPTForCausalLM", "RaggedGPT2ForCausalLM"), "modeling_ragged_learned.py")
OTHER_FILES |= {f"Ragged{name}ForMaskedLM": f"{ENCODER_MODULE}.py" for name in ENCODER_NAMES.values()}
OWN_FILES = frozenset(MODELING_FILES.values()) | frozenset(OTHER_FILES.values())


def modeling_file(layout: LayoutName, architecture: str) -> str | None:
    """The modelling file of a checkpoint of this layout; None where transformers' own code loads it.

    ``architecture``: of the written ``config.json``.
    """
    return OTHER_FILES.get(architecture) or MODELING_FILES.get(layout)


def copy_modeling_file(layout: LayoutName, architecture: str, folder: Path) -> None:
    """Put the modelling file of such a checkpoint into ``folder``; nothing where it needs none."""
    name = modeling_file(layout, architecture)
    if name is not None:
        shutil.copyfile(REMOTE / name, folder / name)


def needs_remote_code(folder: Path) -> bool:
    """Whether transformers has to run code from this checkpoint folder to load it."""
    return any(name.startswith("AutoModel") for name in read_config(folder).get("auto_map") or {})


def code_in(folder: Path) -> dict[str, bool]:
    """Python files of a checkpoint folder, and whether each is the one that this gqasearch writes."""
    ours = {name: (REMOTE / name).read_bytes() for name in OWN_FILES}
    return {path.name: ours.get(path.name) == path.read_bytes() for path in sorted(folder.rglob("*.py"))}


def require_own_code(folder: Path) -> None:
    """Raise ``UserError`` when the checkpoint would run any code but that of this gqasearch."""
    strange = [name for name, is_ours in code_in(folder).items() if not is_ours]
    maps = (read_config(folder).get("auto_map") or {}).values()
    strange += [str(name) for name in maps if f"{str(name).partition('.')[0]}.py" not in OWN_FILES]
    if strange:
        raise UserError(
            f"{folder} holds code that this version of gqasearch did not write ({', '.join(strange)}); it is not run. "
            "Read it and, if you trust it, use gqasearch evaluate FOLDER --trust-remote-code"
        )


def require_trust(folder: Path) -> None:
    """Raise ``UserError``: this checkpoint needs code of its own and nobody has said to run it."""
    words = {True: "the file that gqasearch writes", False: "NOT a file of this gqasearch: read it first"}
    files = [f"{name} ({words[is_ours]})" for name, is_ours in code_in(folder).items()]
    named = ", ".join(files) or "code from elsewhere, named in its config.json"
    raise UserError(f"{folder} is loaded by code of its own: {named}. Give --trust-remote-code to run it")
