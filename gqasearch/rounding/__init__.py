"""Rounded KV caches, as engines store and read them: named formats and what they take."""

from gqasearch.rounding._base import CacheFormat, Role
from gqasearch.rounding.spelling import FORMATS, KVFormat, make_format, parse_format, parse_formats

__all__ = ["FORMATS", "CacheFormat", "KVFormat", "Role", "make_format", "parse_format", "parse_formats"]
