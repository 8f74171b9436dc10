"""Libraries kept quiet: in this process, and in every worker that would say the same again."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_libraries(verbose: int = 0) -> None:
    """Silence progress bars and advice of transformers and the hub; ``verbose`` of 2 or more lets them speak."""
    if verbose >= 2:
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module="transformers")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Within the block transformers shows no progress bars; after it all is as before."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the hub's word on bars that the environment has switched off
                transformers_logging.enable_progress_bar()
