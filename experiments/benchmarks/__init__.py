"""Speed, as ratios against a baseline run beside it. ``python -m experiments.benchmarks``."""
