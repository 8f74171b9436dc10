"""Numbers in tables."""

from __future__ import annotations

import numpy as np


def number_text(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, trailing zeros kept, no exponent between 1e-4 and 1e6."""
    if not np.isfinite(value) or value == 0:
        return f"{value:g}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    if not -5 < exponent < 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"
