"""What a norm over the keys of all heads (OLMo 2) costs a merge, beside a norm of every head and beside none."""
