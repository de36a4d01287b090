"""The registry that the environment names, for one command."""

import os

from registry.service import Registry
from registry.settings import Settings


def open_registry() -> Registry:
    """Open it; a context manager, as every registry is."""
    return Registry.open(Settings.from_env(os.environ))
