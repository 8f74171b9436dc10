"""The documentation site: the pages of this folder and the reference of the Python API (`make docs`)."""

from gqasearch import __version__

project = "gqasearch"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["smartquotes"]
myst_heading_anchors = 3  # so that [a heading](page.md#heading) is a link
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "gqasearch"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
# Docstrings have ``code`` and formulas, and end parameters' lines in ways that are no markup.
suppress_warnings = ["myst.xref_missing"]
