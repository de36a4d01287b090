"""A dataset file, read line by line without a tokenizer: chat JSONL, every row checked.

A row is `{"messages": [{"role": …, "content": …}, …], "domain": …}`: a system message if need be, then user
and assistant in turn, the last the answer to learn. `domain` may be left out; other fields are not read.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from formats.strict_json import parse_object, shown
from registry.errors import InvalidDataset
from registry.files.regular_files import open_regular

LINE_LIMIT_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_DOMAIN_LIMIT = 128
_FILE_NAME = re.compile(r"(?P<domain>[A-Za-z0-9][A-Za-z0-9._-]*)\.(?P<split>train|eval)\.jsonl")
_MESSAGE_FIELDS = {"role", "content"}


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """What a dataset file holds."""

    rows: int
    #: Of the file's bytes.
    digest: str
    size_bytes: int
    #: Values of the rows' `domain`, sorted.
    domains: tuple[str, ...]
    warnings: tuple[str, ...]


def read_chat_jsonl(path: Path) -> DatasetManifest:
    """Check every row of a chat JSONL file, in one pass and without holding it in memory.

    Raises:
        InvalidDataset: the file is empty or no regular file, or a line is no chat that ends with an answer:
            then the error names the file and carries the line's number, from 1.
    """
    sha256, size_bytes, rows, repeated = hashlib.sha256(), 0, 0, 0
    seen: set[bytes] = set()
    domains: set[str] = set()
    for line in _lines(path):
        sha256.update(line)
        size_bytes += len(line)
        rows += 1
        domain = _checked(line, number=rows, path=path)
        if domain is not None:
            domains.add(domain)
        fingerprint = hashlib.blake2b(line.strip(), digest_size=16).digest()
        repeated += fingerprint in seen
        seen.add(fingerprint)
    if not rows:
        raise InvalidDataset(f"{path} is empty; a dataset has at least one row")
    return DatasetManifest(
        rows=rows,
        digest=f"sha256:{sha256.hexdigest()}",
        size_bytes=size_bytes,
        domains=tuple(sorted(domains)),
        warnings=(f"{repeated} of {rows} rows repeat an earlier one",) if repeated else (),
    )


def check_row(line: bytes, *, number: int) -> str | None:
    """Check the line of this number; its domain, if it states one.

    Raises:
        InvalidDataset: naming what was expected and what is there.
    """
    refusal = partial(InvalidDataset, line=number)
    if not line.strip():
        raise refusal(f"line {number}: expected a JSON object, got a blank line; remove it")
    row = parse_object(line.rstrip(b"\r\n"), what=f"line {number}", refusal=refusal)
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refusal(f"line {number}: expected a list of messages under 'messages', got {shown(messages)}")
    _check_turns(messages, number=number)
    domain = row.get("domain")
    if domain is not None and not _is_label(domain):
        raise refusal(f"line {number}: expected a short text as 'domain', got {shown(domain)}")
    return domain


def parse_file_name(name: str) -> tuple[str | None, str | None]:
    """Domain and split of a file called like `bio.train.jsonl`; None, None for another."""
    match = _FILE_NAME.fullmatch(name)
    return (match["domain"], match["split"]) if match else (None, None)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their ends; one that is too long is refused before it is held whole."""
    held, number = b"", 0
    with open_regular(path, refusal=InvalidDataset) as file:
        while chunk := file.read(_CHUNK_BYTES):
            *lines, held = (held + chunk).split(b"\n")
            for line in lines:
                yield line + b"\n"
            number += len(lines)
            if len(held) > LINE_LIMIT_BYTES:
                raise InvalidDataset(
                    f"{path}, line {number + 1}: expected at most {LINE_LIMIT_BYTES:,} bytes;"
                    " is this a JSONL file?",
                    line=number + 1,
                )
    if held:
        yield held


def _checked(line: bytes, *, number: int, path: Path) -> str | None:
    try:
        return check_row(line, number=number)
    except InvalidDataset as error:
        raise InvalidDataset(f"{path}, {error}", line=error.line) from error


def _check_turns(messages: list[Any], *, number: int) -> None:
    for place, message in enumerate(messages, 1):
        if not isinstance(message, dict) or set(message) != _MESSAGE_FIELDS:
            raise _refused(number, place, "an object with just 'role' and 'content'", message)
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise _refused(number, place, "a text as 'content', not blank", message["content"])
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    first = len(messages) - len(turns) + 1
    for place, (message, role) in enumerate(zip(turns, cycle(("user", "assistant")), strict=False), first):
        if message["role"] != role:
            raise _refused(number, place, f"role {role!r}", message["role"])
    if messages[-1]["role"] != "assistant":
        raise _refused(number, len(messages), "an answer: role 'assistant'", messages[-1])


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _DOMAIN_LIMIT and value.isprintable()


def _refused(number: int, place: int, expected: str, got: Any) -> InvalidDataset:
    return InvalidDataset(
        f"line {number}, message {place}: expected {expected}, got {shown(got)}", line=number
    )
