"""What fewer heads and fewer bits are worth, alone and together; see ``__main__``."""
