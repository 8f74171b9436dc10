"""What would go wrong with a checkpoint in an engine, before a GPU is paid for.

Reads ``config.json`` and the names of files; loads no weights and runs nothing. What is known of an engine was run in
``tests/clients`` or read in the version that ``gqasearch.doctor.engines`` names.
"""

from gqasearch.doctor._base import Finding, Patient, Severity
from gqasearch.doctor.engines import ENGINES, EngineName
from gqasearch.doctor.examination import examine

__all__ = ["ENGINES", "EngineName", "Finding", "Patient", "Severity", "examine"]
