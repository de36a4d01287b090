"""Bad examples are named together, or left out and counted; a folder is one dataset; one form is stored."""

from pathlib import Path

import pytest

from registry.errors import InvalidDataset, InvalidField
from registry.registration.datasets import Reading
from tests.registry.written_files import checked, delimited, json_array, json_lines

GOOD = {"prompt": "q", "completion": "a"}
SKIP = Reading(skip_bad_examples=True)
CHAT = b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}\n'


def test_all_bad_examples_are_named_together(tmp_path: Path) -> None:
    rows: list[object] = [GOOD, GOOD | {"completion": ""}, GOOD, {"prompt": 3}, GOOD]
    (tmp_path / "x.jsonl").write_bytes(json_lines(rows) + b"{'prompt': 1}\n")
    with pytest.raises(
        InvalidDataset, match=r"^3 of 6 examples cannot be taken; .* --skip-bad-examples"
    ) as caught:
        checked(tmp_path / "x.jsonl")
    assert caught.value.line == 2
    for said in (
        "line 2: expected a text as 'completion'",
        "line 4: examples with 'prompt'",
        "line 6: it is not JSON",
    ):
        assert f"{tmp_path / 'x.jsonl'}, {said}" in str(caught.value)


def test_a_thousand_bad_examples_are_counted_and_twenty_shown(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(delimited([GOOD, *[GOOD | {"completion": ""}] * 1000]))
    with pytest.raises(InvalidDataset, match=r"1,000 of 1,001 examples .*") as caught:
        checked(tmp_path / "x.csv")
    assert str(caught.value).count("\n") == 21
    assert str(caught.value).endswith("and 980 more")


def test_bad_examples_are_left_out_on_request_and_counted(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(json_array([GOOD, {"prompt": "q"}, GOOD | {"completion": "b"}, 3]))
    manifest, examples, _ = checked(tmp_path / "x.json", SKIP)
    assert manifest.examples == len(examples) == 2
    assert manifest.reading["left_out"] == 2
    assert manifest.warnings[0].startswith(
        "2 of 4 examples were left out, for they cannot be taken: example 2 (line"
    )


def test_a_row_with_too_many_cells_is_bad(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"prompt,completion\nq,a\nq,a,b\n")
    with pytest.raises(InvalidDataset, match="line 3: expected 2 columns, as in the first line, got 3"):
        checked(tmp_path / "x.csv")


def test_none_but_bad_examples_are_refused_even_on_request(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(json_lines([GOOD | {"completion": ""}] * 2))
    with pytest.raises(InvalidDataset, match="2 of 2 examples cannot be taken"):
        checked(tmp_path / "x.jsonl", SKIP)


@pytest.mark.parametrize(
    "data", [CHAT, CHAT * 2, CHAT[:-1], CHAT.replace(b"\n", b"\r\n"), CHAT.replace(b":", b": ")]
)
def test_chat_jsonl_is_stored_byte_for_byte(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)
    manifest, _, stored = checked(tmp_path / "x.jsonl")
    assert (stored, dict(manifest.reading)) == (data, {})


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + CHAT, b"\n" + CHAT, CHAT + b"\n\n", json_array([GOOD])])
def test_all_else_is_stored_in_one_form(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)
    manifest, _, stored = checked(tmp_path / "x.jsonl")
    assert stored == CHAT
    assert manifest.reading["files"][0]["digest"].startswith("sha256:")


def test_a_folder_is_one_dataset_of_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "bio"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "2.jsonl").write_bytes(json_lines([GOOD | {"completion": "2"}]))
    (folder / "data" / "1.csv").write_bytes(delimited([GOOD | {"completion": "1"}]))
    (folder / "README.md").write_text("# bio")
    (folder / "dataset_info.json").write_text("{}")
    (folder / ".cache").mkdir()
    manifest, examples, _ = checked(folder)
    assert [example.messages[1][1] for example in examples] == ["1", "2"]
    assert [file["name"] for file in manifest.reading["files"]] == ["1.csv", "2.jsonl"]


def test_a_folder_of_several_splits_asks_which(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        (tmp_path / f"{name}.jsonl").write_bytes(json_lines([GOOD]))
    with pytest.raises(InvalidDataset, match=r"holds the splits test, train; .* --files '\*train\*'"):
        checked(tmp_path)
    assert checked(tmp_path, Reading(files="*train*"))[0].examples == 2
    with pytest.raises(InvalidDataset, match=r"no file of .* matches 'dev'; there are: test-"):
        checked(tmp_path, Reading(files="dev"))


def test_a_folder_without_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"holds no file of examples; names end in .parquet"):
        checked(tmp_path)


def test_a_pattern_is_for_folders(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(CHAT)
    with pytest.raises(InvalidField, match="files must be left out"):
        checked(tmp_path / "x.jsonl", Reading(files="*"))
