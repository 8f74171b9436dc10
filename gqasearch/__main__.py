"""``python -m gqasearch``."""

from gqasearch.cli import main

main()
