"""Scripts that produced what the project ships and reports; each can be rerun."""
