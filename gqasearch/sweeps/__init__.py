"""Sweeps: Optuna studies whose trials are ordinary runs."""
