"""YAML files: values are JSON's, what cannot be meant is refused, and text reads back."""

from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidDataset
from registry.files.yaml_text import read_yaml_object, yaml_text


def read(path: Path) -> dict[str, Any]:
    return read_yaml_object(path, refusal=InvalidDataset)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),
        ("1E5", 100_000.0),
        ("-.5", -0.5),
        ("010", 10),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("no", "no"),
        ("off", "off"),
        (".inf", ".inf"),
        ("2026-11-29", "2026-11-29"),
        ("true", True),
        ("", None),
        ("~", None),
        ('"8"', "8"),
        ("[q_proj, 'v_proj']", ["q_proj", "v_proj"]),
    ],
)
def test_plain_values_are_those_of_json(tmp_path: Path, text: str, value: object) -> None:
    found = read(written(tmp_path, f"field: {text}\n"))["field"]
    assert found == value
    assert type(found) is type(value)


def test_json_is_read_too(tmp_path: Path) -> None:
    assert read(written(tmp_path, '{"name": "bio", "alpha": 1e1}')) == {
        "name": "bio",
        "alpha": 10.0,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' is there twice in line 3, column 1"),
        ("a: {b: 1, b: 2}\n", "the key 'b' is there twice in line 1, column 11"),
        ("a: &x [1]\nb: *x\n", "an anchor is used in line 2, column 4"),
        ("a: !!python/name:os.system x\n", "could not determine a constructor .* in line 1, column 4"),
        ("1: 2\n", "the key 1 is not text in line 1, column 1"),
        ("? [a]\n: 1\n", "the key .* is not text in line 1, column 3"),
        ("a: [\n", "expected the node content, but found '<stream end>' in line 2, column 1"),
        ("a: 1\n---\nb: 2\n", "but found another document in line 2, column 1"),
        ("- a\n", "must hold names with values, as `name: bio`, got"),
        ("", "must hold names with values, as `name: bio`, got None"),
        ("[" * 5000, "is not YAML that can be read"),
        (f"a: {'9' * 5000}\n", "is not YAML that can be read"),
        ("a: \x00\n", "is not YAML that can be read"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidDataset, match=said) as refused:
        read(written(tmp_path, text))
    assert "spec.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_file_other_bytes_and_far_too_many_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"cannot read .*: No such file"):
        read(tmp_path / "none.yaml")
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(InvalidDataset, match=r"is not UTF-8: byte 6; save it as UTF-8"):
        read(path)
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(InvalidDataset, match="is larger than 1,048,576 bytes"):
        read(path)


@pytest.mark.parametrize("description", ["1e5", "no", "null", "a: b", "", "übér\n- x", "2026-11-29", "010"])
def test_what_is_written_reads_back(tmp_path: Path, description: str) -> None:
    fields: dict[str, Any] = {"rate": 1e-05, "description": description, "list": ["a", None, True, 3]}
    assert read(written(tmp_path, yaml_text(fields))) == fields
