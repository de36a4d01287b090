"""Files that are no safetensors, whatever they are called: pickles above all, which no parser here opens."""

import shlex
from pathlib import Path

from registry.errors import InvalidAdapter, PickleRefused
from registry.files.stand_ins import START_BYTES, stand_in

#: Beginnings of what `torch.save` writes: a zip, or a bare pickle of protocol 2 to 5.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def pickle_refusal(path: Path) -> PickleRefused:
    """The refusal of weights that are a pickle, with the way to convert them."""
    return PickleRefused(
        f"{path} is a pickle or may hold one, and loading a pickle can run code. {_conversion(path.parent)}"
    )


def refuse_other_content(copy: Path, *, called: Path) -> None:
    """Refuse the copy of a weights file that is something else by its first bytes.

    Raises:
        InvalidAdapter: it is a Git LFS pointer, a web page, or empty.
        PickleRefused: it is a pickle under another name.
    """
    with copy.open("rb") as file:
        start = file.read(START_BYTES)
    refuse_stand_in(start, called=called)
    if is_pickle(start):
        raise PickleRefused(
            f"{called} is a pickle under another name, and loading a pickle can run code."
            f" {_conversion(called.parent)}"
        )


def refuse_stand_in(start: bytes, *, called: Path) -> None:
    """Refuse what lies in place of a file that was not fetched; raises InvalidAdapter."""
    instead = stand_in(start[:START_BYTES], called=called)
    if instead is not None:
        raise InvalidAdapter(instead)


def is_pickle(start: bytes) -> bool:
    """Whether a file with this start is a pickle, or a zip that may hold one."""
    # A safetensors file has a small number and a brace here.
    return start.startswith(_PICKLE_STARTS) and start[8:9] != b"{"


def _conversion(folder: Path) -> str:
    return (
        f"Convert it: zoo convert {shlex.quote(str(folder))} NEW-FOLDER, which reads its tensors and nothing"
        " else, in a process without network; then register the new folder"
    )
