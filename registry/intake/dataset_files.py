"""A dataset file, read example by example without a tokenizer: how many there are, and of which domains."""

import hashlib
import re
from dataclasses import dataclass
from typing import IO

from formats.chat_examples import ChatExample
from formats.data_formats import DataFormat, named_format
from registry.errors import InvalidDataset

_STEM = re.compile(r"(?P<domain>[A-Za-z0-9][A-Za-z0-9._-]*)\.(?P<split>train|eval)")


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """What a dataset file holds."""

    examples: int
    #: Values of the examples' `domain`, sorted.
    domains: tuple[str, ...]
    warnings: tuple[str, ...]


def inspect_dataset(source: IO[bytes], *, file: str, layout: DataFormat) -> DatasetManifest:
    """Check every example of an open file, in one pass and without holding it in memory.

    Raises:
        InvalidDataset: the file is empty, or an example is refused: then the error names `file` and carries
            the line's number, from 1.
    """
    count, repeated = 0, 0
    seen: set[bytes] = set()
    domains: set[str] = set()
    for example in layout.read(source, file, _refused):
        count += 1
        if example.domain is not None:
            domains.add(example.domain)
        fingerprint = _fingerprint(example)
        repeated += fingerprint in seen
        seen.add(fingerprint)
    return DatasetManifest(
        examples=count,
        domains=tuple(sorted(domains)),
        warnings=(f"{repeated} of {count} examples repeat an earlier one",) if repeated else (),
    )


def parse_file_name(name: str) -> tuple[str | None, str | None]:
    """Domain and split of a file called like `bio.train.jsonl`; None, None for another."""
    layout = named_format(name)
    match = _STEM.fullmatch(name.removesuffix(layout.ending)) if layout else None
    return (match["domain"], match["split"]) if match else (None, None)


def _refused(message: str, line: int | None) -> InvalidDataset:
    return InvalidDataset(message, line=line)


def _fingerprint(example: ChatExample) -> bytes:
    return hashlib.blake2b(repr((example.messages, example.domain)).encode(), digest_size=16).digest()
