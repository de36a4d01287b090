"""Imported objects are never collected; later ones are."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from workers.processes.heavy_imports import heavy_imports


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_made_in_the_block_stays_and_what_comes_after_is_collected() -> None:
    frozen = gc.get_freeze_count()
    with heavy_imports():
        assert not gc.isenabled()
        made = weakref.ref(_Cycle())
    assert gc.isenabled()
    later = weakref.ref(_Cycle())
    gc.collect()
    assert gc.get_freeze_count() > frozen
    assert made() is not None
    assert later() is None


def test_collection_is_left_off_where_it_was() -> None:
    gc.disable()
    try:
        with heavy_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_collection_goes_on_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), heavy_imports():
        raise ImportError("torch")
    assert gc.isenabled()
