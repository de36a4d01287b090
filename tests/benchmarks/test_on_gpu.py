"""The proof for a GPU runs whole, and says the same rows, where there is none."""

from pathlib import Path

import pytest

from benchmarks.on_gpu.__main__ import main
from benchmarks.on_gpu.parts import PARTS
from benchmarks.on_gpu.rows import Row, table


@pytest.mark.processes
def test_every_part_runs_on_the_cpu_and_says_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), "--device", "cpu", "--quick", "--seconds", "1500"]) == 0
    rows = [row for file in tmp_path.glob("*.jsonl") for row in Row.read(file)]
    assert {row.part for row in rows} == set(PARTS)
    ran = {row.part: row for row in rows if row.what == "ran"}
    assert {part for part, row in ran.items() if row.value == 1} == set(PARTS), ran
    values = {(row.part, row.what): row.value for row in rows}
    assert values["generation", "8B, 3 experts, batch 1: ours, times the base"]
    assert values["whole job", "generated"] == 1
    printed = capsys.readouterr().out
    assert printed.strip().endswith(table([rows_of_last_part(rows)]).splitlines()[-1])


def rows_of_last_part(rows: list[Row]) -> Row:
    return [row for row in rows if row.part == list(PARTS)[-1]][-1]


def test_a_part_that_fails_or_has_no_time_is_a_row_that_misses_its_bar(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--device", "cpu", "--parts", "training", "--seconds", "1"]) == 1
    (row,) = Row.read(tmp_path / "training.jsonl")
    assert (row.what, row.met, row.note) == ("ran", "no", "no time was left")


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row(part="p", what="w", value=1.2, at_most=1.25), "yes"),
        (Row(part="p", what="w", value=1.3, at_most=1.25), "no"),
        (Row(part="p", what="w", value=2.0, at_least=3), "no"),
        (Row(part="p", what="w", value=None, at_least=3), "no"),
        (Row(part="p", what="w", value=None), ""),
    ],
)
def test_a_bar_is_met_by_a_value_within_it(row: Row, met: str) -> None:
    assert row.met == met
    assert f"| {met} |" in table([row])
