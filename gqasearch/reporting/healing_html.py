"""Healing runs as one self-contained page. Opens offline, runs no script."""

from __future__ import annotations

from pathlib import Path

from gqasearch.files import write_file
from gqasearch.reporting.healing import HealingData
from gqasearch.reporting.healing_tables import figures_table, headlines, history_csv, tokens_table
from gqasearch.reporting.html import data_uri, load_template, vector
from gqasearch.reporting.plots.healing_curves import healing_figure


def render_healing(data: HealingData) -> str:
    """The page as text. Every string of ``data`` is escaped."""
    return load_template("healing.html.j2").render(
        data=data,
        headlines=headlines(data),
        figures=figures_table(data),
        tokens=tokens_table(data),
        curves=vector(healing_figure(data), "KL to the parent and perplexity against tokens, one line per start"),
        several=len(data.starts) > 1,
        seeds=max(len(runs) for runs in data.starts.values()),
        csv_uri=data_uri("text/csv", history_csv(data).encode()),
    )


def write_healing(path: Path, data: HealingData) -> None:
    """Write the page to ``path``, whole or not at all."""
    write_file(path, render_healing(data), overwrite=True)
