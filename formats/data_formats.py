"""Every format of training data, in one table: how its files are recognised, and how one is read.

Registering a dataset and training on it read it by the row of this table, so that an example is
checked by one piece of code. A new format is a module beside `chat_examples` and a row here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO

from formats.chat_examples import ChatExample, LineRefusal, read_chat_jsonl


@dataclass(frozen=True, kw_only=True)
class DataFormat:
    """One way to lay training examples out in a file."""

    #: As the registry records it.
    name: str
    #: How the names of its files end.
    ending: str
    #: The examples of an open file of that name, each checked.
    read: Callable[[IO[bytes], str, LineRefusal], Iterator[ChatExample]]


CHAT = DataFormat(name="chat", ending=".jsonl", read=read_chat_jsonl)

FORMATS: Mapping[str, DataFormat] = MappingProxyType({row.name: row for row in (CHAT,)})


#: Endings of the names of files that are recognised by them, for messages.
ENDINGS = ", ".join(row.ending for row in FORMATS.values())


def named_format(file_name: str) -> DataFormat | None:
    """The format that the ending of a file's name tells, if it tells any."""
    return next((row for row in FORMATS.values() if file_name.endswith(row.ending)), None)


def format_of(file_name: str) -> DataFormat:
    """The format of a file by its name; chat JSONL where the name does not tell."""
    return named_format(file_name) or CHAT
