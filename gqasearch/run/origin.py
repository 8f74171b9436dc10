"""What a run folder, a checkpoint or a grouping says of where it came from: the parent, the texts, the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gqasearch.config import RunConfig, build_config, read_config_file
from gqasearch.errors import UserError
from gqasearch.grouping_document import CalibrationRecord, GroupingDocument, read_grouping
from gqasearch.models import ModelSource, read_config, resolve_model
from gqasearch.models.gguf import gguf_folder, is_gguf
from gqasearch.run.heal.heal_folder import HealFolder, is_heal_folder
from gqasearch.run.run_folder import RunFolder
from gqasearch.sections import (
    BatchSettings,
    JoinSettings,
    MachineSettings,
    ModelSettings,
    StatisticsTextSettings,
)

GROUPING, MODEL = "grouping.json", "model"
# Settings of a run that everything made of it later goes by, too.
KEPT = {
    *(ModelSettings.model_fields | JoinSettings.model_fields | StatisticsTextSettings.model_fields),
    *(MachineSettings.model_fields | BatchSettings.model_fields),
    *("evaluation_text", "evaluation_tokens", "seed", "layout", "target"),
}
MEASURED = KEPT - {"join", "calibration_tokens", "layout", "target"}
SHARED = {"evaluation_tokens", "block_length", "device"}  # of searching and healing, under one name
FITTED = KEPT - {"evaluation_text", "evaluation_tokens"}


@dataclass(frozen=True)
class Origin:
    """``settings``: fields of ``RunConfig``, as far as ``told_by`` says them; ``document``: the grouping, if known."""

    told_by: Path
    settings: Mapping[str, Any]
    document: GroupingDocument | None


def origin_of(path: Path) -> Origin | None:
    """Of a run folder or a folder of a healing run, of the ``model`` or the ``grouping.json`` in one, or of any
    checkpoint or grouping that names its model; None where nothing does, and of a GGUF file.

    Raises ``UserError`` for a damaged ``config.yaml`` or ``grouping.json``.
    """
    path = path.absolute()
    if path.is_file() and is_gguf(path):
        return None
    file = grouping_file(path) if (path / GROUPING).is_file() or path.is_file() else path / MODEL / GROUPING
    document = read_grouping(file) if file.is_file() else None
    for folder in (path, path.parent) if path.name in (MODEL, GROUPING) else (path,):
        settings = _settings(folder)
        if settings is not None:
            return Origin(folder / "config.yaml", _pinned(settings, document), document)
    if document is None:
        return None
    model = document.model
    named = {"model": model.id, "revision": model.revision or None, "join": document.join}  # "" of what is on no hub
    return Origin(file, named, document)


def _pinned(settings: dict[str, Any], document: GroupingDocument | None) -> dict[str, Any]:
    """The same with the hub revision that was found at the time, where the settings named none."""
    if document is None or document.model.id != settings["model"]:
        return settings
    return {**settings, "revision": settings["revision"] or document.model.revision or None}


def _settings(folder: Path) -> dict[str, Any] | None:
    """Of the run or healing run in ``folder``; None where it is neither's."""
    file = folder / "config.yaml"
    if not file.is_file():
        return None
    if is_heal_folder(folder):
        healed = HealFolder(folder).settings()
        same = ("revision", "evaluation_text", "evaluation_tokens", "block_length", "device", "seed")
        return {
            "model": healed.parent,
            "calibration_text": healed.text,
            **{name: getattr(healed, name) for name in same},
        }
    if not read_config_file(file).keys() >= {"model", "merge", "calibration_text"}:
        return None  # some other program's
    run = RunFolder(folder).read_config()
    return {name: getattr(run, name) for name in KEPT}


def grouping_file(path: Path) -> Path:
    """The grouping that is named by itself or by its folder; raises ``UserError`` for a folder that has none."""
    if not path.is_dir():
        return path
    if not (path / GROUPING).is_file():
        raise UserError(f"{path} has no {GROUPING}; give a run folder whose search is done, or a {GROUPING}")
    return path / GROUPING


def checkpoint_folder(path: Path) -> Path:
    """The checkpoint that a folder is, that its run wrote, or that a GGUF file holds.

    Raises ``UserError`` where there is none.
    """
    if path.is_file() and is_gguf(path):
        return gguf_folder(path)
    if (path / MODEL).is_dir():
        return path / MODEL
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint folder")
    if not (path / "config.json").is_file() and (path / "config.yaml").is_file():
        raise UserError(
            f"{path} has no {MODEL}/: its run is not done, or wrote no checkpoint (gqasearch materialize writes one)"
        )
    read_config(path)  # for its errors, which say what other folders are
    return path


