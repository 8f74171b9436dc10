"""The evaluation that papers on smaller KV caches share, on a model that they report: see ``command``."""
