"""The model card (``README.md``) of a converted checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gqasearch.checkpoints.layout import Layout
from gqasearch.checkpoints.remote_code import modeling_file
from gqasearch.grouping_document import GroupingDocument, ModelRecord
from gqasearch.models import Config, Objective, objective_of
from gqasearch.models.loading import auto_class, reads_images

# What the hub says that a model is for, by what it predicts.
PIPELINES: dict[Objective, str] = {
    "next-token": "text-generation",
    "masked": "fill-mask",
    "hidden-states": "feature-extraction",
}
LICENCE_FIELDS = ("license", "license_name", "license_link")

NOT_HEALED = "**The model was not fine-tuned after the conversion.**"

CARD = """\
---
{front}---

# {title}

[{parent}]{link} with grouped-query attention: {before} KV heads per layer became {after}, so {memory}
{ratio:.1%} of the parent's. Which heads share was searched for by
gqasearch {version}; `grouping.json` has the groups of every layer.

The weights were computed from the parent's. {training}

## Before and after

{metrics}

## How to load

```python
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("PATH_TO_THIS_FOLDER"{trust})
tokenizer = AutoTokenizer.from_pretrained("PATH_TO_THIS_FOLDER"{trust})
```

{code} The architecture is `{architecture}`, layout `{layout}`. {reason}

## Configuration

```yaml
{configuration}```
"""


STOCK_CODE = "No code of gqasearch is needed."
OWN_CODE = """\
transformers runs `{file}` of this folder to load the model, hence `trust_remote_code=True`; it is plain Python, imports
torch and transformers alone, and can be read before. gqasearch need not be installed."""


JOINED_NOTE = """\
RoPE has every frequency of the parent several times, side by side, which `config.json` says as longrope. llama.cpp's
converter leaves the factors out and says nothing: use `gqasearch export-gguf`."""


BASIS_NOTE = """\
Keys and values are in the basis in which a cache in the format `{}` loses least. In full precision that changes
nothing."""


IMAGES_NOTE = """\
Grouped is the text model, fitted and measured on text alone; what reads images is the parent's, byte for byte. What the
conversion does to answers about images was not measured."""


@dataclass(frozen=True)
class MetricRow:
    """One line of the before/after table; None where it was not measured."""

    name: str
    parent: float | None
    converted: float | None


@dataclass(frozen=True)
class CardFacts:
    """What the writer cannot know: measurements, how they were made, the run's configuration, and what it decided."""

    metrics: tuple[MetricRow, ...] = ()
    measured_on: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    decided: str | None = None


def model_card(document: GroupingDocument, layout: Layout, config: Config, source_dir: Path, facts: CardFacts) -> str:
    """Markdown with YAML front matter: base model, licence (from the source's card), figures, configuration.

    ``config``: the ``config.json`` that was written.
    """
    parent, on_hub = _parent(document.model)
    front: dict[str, Any] = {"base_model": parent} if on_hub else {}
    front |= _licence(source_dir)
    objective = objective_of(config)
    file, joined = modeling_file(config), document.join
    front |= {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text" if reads_images(config) else PIPELINES[objective],
        "tags": ["grouped-query-attention", "gqasearch"],
    }
    return CARD.format(
        front=_yaml(front),
        title=f"{parent.rpartition('/')[2]}, {layout.kv_heads_words} KV heads",
        parent=parent,
        link=f"(https://huggingface.co/{parent})" if on_hub else "",
        before=document.model.num_key_value_heads,
        after=layout.kv_heads_words + (f" of {joined} times the size" if joined > 1 else ""),
        memory="the KV cache takes" if objective == "next-token" else "the keys and values that it computes take",
        auto=auto_class(config).__name__,
        ratio=document.kv_ratio,
        version=document.created_by.get("gqasearch", ""),
        metrics=_table(facts),
        training=NOT_HEALED,
        trust=", trust_remote_code=True" if file else "",
        code=OWN_CODE.format(file=file) if file else STOCK_CODE,
        architecture=config["architectures"][0],
        layout=layout.name,
        reason="\n\n".join([layout.reason, *_notes(document, config), *_sentences(facts.decided)]),
        configuration=_yaml(_configuration(document, facts)),
    )


def _notes(document: GroupingDocument, config: Config) -> list[str]:
    """What to know of what was converted, a paragraph each."""
    basis = [] if document.kv_bits is None else [BASIS_NOTE.format(document.kv_bits)]
    images = [IMAGES_NOTE] if reads_images(config) else []
    return [*([JOINED_NOTE] if document.join > 1 else []), *basis, *images]


def _sentences(words: str | None) -> list[str]:
    """What is told elsewhere in small letters, as a paragraph."""
    return [f"{words[0].upper()}{words[1:].rstrip('.')}."] if words else []


def healed_card(card: str, words: str, facts: CardFacts | None = None) -> str:
    """``card``, the start's, for the checkpoint that it was trained to: ``words`` say how.

    ``facts``: new figures and the settings of the training; the start's figures stay where there are none.
    """
    front, found, rest = card.partition("## Before and after\n")
    told = NOT_HEALED in front
    front = front.replace(NOT_HEALED, words) if told else f"{front.rstrip()} {words}\n\n"
    card = front + found + rest
    if facts is None:
        return card
    head, _, rest = card.partition("## Before and after\n")
    _, found, tail = rest.partition("## How to load\n")
    if not found:
        return card
    settings = f"\n## Healing\n\n```yaml\n{_yaml(facts.configuration)}```\n"
    return f"{head}## Before and after\n\n{_table(facts)}\n\n## How to load\n{tail}{settings}"


def _parent(model: ModelRecord) -> tuple[str, bool]:
    """The parent's public name, and whether it is a hub id: what came from there has a revision.

    A folder, whether it is here or not, is named without its path.
    """
    on_hub = bool(model.revision)
    return (model.id if on_hub else Path(model.id).name), on_hub


def _licence(source_dir: Path) -> dict[str, Any]:
    """The licence fields in the front matter of the source's card, if it has any that can be read."""
    try:
        text = (source_dir / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if not text.startswith("---\n"):
        return {}
    try:
        front = yaml.safe_load(text[4:].partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    return {name: front[name] for name in LICENCE_FIELDS if name in front} if isinstance(front, dict) else {}


def _table(facts: CardFacts) -> str:
    if not facts.metrics:
        return "Not measured."
    lines = ["| | parent | this model |", "|---|---|---|"]
    lines += [f"| {row.name} | {_number(row.parent)} | {_number(row.converted)} |" for row in facts.metrics]
    return "\n".join(lines) + (f"\n\n{facts.measured_on}" if facts.measured_on else "")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1000 else f"{value:.5g}"


def _configuration(document: GroupingDocument, facts: CardFacts) -> dict[str, Any]:
    """How the grouping was found, as in ``grouping.json``, then the run's own configuration."""
    names = ("model", "merge", "refinement", "fitness", "search", "calibration")
    parts = {name: getattr(document, name) for name in names}
    found = {name: asdict(part) for name, part in parts.items() if part is not None}
    return found | ({"run": dict(facts.configuration)} if facts.configuration else {})


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