def evaluation_config(checkpoint: Path, given: Mapping[str, Any]) -> RunConfig:
    """How to measure a checkpoint: ``given`` settings, and for those that are None what its origin says.

    Reports on the held-out part, whatever its run was compared on. Raises ``UserError`` where no parent is named, or
    where the one that the origin names is not here or not the one that the checkpoint was made from.
    """
    named = {name: value for name, value in given.items() if value is not None}
    origin = origin_of(checkpoint)
    settings = _own(origin, MEASURED)
    if "calibration_text" in named:
        settings.pop("evaluation_text", None)
    if "model" not in named:
        _check_parent(checkpoint, origin)
    elif "revision" not in named:
        settings.pop("revision", None)
    return build_config({**settings, **named})


def materialize_config(grouping: Path, given: Mapping[str, Any]) -> RunConfig:
    """How to convert: ``given`` settings, and for those that are None what the grouping's origin says."""
    named = {name: value for name, value in given.items() if value is not None}
    origin = origin_of(grouping)
    settings = _own(origin, FITTED)
    searched_on = origin.document.calibration if origin is not None and origin.document is not None else None
    if searched_on is not None:
        settings.setdefault("calibration_tokens", searched_on.tokens)
    if "model" not in named and origin is not None:
        _source(grouping, origin, "--model")
    elif "revision" not in named:
        settings.pop("revision", None)
    return build_config({**settings, **named})


def healing_settings(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ``HealConfig`` for this start: those that are ``given``, and what its origin says.

    Raises ``UserError`` as ``evaluation_config`` does.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        checkpoint_folder(path)  # for its errors
    start = path if path.is_dir() else resolve_model(model).directory
    origin = origin_of(start)
    own = _own(origin, {"model", "revision", "calibration_text", "evaluation_text", *SHARED})
    names = {"model": "parent", "calibration_text": "text"}
    settings = {names.get(name, name): value for name, value in own.items()}
    if "text" in given:
        settings.pop("evaluation_text", None)
    if ":" in settings.get("device", ""):  # one of several GPUs, which training is told in another way
        del settings["device"]
    if "parent" not in given:
        _source(start, origin, "--parent")  # its weights are held against the grouping when healing begins
    elif "revision" not in given:
        settings.pop("revision", None)
    return {**settings, "model": model, **given}


def _own(origin: Origin | None, names: set[str]) -> dict[str, Any]:
    return {} if origin is None else {name: value for name, value in origin.settings.items() if name in names}


def _check_parent(checkpoint: Path, origin: Origin | None) -> None:
    """Raise ``UserError`` unless the parent that the origin names is here, and is the one of the checkpoint."""
    source = _source(checkpoint, origin, "--parent")
    document = None if origin is None else origin.document
    if origin is not None and document is not None and document.model.fingerprint not in ("", source.fingerprint):
        raise UserError(
            f"{origin.told_by} names {origin.settings['model']}, but the weights there are not those that {checkpoint} "
            "was made from; give --parent"
        )


def _source(made: Path, origin: Origin | None, flag: str) -> ModelSource:
    """The model that ``made`` was made from; raises ``UserError`` that asks for ``flag`` where it cannot be had."""
    if origin is None:
        raise UserError(f"{made} does not say which model it was made from; give {flag}")
    model = origin.settings["model"]
    try:
        return resolve_model(model, origin.settings.get("revision"))
    except UserError as error:
        raise UserError(f"{origin.told_by} names {model}, which cannot be had here; give {flag} ({error})") from None


def with_text_used(
    document: GroupingDocument, used: CalibrationRecord, *, block_length: int, knowingly: bool
) -> tuple[GroupingDocument, str | None]:
    """The document with the text that its merge is fitted on, and a warning where that is not the one it was searched
    with.

    ``knowingly``: the user chose another. Raises ``UserError`` where none was chosen.
    """
    recorded = document.calibration
    if recorded is None or recorded.fingerprint == used.fingerprint:
        return replace(document, calibration=used), None
    what = (
        f"fitted on other text than the grouping was searched with: on {used.text}, {used.tokens:,} tokens "
        f"in blocks of {block_length}, not on {recorded.text}, {recorded.tokens:,} tokens"
    )
    if not knowingly:
        raise UserError(
            f"the checkpoint would be {what}. Give that text with --calibration-text, --calibration-tokens and "
            "--block-length as in the search, or --any-text to take this one"
        )
    return replace(document, calibration=used), f"the checkpoint is {what}"
