"""Files are known by their bytes before their names, and the same examples come out of every kind of file."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.containers.container_formats import CONTAINERS, without_ending
from registry.errors import InvalidDataset
from registry.registration.datasets import Reading
from tests.registry import written_files
from tests.registry.written_files import COMPRESSIONS, checked, json_array, json_lines

ROWS = [
    {"prompt": "What is iron's symbol?", "completion": "Fe"},
    {"prompt": 'Say "a, b"\nand ; é | \t😀', "completion": "two\nlines"},
]
ASKED = [(("user", row["prompt"]), ("assistant", row["completion"])) for row in ROWS]


@pytest.mark.parametrize("ending", written_files.CONTAINERS)
def test_every_kind_of_file_holds_the_same_examples(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"x{ending}"
    file.write_bytes(written_files.CONTAINERS[ending](ROWS))
    manifest, examples, _ = checked(file)
    assert [example.messages for example in examples] == ASKED
    (read,) = manifest.reading["files"]
    assert read["taken_for"].endswith("of prompts with their answers")
    assert (read["name"], read["examples"], read["size_bytes"]) == (file.name, 2, file.stat().st_size)


def test_an_arrow_file_is_read_as_a_stream_is(tmp_path: Path) -> None:
    (tmp_path / "x.arrow").write_bytes(written_files.arrow_file(ROWS))
    assert [example.messages for example in checked(tmp_path / "x.arrow")[1]] == ASKED


@pytest.mark.parametrize("packed", COMPRESSIONS)
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_compressed_file_is_known_by_its_bytes(tmp_path: Path, packed: str, ending: str) -> None:
    for name in (f"x{ending}{packed}", f"y{ending}"):
        (tmp_path / name).write_bytes(COMPRESSIONS[packed](written_files.CONTAINERS[ending](ROWS)))
        assert [example.messages for example in checked(tmp_path / name)[1]] == ASKED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str, ending: str) -> None:
    file = tmp_path / f"x{ending}"
    file.write_bytes(written_files.CONTAINERS[ending](ROWS).decode().encode(encoding))
    manifest, examples, _ = checked(file)
    assert [example.messages for example in examples] == ASKED
    assert ("a byte order mark" if encoding == "utf-8-sig" else encoding.upper()) in str(manifest.reading)


@pytest.mark.parametrize("separator", [";", "|", "\t", ","])
def test_the_separator_of_a_table_is_found(tmp_path: Path, separator: str) -> None:
    (tmp_path / "x.csv").write_bytes(written_files.delimited(ROWS, separator))
    assert [example.messages for example in checked(tmp_path / "x.csv")[1]] == ASKED


JSON_TEXTS = {
    "an array": json_array(ROWS),
    "an array on one line": json.dumps(ROWS).encode(),
    "an object that holds a list": json.dumps({"version": 1, "data": ROWS}).encode(),
    "objects over several lines": b"\n".join(json.dumps(row, indent=1).encode() for row in ROWS),
    "objects a line, with blank lines": b"\n\n" + json_lines(ROWS).replace(b"}\n", b"}\n\n  \n"),
    "objects a line, as on Windows": json_lines(ROWS).replace(b"\n", b"\r\n"),
    "objects a line, the last without end": json_lines(ROWS)[:-1],
}


@pytest.mark.parametrize("what", JSON_TEXTS)
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_json_is_known_by_what_it_is_and_not_by_its_name(tmp_path: Path, what: str, ending: str) -> None:
    (tmp_path / f"x{ending}").write_bytes(JSON_TEXTS[what])
    assert [example.messages for example in checked(tmp_path / f"x{ending}")[1]] == ASKED


def test_an_object_that_is_one_example_and_an_array_that_is_one_conversation(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for value in ({"messages": turns}, turns):
        (tmp_path / "x.json").write_text(json.dumps(value, indent=2))
        (example,) = checked(tmp_path / "x.json")[1]
        assert example.messages == (("user", "q"), ("assistant", "a"))


def test_a_text_is_an_example_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("Iron rusts.\n\n  \nGold does not.\r\n")
    assert [example.text for example in checked(tmp_path / "x.txt")[1]] == ["Iron rusts.", "Gold does not."]


BROKEN = {
    "cut off": (".json", json_array(ROWS)[:-20], r"x\.json is not JSON: .* at line \d+, column \d+"),
    "no comma": (
        ".json", json_array(ROWS).replace(b"},", b"}"),
        "expected ',' or ']' after an element at line 6, colu",
    ),
    "more": (".json", b'[{"prompt": "q", "completion": "a"}] x', "something follows the array at line 1"),
    "a key twice": (".json", b'[{"a": 1, "a": 2}]', "the key 'a' is there twice"),
    "gzip cut off": (".jsonl", COMPRESSIONS[".gz"](json_lines(ROWS))[:-9], "cannot be decompressed"),
    "zstd cut off": (".jsonl", COMPRESSIONS[".zst"](json_lines(ROWS))[:-9], "cannot be decompressed"),
    "Parquet": (".parquet", written_files.parquet_table(ROWS)[:-30], "is a damaged Parquet file"),
    "Latin-1": (".csv", "prompt,completion\nq,\xe9\n".encode("latin-1"), "is not UTF-8.*iconv -f WINDOWS"),
    "UTF-16": (".jsonl", json_lines(ROWS).decode().encode("utf-16-le"), "is UTF-16 without a byte ord"),
    "two columns of one name": (".csv", b"prompt,prompt\nq,a\n", "two columns are called 'prompt'"),
    "no names": (".csv", b",\nq,a\n", "has no line of column names"),
    "names alone": (".csv", b"prompt,completion\n", "holds no example"),
    "an empty array": (".json", b"[]", "holds no example"),
    "blank": (".jsonl", b" \n\n", "is empty"),
    "prose": (
        ".md", b"# Examples",
        r"holds no examples in a form that is known: it begins with '# Examples'",
    ),
    "an open quotation": (".csv", b'prompt,completion\nq,"a\n', "line 2: the table cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_by_what_is_broken(tmp_path: Path, what: str) -> None:
    ending, data, said = BROKEN[what]
    (tmp_path / f"x{ending}").write_bytes(data)
    with pytest.raises(InvalidDataset, match=said):
        checked(tmp_path / f"x{ending}")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("bio.train.jsonl", "bio.train"),
        ("bio.train.csv.gz", "bio.train"),
        ("x.PARQUET", "x"),
        ("x.json.zst", "x"),
        ("bio", None),
        ("bio.train", None),
        ("x.gz", None),
    ],
)
def test_endings_are_taken_off_a_name(name: str, stem: str | None) -> None:
    assert without_ending(name) == stem


def test_kinds_of_files_differ_in_their_names() -> None:
    endings = [ending for row in CONTAINERS for ending in row.endings]
    assert len(set(endings)) == len(endings)
    assert len({row.name for row in CONTAINERS}) == len(CONTAINERS)


@settings(max_examples=60, deadline=None, database=None)
@given(
    data=st.binary(max_size=60)
    | st.sampled_from([written_files.CONTAINERS[one](ROWS) for one in written_files.CONTAINERS]).flatmap(
        lambda whole: st.tuples(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=3)).map(
            lambda change: whole[: change[0]] + change[1] + whole[change[0] + 1 :]
        )
    ),
    ending=st.sampled_from([*written_files.CONTAINERS, ".txt", ".jsonl.gz"]),
    skip=st.booleans(),
)
def test_any_bytes_are_taken_or_refused_and_nothing_worse(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str, skip: bool
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / f"x{ending}"
    file.write_bytes(data)
    try:
        manifest, examples, _ = checked(file, Reading(skip_bad_examples=skip))
    except InvalidDataset as refusal:
        refused = str(refusal)
    else:
        refused = str(file)
        assert manifest.examples == len(examples) > 0
    assert str(file) in refused
