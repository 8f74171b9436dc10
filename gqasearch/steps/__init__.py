"""What is done with a model, whoever asks for it (Python, a command, a sweep): it is searched, converted, measured.

Every step works in a ``Workspace`` and writes nothing but what it is told to. The order of the steps of a run, and what
lies in its folder, are ``gqasearch.run``'s.
"""

from gqasearch.steps.convert import materialize
from gqasearch.steps.objects import Objects
from gqasearch.steps.process_cache import ProcessCache
from gqasearch.steps.progress import NoProgress, Progress
from gqasearch.steps.workspace import Workspace

__all__ = ["NoProgress", "Objects", "ProcessCache", "Progress", "Workspace", "materialize"]
