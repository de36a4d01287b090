"""What commands print: one set of data, four ways to see it."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import click
import pytest
from click.testing import CliRunner, Result

from registry.commands.output import Output, output_options

ROWS = [
    {"id": 1, "reference": "bio@1", "size_bytes": 2_340_000, "domains": ["biology"], "score": 0.78512},
    {"id": 2, "reference": "protein@2", "size_bytes": 512, "domains": [], "score": None},
]


def _emit(output: Output) -> None:
    output.emit(ROWS, key="reference", columns=("reference", "size_bytes", "score"), empty="nothing here")


def _run(body: Callable[[Output], None], *arguments: str) -> Result:
    @click.command()
    @output_options
    def command(output: Output) -> None:
        body(output)

    return CliRunner().invoke(command, arguments)


def test_a_pipe_gets_aligned_columns_chosen_for_people() -> None:
    assert _run(_emit).stdout.splitlines() == [
        "reference  size_bytes  score",
        "bio@1      2.3 MB      0.7851",
        "protein@2  512 B",
    ]


def test_json_has_every_field_at_full_length() -> None:
    assert json.loads(_run(_emit, "--json").stdout) == ROWS


def test_quiet_prints_ids_alone() -> None:
    assert _run(_emit, "-q").stdout == "bio@1\nprotein@2\n"


@pytest.mark.parametrize("arguments", [("--json", "-q"), ("-q", "--json")])
def test_two_formats_at_once_are_a_usage_error(arguments: tuple[str, ...]) -> None:
    refused = _run(_emit, *arguments)
    assert refused.exit_code == 2
    assert "--json and -q exclude each other" in refused.stderr


def test_nothing_found_is_a_hint_for_people_and_an_empty_array_for_scripts() -> None:
    def emit_nothing(output: Output) -> None:
        output.emit([], key="reference", empty="no adapters; train one")

    assert (_run(emit_nothing).stdout, _run(emit_nothing).stderr) == ("", "no adapters; train one\n")
    assert (_run(emit_nothing, "--json").stdout, _run(emit_nothing, "--json").stderr) == ("[]\n", "")
    assert _run(emit_nothing, "-q").output == ""


def test_a_record_is_a_field_a_line() -> None:
    shown = _run(lambda output: output.emit_record({"reference": "bio@1", "rank": 8, "licence": None}))
    assert shown.stdout.splitlines() == ["reference  bio@1", "rank       8", "licence"]


@pytest.fixture
def two_hours_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A reader whose clock is two hours ahead of UTC."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "XXX-2")
        time.tzset()
        yield
    time.tzset()


def test_a_mapping_is_read_and_not_parsed_by_people() -> None:
    def emit_scores(output: Output) -> None:
        output.emit_record({"scores": {"loss": 6.122989535331726, "exact_match": 0.0, "note": None}})

    assert _run(emit_scores).stdout == "scores  loss 6.123, exact_match 0, note\n"
    assert json.loads(_run(emit_scores, "--json").stdout)["scores"]["loss"] == 6.122989535331726


@pytest.mark.usefixtures("two_hours_east")
def test_times_are_the_readers_own_and_short_for_people_and_exact_for_scripts() -> None:
    def emit_time(output: Output) -> None:
        output.emit_record({"created_at": datetime(2026, 11, 24, 13, 5, 7, tzinfo=UTC)})

    assert _run(emit_time).stdout == "created_at  2026-11-24 15:05\n"
    assert json.loads(_run(emit_time, "--json").stdout) == {"created_at": "2026-11-24T13:05:07+00:00"}


def test_sections_and_hints_are_for_people_only() -> None:
    def emit_parts(output: Output) -> None:
        output.section("files", [{"path": "a"}])
        output.section("evaluations", [])
        output.hint("by the way")

    assert _run(emit_parts).stdout == "\nfiles\npath\na\n"
    assert _run(emit_parts).stderr == "by the way\n"
    assert _run(emit_parts, "--json").output == ""


@pytest.mark.parametrize("width", [80, 40])
def test_a_narrow_terminal_shows_references_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    reference = "biology-protein-folding-2026-v2@1"
    others = {name: f"a rather long {name} [x]" for name in ("base", "licence", "domains")}
    Output().table([{"reference": reference, **others}])
    assert reference in capsys.readouterr().out
