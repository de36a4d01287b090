"""The spool returns what was written, in order, even after its writer was killed."""

import math
import re
from pathlib import Path

import pytest

from workers.tracking.spool import (
    Run,
    Shipment,
    flatten,
    is_open,
    is_pending,
    keep_shipped,
    read_lines,
    shipped,
    tracking_name,
)

STORE = "sqlite:///mlflow.db"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def _actions(folder: Path, *, offset: int = 0) -> list[str]:
    return [str(line.record.get("action")) for line in read_lines(folder, offset=offset)]


def test_what_is_reported_comes_back_in_order(run: Run, tmp_path: Path) -> None:
    run.begin(experiment="zoo/train", name="bio", parameters={"rank": 8}, tags={"zoo.job": 1})
    run.metrics({"train/loss": 1.5}, step=3)
    run.tags({"zoo.run.train.bio": "abc"})
    run.end("FINISHED")
    records = [line.record for line in read_lines(tmp_path, offset=0)]
    assert [record["action"] for record in records] == ["spool", "begin", "metrics", "tags", "end"]
    assert records[1]["parameters"] == {"rank": "8"}
    assert (records[2]["step"], records[2]["values"]) == (3, {"train/loss": 1.5})
    assert records[3]["values"] == {"zoo.run.train.bio": "abc"}


def test_reading_goes_on_where_it_ended(run: Run, tmp_path: Path) -> None:
    run.metrics({"loss": 1.0}, step=1)
    *_, last = read_lines(tmp_path, offset=0)
    run.metrics({"loss": 0.5}, step=2)
    assert [line.record["step"] for line in read_lines(tmp_path, offset=last.end_offset)] == [2]


def test_a_half_written_line_spoils_nothing_that_follows(run: Run, tmp_path: Path) -> None:
    lines = tmp_path / "tracking" / "spool.jsonl"
    with lines.open("ab") as stream:
        stream.write(b'{"action": "metr')
    assert _actions(tmp_path) == ["spool"]
    again = Run(tmp_path)
    again.end("FINISHED")
    assert _actions(tmp_path) == ["spool", "None", "end"]


def test_a_second_attempt_keeps_the_spools_id(run: Run, tmp_path: Path) -> None:
    Run(tmp_path).end("FINISHED")
    assert _actions(tmp_path) == ["spool", "end"]


def test_an_artifact_is_kept_as_it_was(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "load.png"
    picture.write_bytes(b"first")
    run.artifact(picture, folder="figures")
    picture.write_bytes(b"second")
    *_, line = read_lines(tmp_path, offset=0)
    assert (tmp_path / "tracking" / line.record["path"]).read_bytes() == b"first"


def test_names_and_values_are_brought_within_mlflows_limits(run: Run, tmp_path: Path) -> None:
    run.metrics({"eval/bio loss": math.nan}, step=0)
    run.tags({"zoo.subject": "x" * 10_000})
    *_, metrics, tags = (line.record for line in read_lines(tmp_path, offset=0))
    assert list(metrics["values"]) == ["eval/bio loss"]
    assert math.isnan(metrics["values"]["eval/bio loss"])
    assert len(tags["values"]["zoo.subject"]) == 8000


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("../x/loss", r"_-[0-9a-f]{6}/x/loss"),
        ("a//b", r"a/_-[0-9a-f]{6}/b"),
        ("/a", r"_-[0-9a-f]{6}/a"),
        ("a/./b/", r"a/_-[0-9a-f]{6}/b/_-[0-9a-f]{6}"),
        ("..a", r"__a-[0-9a-f]{6}"),
        (".", r"_-[0-9a-f]{6}"),
        ("adapter:bio@2/law/loss", r"adapter:bio_2/law/loss"),
    ],
)
def test_a_name_like_a_path_becomes_one_that_mlflow_takes(name: str, taken: str) -> None:
    found = tracking_name(name)
    assert re.fullmatch(taken, found)
    assert tracking_name(found) == found


def test_domains_that_differ_in_signs_alone_keep_their_own_values(run: Run, tmp_path: Path) -> None:
    run.metrics({"adapter:bio@1/C#/loss": 1.0, "adapter:bio@1/C+/loss": 2.0, "adapter:bio@1/C_/loss": 3.0})
    *_, line = read_lines(tmp_path, offset=0)
    assert sorted(line.record["values"].values()) == [1.0, 2.0, 3.0]
    assert len(flatten({"datasets": {"C#": "one", "C+": "two"}})) == 2


def test_long_names_with_the_same_beginning_stay_distinct(run: Run, tmp_path: Path) -> None:
    run.metrics({"x" * 260 + "/loss": 1.0, "x" * 260 + "/exact_match": 2.0})
    *_, line = read_lines(tmp_path, offset=0)
    assert sorted(line.record["values"].values()) == [1.0, 2.0]
    assert max(map(len, line.record["values"])) == 250


def test_a_run_is_open_until_its_end_is_written(run: Run, tmp_path: Path) -> None:
    assert is_open(tmp_path)
    run.end("FINISHED")
    assert not is_open(tmp_path)
    run.begin(experiment="zoo/train", name="bio", parameters={}, tags={})
    assert is_open(tmp_path)


def test_nested_parameters_become_dotted_names() -> None:
    flat = flatten({"head": {"top_k_lora": 2, "empty": {}}, "domains": ["bio", "law"], "note": "x" * 7000})
    assert flat["head.top_k_lora"] == "2"
    assert "head.empty" not in flat
    assert flat["domains"] == "bio, law"
    assert len(flat["note"]) == 6000
    assert flat["note"].endswith("…")


def test_what_was_shipped_is_remembered_per_store(run: Run, tmp_path: Path) -> None:
    assert is_pending(tmp_path, store=STORE)
    end_offset = (tmp_path / "tracking" / "spool.jsonl").stat().st_size
    keep_shipped(tmp_path, Shipment(store=STORE, run_id="abc", offset=end_offset))
    assert not is_pending(tmp_path, store=STORE)
    assert shipped(tmp_path, store=STORE).run_id == "abc"
    assert is_pending(tmp_path, store="http://elsewhere")
    assert shipped(tmp_path, store="http://elsewhere") == Shipment(store="http://elsewhere")


def test_a_folder_that_measured_nothing_is_not_pending(tmp_path: Path) -> None:
    assert not is_pending(tmp_path, store=STORE)
    assert _actions(tmp_path) == []
