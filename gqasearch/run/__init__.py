"""The pipeline: the one place that knows the order of the steps, and what a run's folder holds."""

from gqasearch.run.finished_runs import label_of, report_data
from gqasearch.run.listener import RunListener, RunStart
from gqasearch.run.pipeline import default_output_dir, run
from gqasearch.run.run_folder import RunFolder, without_passwords

__all__ = [
    "RunFolder",
    "RunListener",
    "RunStart",
    "default_output_dir",
    "label_of",
    "report_data",
    "run",
    "without_passwords",
]
