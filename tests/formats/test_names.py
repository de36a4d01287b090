"""One rule for the names of records and of experts."""

import pytest

from formats.names import is_name
from registry.errors import InvalidName
from registry.references import checked_name
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid


@pytest.mark.parametrize("name", ["a", "0", "bio.v2", "a-b_c.D", "x" * 128])
def test_a_name_is_taken_by_registry_and_engine(name: str) -> None:
    assert is_name(name)
    assert checked_name(name, kind="adapter") == name
    assert XLoraConfig(adapters=(name,)).adapters == (name,)


@pytest.mark.parametrize(
    "name", ["", ".", ".hidden", "-x", "_x", "a/b", "a b", "ü", "a\n", "x" * 129, "...", "a:b", "..\\x"]
)
def test_what_is_no_name_is_refused_by_registry_and_engine(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(InvalidName, match="use letters, digits"):
        checked_name(name, kind="adapter")
    with pytest.raises(ConfigInvalid, match=r"adapters must be a list .* a name of letters, digits"):
        XLoraConfig(adapters=(name,))
