"""What KV heads of several heads' size are worth; see ``__main__``."""
