"""Tests of ``gqasearch.basis``."""
