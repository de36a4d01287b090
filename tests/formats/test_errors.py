"""One error for a field outside its allowed values; every package gives it its own root and code."""

import pytest

from formats.errors import InvalidField
from registry.errors import InvalidField as InvalidRecordField
from registry.errors import RegistryError
from workers.errors import SpecInvalid, WorkersError
from xlora_engine.errors import ConfigInvalid, EngineError

CLASSES = (
    (InvalidRecordField, RegistryError, "ZOO-E234"),
    (ConfigInvalid, EngineError, "ZOO-E301"),
    (SpecInvalid, WorkersError, "ZOO-E401"),
)


@pytest.mark.parametrize(("error", "root", "code"), CLASSES)
def test_every_package_has_the_same_message(
    error: type[InvalidField], root: type[Exception], code: str
) -> None:
    refused = error("top_k", "at least 1", 0)
    assert str(refused) == "top_k must be at least 1, got 0"
    assert isinstance(refused, root)
    assert (refused.code, refused.exit_code) == (code, 2)
    assert (refused.field, refused.allowed, refused.value) == ("top_k", "at least 1", 0)


@pytest.mark.parametrize("error", [row[0] for row in CLASSES])
def test_a_field_is_called_as_its_user_calls_it(error: type[InvalidField]) -> None:
    renamed = error("top_k", "at least 1", 0).renamed("--top-k")
    assert type(renamed) is error
    assert str(renamed) == "--top-k must be at least 1, got 0"
    assert renamed.field == "--top-k"
