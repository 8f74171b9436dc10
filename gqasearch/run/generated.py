"""What ``evaluate --generate`` found of a run, in its folder and on its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gqasearch.files import write_json
from gqasearch.reporting.html import write_report
from gqasearch.run.finished_runs import report_data
from gqasearch.run.heal.heal_folder import is_heal_folder
from gqasearch.run.run_folder import RunFolder


def kept_in_run(path: Path, found: dict[str, Any]) -> Path | None:
    """Keep what ``generate`` found of a finished run in its folder, and make its page again: the page.

    None where ``path`` is no folder of such a run.
    """
    folder = RunFolder(path)
    if is_heal_folder(path) or not (folder.config.is_file() and folder.metrics.is_file()):
        return None
    write_json(folder.generated, found, overwrite=True)
    write_report(folder.report, report_data([folder]))
    return folder.report
