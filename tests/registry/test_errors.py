"""Every error has a code of its own, and an exit code that scripts can rely on."""

import inspect

from registry import errors
from registry.errors import AdapterNotFound, AliasMoved, Incompatible, InUse, RegistryError

EXIT_CODES = {
    "NotFound": 3,
    "Conflict": 5,
    "InvalidInput": 1,
    "InvalidName": 2,
    "InvalidReference": 2,
    "Incompatible": 4,
    "ArtifactError": 1,
    "ServiceUnreachable": 6,
}


def _classes() -> list[type[RegistryError]]:
    found = (value for _, value in inspect.getmembers(errors, inspect.isclass))
    return [value for value in found if issubclass(value, RegistryError)]


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in _classes()]
    assert len(codes) == len(set(codes))
    assert all(code.startswith("ZOO-E2") for code in codes)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    for error in _classes():
        assert any(
            error.__name__ in line and error.code in line for line in (errors.__doc__ or "").splitlines()
        )


def test_exit_codes_are_those_that_are_documented() -> None:
    assert {name: getattr(errors, name).exit_code for name in EXIT_CODES} == EXIT_CODES


def test_messages_say_what_which_and_what_to_do() -> None:
    assert str(AdapterNotFound("boi", nearest=("bio",))) == (
        "no adapter 'boi'; did you mean bio?; list them with: zoo adapters ls"
    )
    assert "points to version 2, expected nothing" in str(AliasMoved("bio@champion", expected=0, actual=2))
    assert str(InUse("bio@1", users=["science@1"], remedy="remove it")) == (
        "bio@1 is used by science@1; remove it"
    )
    assert str(Incompatible("no:", reasons=["one", "two"])) == "no:\n  one\n  two"
