"""The Python API: objects in, objects out. ``import gqasearch as gqs`` gives all of these, and what they take.

import gqasearch as gqs

parent = gqs.load("path/to/llama", text="wiki.txt")
result = gqs.search(parent, kv_ratio=0.5)
result.save("converted")
"""

from gqasearch.api.conversion import converted
from gqasearch.api.groupings import neighbours
from gqasearch.api.one_search import search
from gqasearch.api.parent import ParentWithText, load
from gqasearch.api.result import SearchResult

__all__ = ["ParentWithText", "SearchResult", "converted", "load", "neighbours", "search"]
