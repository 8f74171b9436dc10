"""The Python API: objects in, objects out. ``import gqasearch as gqs`` gives all of these, and what they take.

import gqasearch as gqs

parent = gqs.load("path/to/llama", text="wiki.txt")
result = gqs.search(parent, kv_ratio=0.5)
result.save("converted")
"""

from gqasearch.api.head_similarity import similarity
from gqasearch.api.neighbour_grouping import neighbours
from gqasearch.api.one_search import search
from gqasearch.api.parent_with_text import ParentWithText, load
from gqasearch.api.result import SearchResult
from gqasearch.api.tied_parent import converted

__all__ = ["ParentWithText", "SearchResult", "converted", "load", "neighbours", "search", "similarity"]
