"""What a file's name says may be done with it."""

import pytest

from registry.files.file_kinds import FileKind, kind_of_name


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (FileKind.PICKLE, ["adapter_model.bin", "optimizer.pt", "X.PTH", "a.ckpt", "a.b.pkl", ".bin"]),
        (FileKind.CODE, ["modeling_x.py", "x.so", "setup.PY", "run.sh"]),
        (FileKind.BYSTANDER, ["tokenizer.json", "vocab.txt", "merges.txt", ".gitattributes"]),
        (FileKind.TEXT, ["README.md", "readme.md", "LICENSE", "LICENCE.txt", "NOTICE", "notes.txt"]),
        (FileKind.UNKNOWN, ["x.safetensors", "x.gguf", "x.tar.gz", "x.zip", "noending", "README.md.exe", ""]),
        (FileKind.UNKNOWN, ["a b.txt", "../x.txt", "a/b.txt", "a\\b.txt", "é.txt", "x\n.txt", "-.txt"]),
    ],
)  # fmt: skip
def test_a_name_has_a_kind(kind: FileKind, names: list[str]) -> None:
    assert {name: kind_of_name(name) for name in names} == dict.fromkeys(names, kind)


@pytest.mark.parametrize("name", ["checkpoint-100", ".git", "x.bin", "README.md"])
def test_a_folder_is_never_looked_into(name: str) -> None:
    assert kind_of_name(name, is_folder=True) is FileKind.BYSTANDER
