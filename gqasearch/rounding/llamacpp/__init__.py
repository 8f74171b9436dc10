"""The quantised caches of llama.cpp, ``--cache-type-k`` and ``--cache-type-v``."""

from gqasearch.rounding.llamacpp._base import BLOCK, BlockFormat
from gqasearch.rounding.llamacpp.asymmetric import Q4_1, Q5_1
from gqasearch.rounding.llamacpp.iq4_nl import IQ4NL
from gqasearch.rounding.llamacpp.q8_0 import Q8_0
from gqasearch.rounding.llamacpp.symmetric import Q4_0, Q5_0

__all__ = ["BLOCK", "IQ4NL", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BlockFormat"]
