"""Healing measured: what a short fine-tune recovers, and from which start."""
