"""Whether the engine loads the form that the checkpoint has, and what code it runs for it."""

from __future__ import annotations

from collections.abc import Iterator

from gqasearch.checkpoints.remote_code import needs_remote_code, strange_code
from gqasearch.doctor._base import Finding, Patient
from gqasearch.models.layer_norms import called

STOCK = ("stock-symmetric", "stock-padded")
# Scripts of the repository that convert what an engine's own converter does not know.
BY_HAND = {
    ("onnxruntime-genai", "deci"): "its builder needs a few lines more: tests/clients/onnxruntime_genai/build_deci.py",
    ("openvino-genai", ""): "converted as transformers runs it: tests/clients/openvino_genai/export.py",
}


def layout(patient: Patient) -> Iterator[Finding]:
    """Layout and architecture, as the clients' tests found."""
    name = called(patient.config)
    engine, what = patient.engine, f"{name}, layout {patient.layout}"
    hint = BY_HAND.get((engine.name, patient.layout)) or BY_HAND.get((engine.name, "")) or ""
    if engine.target is None:
        if patient.layout in engine.loads:
            yield Finding("layout", "ok", f"{what}, was found to load" + (f"; {hint}" if hint else ""))
        else:
            yield Finding("layout", "fails", f"{what}: was not made to load; {', '.join(engine.loads)} were")
        return
    why = engine.target.objection(patient.layout, patient.architecture)
    if why is not None:
        yield Finding("layout", "fails", f"{what}: {why}")
    elif patient.layout in STOCK and not engine.target.is_tested(name):
        yield Finding("layout", "warning", f"{what}: not among the architectures that were found to load")
    else:
        yield Finding("layout", "ok", f"{what}, was found to load")


def joined_heads(patient: Patient) -> Iterator[Finding]:
    """Heads of several sizes of the parent's need RoPE factors, which not every engine reads."""
    if patient.joined == 1:
        return
    target = patient.engine.target
    if target is not None and target.cannot_join:
        yield Finding("joined heads", "fails", target.cannot_join)
    elif patient.engine_name == "llama.cpp":
        yield Finding(
            "joined heads",
            "warning",
            "make the GGUF file by gqasearch export-gguf: its converter leaves RoPE's factors out without a word",
        )
    elif target is None:
        yield Finding("joined heads", "warning", "were not tried in this engine")


def remote_code(patient: Patient) -> Iterator[Finding]:
    """A modelling file beside the weights."""
    if not needs_remote_code(patient.folder):
        yield Finding("remote code", "ok", "none is needed")
    elif not patient.engine.runs_code:
        yield Finding("remote code", "ok", "the modelling file is for transformers; this engine does not read it")
    elif strange := strange_code(patient.folder):
        yield Finding(
            "remote code",
            "warning",
            f"not written by this gqasearch: {', '.join(strange)}. Read it, then give {patient.engine.trust}",
        )
    else:
        yield Finding(
            "remote code", "warning", f"gqasearch's own modelling file, byte for byte; give {patient.engine.trust}"
        )
