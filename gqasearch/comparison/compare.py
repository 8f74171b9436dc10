"""The order of a comparison's steps. Each leaves files, and what is in them is not made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from gqasearch.comparison.comparison_config import ComparisonConfig
from gqasearch.comparison.comparison_folder import ComparisonFolder
from gqasearch.comparison.comparison_report import comparison_data, facts_of, write_facts
from gqasearch.comparison.sample_quality import measure_samples
from gqasearch.comparison.searches import Plan, search_winners
from gqasearch.comparison.work_plan import OneBar, expected_seconds, work_words
from gqasearch.files import write_file
from gqasearch.reporting.comparison import ComparisonData
from gqasearch.reporting.comparison_html import comparison_figures, write_comparison
from gqasearch.reporting.plots import figure_png
from gqasearch.steps import NoProgress, ProcessCache, Progress


def compare(
    config: ComparisonConfig,
    output_dir: Path,
    progress: Progress | None = None,
    tell: Callable[[str], object] = str,
) -> ComparisonData:
    """Both questions, into ``output_dir``; goes on where an interrupted comparison of the same settings stopped.

    ``tell``: is given, before the work, a sentence on everything that will differ from what was asked for, and on how
    much work there is.

    Raises ``UserError`` before long work for settings that do not fit the model, and for a folder that holds others.
    """
    cache, folder = ProcessCache(), ComparisonFolder(output_dir)
    plan = Plan.of(config, cache)
    # Read now for their errors, too, before there is a folder.
    facts = None if folder.report.is_file() else facts_of(config, plan, cache)
    folder.open(config)
    seconds = {} if facts is None else expected_seconds(config, plan, folder, cache)
    for note in (*plan.notes, *(work_words(config, plan, seconds) if seconds else ())):
        tell(note)
    shown = OneBar(progress or NoProgress(), seconds)
    lock = folder.acquire()
    try:
        if facts is not None:
            write_facts(folder, facts)
        search_winners(config, folder, plan, cache, shown)
        if config.sample:
            measure_samples(config, folder, cache, shown)
        data = comparison_data(folder)
        write_all(folder, data)
    finally:
        lock.release()
    return data


def write_all(folder: ComparisonFolder, data: ComparisonData) -> None:
    """Tables as CSV, figures as PNG, and the page."""
    frames = ((folder.ranking, data.ranking), (folder.sample_table, data.sample), (folder.winners, data.winners))
    for path, frame in frames:
        if not frame.empty:
            write_file(path, as_csv(frame), overwrite=True)
    for name, figure in comparison_figures(data).items():
        write_file(folder.path / f"{name}.png", figure_png(figure), overwrite=True)
    write_comparison(folder.report, data)


def as_csv(frame: pd.DataFrame) -> str:
    """Full precision, a header line."""
    return frame.to_csv(index=False, lineterminator="\n")
