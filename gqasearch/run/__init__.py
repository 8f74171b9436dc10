"""The pipeline: the one place that knows the order of the steps."""

from gqasearch.config import RunConfig, apply_settings, build_config, read_config_file
from gqasearch.run.convert import materialize
from gqasearch.run.folder import RunFolder, without_passwords
from gqasearch.run.kept import Kept
from gqasearch.run.listener import RunListener, RunStart
from gqasearch.run.pipeline import default_output_dir, run
from gqasearch.run.results import label_of, report_data
from gqasearch.run.told import NoProgress, Progress
from gqasearch.run.workspace import Workspace

__all__ = [
    "Kept",
    "NoProgress",
    "Progress",
    "RunConfig",
    "RunFolder",
    "RunListener",
    "RunStart",
    "Workspace",
    "apply_settings",
    "build_config",
    "default_output_dir",
    "label_of",
    "materialize",
    "read_config_file",
    "report_data",
    "run",
    "without_passwords",
]
