"""Which fitness predicts quality: the comparison of all built-in ones on the embedded model."""
