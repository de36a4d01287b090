"""The proof for a GPU runs whole, and says the same rows, where there is none."""

from pathlib import Path

import pytest

from benchmarks.on_gpu.__main__ import main
from benchmarks.on_gpu.parts import PARTS
from benchmarks.on_gpu.rows import Row, table

#: Parity is among the tests anyway; the others start `zoo` two dozen times. All run by hand with:
#: python -m benchmarks.on_gpu --out DIR --device cpu --quick
LEFT_OUT = {"parity", "whole job", "two processes"}


@pytest.mark.processes
def test_the_parts_run_on_the_cpu_and_say_their_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [part for part in PARTS if part not in LEFT_OUT]
    asked = ["--device", "cpu", "--quick", "--seconds", "1500", "--parts", ",".join(run)]
    assert main(["--out", str(tmp_path), *asked]) == 0
    rows = [row for file in tmp_path.glob("*.jsonl") for row in Row.read(file)]
    assert {row.part for row in rows if row.what == "ran" and row.value == 1} == set(run)
    values = {(row.part, row.what): row.value for row in rows}
    assert values["generation", "8B, 3 experts, batch 1: ours, times the base"]
    last = [row for row in rows if row.part == run[-1]][-1]
    assert capsys.readouterr().out.strip().endswith(table([last]).splitlines()[-1])


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
