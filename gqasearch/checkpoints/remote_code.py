"""Modelling files that a checkpoint brings along: ours, byte for byte, or somebody else's."""

from __future__ import annotations

import shutil
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.models import Config, read_config

REMOTE = Path(__file__).parent / "remote"
MODELING_FILES = sorted(path.name for path in REMOTE.glob("modeling_*.py"))


def modeling_file(config: Config) -> str | None:
    """The file that a ``config.json`` written here names; None for one that needs none."""
    classes = config.get("auto_map")
    return None if classes is None else f"{classes['AutoConfig'].partition('.')[0]}.py"


def copy_modeling_file(config: Config, folder: Path) -> None:
    """Put the modelling file that this ``config.json`` names into ``folder``; nothing where it names none."""
    if (name := modeling_file(config)) is not None:
        shutil.copyfile(REMOTE / name, folder / name)


def needs_remote_code(folder: Path) -> bool:
    """Whether transformers has to run code from this checkpoint folder to load it."""
    return any(name.startswith("AutoModel") for name in read_config(folder).get("auto_map") or {})


def code_in(folder: Path) -> dict[str, bool]:
    """Python files of a checkpoint folder, and whether each is the one that this gqasearch writes."""
    ours = {name: (REMOTE / name).read_bytes() for name in MODELING_FILES}
    return {path.name: ours.get(path.name) == path.read_bytes() for path in sorted(folder.rglob("*.py"))}


def strange_code(folder: Path) -> list[str]:
    """Files and classes of a checkpoint folder that are not of this gqasearch."""
    strange = [name for name, is_ours in code_in(folder).items() if not is_ours]
    maps = (read_config(folder).get("auto_map") or {}).values()
    return strange + [str(name) for name in maps if f"{str(name).partition('.')[0]}.py" not in MODELING_FILES]


def require_own_code(folder: Path) -> None:
    """Raise ``UserError`` when the checkpoint would run any code but that of this gqasearch."""
    if strange := strange_code(folder):
        raise UserError(
            f"{folder} holds code that this version of gqasearch did not write ({', '.join(strange)}); it is not run. "
            "Read it and, if you trust it, use gqasearch evaluate FOLDER --trust-remote-code"
        )


def runs_own_code(folder: Path) -> bool:
    """Whether transformers has to run code from this folder; raises ``UserError`` where that is not ours."""
    needed = needs_remote_code(folder)
    if needed:
        require_own_code(folder)
    return needed


def require_trust(folder: Path) -> None:
    """Raise ``UserError``: this checkpoint needs code of its own and nobody has said to run it."""
    words = {True: "the file that gqasearch writes", False: "NOT a file of this gqasearch: read it first"}
    files = [f"{name} ({words[is_ours]})" for name, is_ours in code_in(folder).items()]
    named = ", ".join(files) or "code from elsewhere, named in its config.json"
    raise UserError(f"{folder} is loaded by code of its own: {named}. Give --trust-remote-code to run it")
