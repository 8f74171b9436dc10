"""Modelling files that are copied byte for byte into checkpoints which stock code cannot load.

They run far from here, so each imports nothing but torch and transformers.
"""
