"""The model card: front matter that parses, figures, the configuration, how to load."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gqasearch.checkpoints import CardFacts, MetricRow, model_card, plan_layout
from gqasearch.checkpoints.card import _number
from gqasearch.grouping_document import (
    CalibrationRecord,
    FitnessRecord,
    GroupingDocument,
    MergeRecord,
    RefinementRecord,
    SearchRecord,
)
from gqasearch.models import load_parent
from tests.checkpoints.convert import PADDED, SYMMETRIC, convert, document_for
from tests.tiny_models import save_checkpoint, tiny_model, tiny_parent

FACTS = CardFacts(
    metrics=(MetricRow("perplexity", 12.5, 13.25), MetricRow("KL to the parent (nats per token)", None, 0.1234567)),
    measured_on="Held-out modules, blocks of 256 tokens.",
    configuration={"kv_ratio": 0.5, "objectives": ["kl"]},
)


def _document() -> GroupingDocument:
    return replace(
        document_for(tiny_parent("llama"), PADDED),
        merge=MergeRecord("optimal"),
        refinement=RefinementRecord("outputs", {"ridge": 0.01}),
        fitness=FitnessRecord("merge-error", 1.9),
        search=SearchRecord("evolution", 0, 12000, {"population": 64}),
        calibration=CalibrationRecord("standard library", 32768, "sha256:0"),
    )


def _card(model_id: str, source: Path, facts: CardFacts = FACTS, revision: str = "") -> tuple[dict[str, Any], str]:
    """Front matter and body."""
    document = _document()
    document = replace(document, model=replace(document.model, id=model_id, revision=revision))
    layout = plan_layout(document.grouping, tiny_parent("llama").geometry)
    text = model_card(document, layout, {"architectures": ["MistralForCausalLM"]}, source, facts)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_front_matter_names_base_model_and_licence_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\nlanguage: en\n---\n# Hello\n"
    )
    front, body = _card("org/some-model", tmp_path, revision="0123abc")
    assert front == {
        "base_model": "org/some-model",
        "license": "other",
        "license_name": "mine",
        "license_link": "LICENSE",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["grouped-query-attention", "gqasearch"],
    }
    assert "[org/some-model](https://huggingface.co/org/some-model)" in body


@pytest.mark.parametrize("readme", [None, "# no front matter\n", "---\n{ broken: [\n---\n", "---\njust text\n---\n"])
def test_source_without_a_licence_gives_none(readme: str | None, tmp_path: Path) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    front, _ = _card("org/some-model", tmp_path)
    assert "license" not in front


def test_folder_is_named_without_its_path_and_is_no_base_model(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    front, body = _card(str(tmp_path / "my-model"), tmp_path / "my-model")
    assert "base_model" not in front
    assert "[my-model] with grouped-query attention" in body
    for path in ("models/mine", "mine", "./models/mine/"):  # given from another working directory
        front, body = _card(path, tmp_path)
        assert "base_model" not in front and "huggingface.co" not in body
        assert "[mine] with grouped-query attention" in body
    front, body = _card("embedded", tmp_path)
    assert "base_model" not in front
    assert "# embedded, 3 KV heads" in body


def test_figures_configuration_and_the_plain_words(tmp_path: Path) -> None:
    _, body = _card("org/some-model", tmp_path)
    assert "| perplexity | 12.5 | 13.25 |" in body
    assert "| KL to the parent (nats per token) |  | 0.12346 |" in body
    assert "Held-out modules, blocks of 256 tokens." in body
    assert "**The model was not fine-tuned after the conversion.**" in body
    assert "6 KV heads per layer became 3" in body
    assert "50.0% of the parent's" in body
    assert 'AutoModelForCausalLM.from_pretrained("' in body
    assert "`MistralForCausalLM`, layout `stock-padded`" in body
    configuration = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert configuration["merge"] == {"name": "optimal", "parameters": {}}
    assert configuration["refinement"] == {"name": "outputs", "parameters": {"ridge": 0.01}}
    assert configuration["search"]["parameters"] == {"population": 64}
    assert configuration["run"] == {"kv_ratio": 0.5, "objectives": ["kl"]}


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    _, body = _card("org/some-model", tmp_path, CardFacts())
    assert "Not measured." in body


def test_card_is_written_with_the_checkpoint(tmp_path: Path) -> None:
    source = save_checkpoint(tiny_model("llama"), tmp_path / "tiny")
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    convert(load_parent(str(source)), source, tmp_path / "out", SYMMETRIC, FACTS)
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\nlicense: mit\n")
    assert "`LlamaForCausalLM`, layout `stock-symmetric`" in text
    assert "| perplexity | 12.5 | 13.25 |" in text


@pytest.mark.parametrize(
    ("value", "words"), [(3049900, "3,049,900"), (576.0, "576"), (0.0505123, "0.050512"), (math.inf, "inf"), (None, "")]
)
def test_counts_are_whole_numbers_and_figures_have_five_digits(value: float | None, words: str) -> None:
    assert _number(value) == words
