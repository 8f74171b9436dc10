"""How close a converted model is to its parent: the table of merges, refinements, splits and searches."""
