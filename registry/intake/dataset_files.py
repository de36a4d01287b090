"""Files of examples, read without a tokenizer: what they hold, and their examples in the form that is stored.

What is stored is chat JSONL, whatever was given: a job reads one form with one parser, needs no library for
another, and reads the same tomorrow, when more is recognised. Chat JSONL that needs no conversion is stored
byte for byte. The record keeps names and digests of the files that were given and what they were taken for.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from formats.chat_examples import ChatExample, read_chat_jsonl
from registry.containers.container_formats import without_ending
from registry.errors import InvalidDataset
from registry.example_shapes.example_conversion import SHOWN_FAULTS, Conversion

_STEM = re.compile(r"(?P<domain>[A-Za-z0-9][A-Za-z0-9._-]*)\.(?P<split>train|eval)")
_NOT_IN_PATHS = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """What a dataset file holds."""

    examples: int
    #: Values of the examples' `domain`, sorted.
    domains: tuple[str, ...]
    warnings: tuple[str, ...]
    #: What was given and what it was taken for; empty where it is stored as it was given.
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def taken_for(self) -> tuple[str, ...]:
        """What each file was taken for, and what there is to say of them, in sentences."""
        files = self.reading.get("files", ())
        return (
            *(f"{file['name']} was taken for {file['taken_for']}" for file in files),
            *(self.warnings if files else ()),
        )


def inspect_dataset(source: IO[bytes], *, file: str) -> DatasetManifest:
    """Check every example of an open file of chat JSONL, in one pass and without holding it in memory.

    Raises:
        InvalidDataset: the file is empty, or an example is refused: then the error names `file` and carries
            the line's number, from 1.
    """
    counts = _Counts()
    for _ in counts.over(read_chat_jsonl(source, file, _refused)):
        pass
    return counts.manifest()


def write_examples(
    conversions: Sequence[Conversion], target: IO[bytes], *, skip_bad: bool, name: str
) -> DatasetManifest:
    """Write the examples of some files in the form that is stored.

    Raises:
        InvalidDataset: an example cannot be taken; all of them are named together, unless `skip_bad` leaves
            them out; or none is left.
    """
    counts = _Counts()
    for conversion in conversions:
        for example in counts.over(conversion.run()):
            target.write(example.as_line())
    left_out = sum(conversion.fault_count for conversion in conversions)
    if left_out and not (skip_bad and counts.examples):
        raise _bad_examples(conversions, left_out, counts.examples)
    if not counts.examples:
        raise InvalidDataset(f"{name} holds no example; a dataset has at least one")
    reading = _reading(conversions) | ({"left_out": left_out} if left_out else {})
    warnings = (_left_out(conversions, left_out, counts.examples),) if left_out else ()
    return counts.manifest(reading=reading, before=warnings)


def parse_file_name(name: str) -> tuple[str | None, str | None]:
    """Domain and split of a file called like `bio.train.jsonl`; None, None for another."""
    match = _STEM.fullmatch(without_ending(name) or "")
    return (match["domain"], match["split"]) if match else (None, None)


def dataset_name(file_name: str) -> str:
    """What a dataset is called by its file or folder: the name without its endings."""
    return without_ending(file_name) or file_name


def stored_name(file_name: str, ending: str) -> str:
    """What the stored file is called."""
    return (_NOT_IN_PATHS.sub("_", dataset_name(file_name)).strip("._-") or "examples") + ending


@dataclass(kw_only=True)
class _Counts:
    """What is counted of examples that pass."""

    examples: int = 0
    repeated: int = 0
    domains: set[str] = field(default_factory=set)
    _seen: set[bytes] = field(default_factory=set)

    def over(self, examples: Iterable[ChatExample]) -> Iterator[ChatExample]:
        """The same examples, counted."""
        for example in examples:
            self.examples += 1
            if example.domain is not None:
                self.domains.add(example.domain)
            fingerprint = _fingerprint(example)
            self.repeated += fingerprint in self._seen
            self._seen.add(fingerprint)
            yield example

    def manifest(
        self, *, reading: Mapping[str, Any] | None = None, before: tuple[str, ...] = ()
    ) -> DatasetManifest:
        """What they hold."""
        repeats = f"{self.repeated} of {self.examples} examples repeat an earlier one"
        return DatasetManifest(
            examples=self.examples,
            domains=tuple(sorted(self.domains)),
            warnings=(*before, *((repeats,) if self.repeated else ())),
            reading=reading or {},
        )


def _reading(conversions: Sequence[Conversion]) -> dict[str, Any]:
    """What was given, as the record keeps it; digests are added by whoever copied the files."""
    mapping = conversions[0].mapping
    return {
        "files": [
            {"name": one.source.name, "taken_for": one.taken_for, "examples": one.examples}
            for one in conversions
        ],
        **({} if mapping is None else {"map": dict(mapping)}),
    }


def _bad_examples(conversions: Sequence[Conversion], count: int, good: int) -> InvalidDataset:
    named = [(one.source.name, fault) for one in conversions for fault in one.faults]
    first = named[0][1].line if named else None
    if count == 1:
        name, fault = named[0]
        return InvalidDataset(f"{name}, {fault.place}: {fault.what}{_way_out(good)}", line=first)
    shown = "".join(f"\n  {name}, {fault.place}: {fault.what}" for name, fault in named[:SHOWN_FAULTS])
    more = f"\n  and {count - SHOWN_FAULTS:,} more" if count > SHOWN_FAULTS else ""
    return InvalidDataset(
        f"{count:,} of {count + good:,} examples cannot be taken{_way_out(good)}:{shown}{more}", line=first
    )


def _way_out(good: int) -> str:
    return f"; correct it, or take the {good:,} others: --skip-bad-examples" if good else ""


def _left_out(conversions: Sequence[Conversion], count: int, good: int) -> str:
    places = [fault.place for one in conversions for fault in one.faults]
    shown = ", ".join(places[:5]) + (", …" if count > 5 else "")
    return f"{count:,} of {count + good:,} examples were left out, for they cannot be taken: {shown}"


def _refused(message: str, line: int | None) -> InvalidDataset:
    return InvalidDataset(message, line=line)


def _fingerprint(example: ChatExample) -> bytes:
    said = (example.messages, example.domain) if example.text is None else (example.text, example.domain)
    return hashlib.blake2b(repr(said).encode(), digest_size=16).digest()
