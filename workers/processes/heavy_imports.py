"""Importing torch and transformers in four fifths of the time.

Their modules are a million objects that all stay; Python looks through them for garbage again and again while
there are more of them. Measured: 4.5 instead of 5.6 CPU seconds for what a job imports.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Nothing made in the block is looked through for garbage, then or later."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
