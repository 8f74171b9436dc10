"""Converted checkpoints in engines that we did not write, each installed by make into an environment of its own."""
