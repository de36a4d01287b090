"""Numbers on the command line that the database, or a clock, could not hold."""

import pytest

from tests.command_line import Ask

TOO_LARGE = str(10**20)


@pytest.mark.parametrize(
    "arguments",
    [
        ("adapters", "ls", "--limit", TOO_LARGE),
        ("bases", "ls", "--limit", TOO_LARGE),
        ("compositions", "ls", "--limit", TOO_LARGE),
        ("datasets", "ls", "--limit", TOO_LARGE),
        ("jobs", "ls", "--limit", TOO_LARGE),
        ("jobs", "logs", "1", "--tail", TOO_LARGE),
        ("adapters", "alias", "bio", "champion", TOO_LARGE),
        ("adapters", "alias", "bio", "champion", "1", "--expect", TOO_LARGE),
    ],
    ids=" ".join,
)
def test_a_number_beyond_the_database_s_integers_is_refused(arguments: tuple[str, ...], ask: Ask) -> None:
    answer = ask(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert f"{TOO_LARGE} is not in the range" in answer.err


@pytest.mark.parametrize("seconds", ["nan", "inf"])
@pytest.mark.parametrize("arguments", [("jobs", "wait", "1"), ("runs", "ship")], ids=" ".join)
def test_a_time_that_never_ends_is_refused(arguments: tuple[str, ...], seconds: str, ask: Ask) -> None:
    answer = ask(*arguments, "--timeout", seconds)
    assert answer.code == 2
    assert f"{seconds} is not a finite number" in answer.err
