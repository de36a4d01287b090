"""Training examples as the zoo stores them, in chat JSONL: one JSON object a line, every one checked.

An example is `{"messages": [{"role": …, "content": …}, …], "domain": …}`, the last message the answer to
learn, or `{"text": …}`, a text to learn as it is. `domain` may be left out, `tools` holds the functions that
the model may call, `choices` the texts that the answer was to be chosen from. What would be dropped silently
is refused: another field of a message (`name`, `weight`), a key that is there twice, a domain that cannot be
shown. Other fields of the example itself, such as `id`, say nothing of the conversation and are not read. A
line ends with \\n or \\r\\n; a lone \\r ends none.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

from formats.chat_messages import (
    Content,
    Expected,
    Message,
    canonical_json,
    checked_messages,
    checked_tools,
    for_template,
)
from formats.strict_json import parse_object, shown

LINE_LIMIT_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_DOMAIN_LIMIT = 128
#: A text stands alone: beside other fields it is one of them, such as what a label is of.
_TEXT_FIELDS = {"text", "domain"}

#: How the name of a stored file ends.
ENDING = ".jsonl"
#: What the registry calls this format.
NAME = "chat"

#: Makes the error that a refusal raises, from its message and the line's number; None for the whole file.
LineRefusal = Callable[[str, int | None], Exception]


@dataclass(frozen=True, kw_only=True)
class ChatExample:
    """One conversation that ends with the answer to learn, or a text to learn as it is."""

    #: Role and content of each message; of a text, none.
    messages: tuple[Message, ...] = ()
    #: What is learned whole and without a chat template.
    text: str | None = None
    #: The functions that the model may call, as JSON.
    tools: str | None = None
    domain: str | None = None
    #: Answers to choose from, the right one among them; none where there is nothing to choose from.
    choices: tuple[str, ...] = ()
    #: Name of the file it came from, and its line there, counted from 1.
    file: str = ""
    line: int = 0

    @property
    def origin(self) -> str:
        """Where it came from, for messages."""
        return f"{self.file}, line {self.line}" if self.file else f"line {self.line}"

    def as_line(self) -> bytes:
        """The example as its line of a stored file, in one form."""
        held: dict[str, Any] = (
            {"messages": [for_template(message) for message in self.messages]}
            if self.text is None
            else {"text": self.text}
        )
        if self.tools is not None:
            held["tools"] = json.loads(self.tools)
        if self.domain is not None:
            held["domain"] = self.domain
        if self.choices:
            held["choices"] = list(self.choices)
        return canonical_json(held).encode() + b"\n"


def read_chat_jsonl(source: IO[bytes], file: str, refusal: LineRefusal) -> Iterator[ChatExample]:
    """The examples of an open file called `file`, in order, without holding it in memory.

    Raises:
        refusal: the file is empty, or a line holds no example; the message names file and line, what was
            expected and what is there.
    """
    number = 0
    for number, line in enumerate(lines_of(source, file, refusal), 1):
        yield _read_line(line, file, number, refusal)
    if not number:
        raise refusal(f"{file} is empty; a dataset has at least one example", None)


def lines_of(source: IO[bytes], file: str, refusal: LineRefusal) -> Iterator[bytes]:
    """The lines without their ends; one that is too long is refused before it is held whole."""
    held, number = b"", 0
    while chunk := source.read(_CHUNK_BYTES):
        *lines, held = (held + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in lines)
        number += len(lines)
        if len(held) > LINE_LIMIT_BYTES:
            raise refusal(
                f"{file}, line {number + 1}: expected at most {LINE_LIMIT_BYTES:,} bytes;"
                " is this a JSONL file?",
                number + 1,
            )
    if held:
        yield held.removesuffix(b"\r")


def checked_example(found: Mapping[str, Any], expected: Expected) -> ChatExample:
    """The example that an object holds.

    Raises:
        expected: it holds none.
    """
    domain, text = found.get("domain"), found.get("text")
    if domain is not None and not _is_label(domain):
        raise expected(f"a text of at most {_DOMAIN_LIMIT} characters as 'domain'", domain, None)
    if "text" in found and found.keys() <= _TEXT_FIELDS:
        if not isinstance(text, str) or not text.strip():
            raise expected("a text under 'text', not blank", text, None)
        return ChatExample(text=text, domain=domain)
    messages = checked_messages(found.get("messages"), expected)
    return ChatExample(
        messages=messages,
        tools=checked_tools(found.get("tools"), expected),
        domain=domain,
        choices=_choices(found.get("choices"), answer=messages[-1][1]),
    )


def _read_line(data: bytes, file: str, number: int, refusal: LineRefusal) -> ChatExample:
    place = f"{file}, line {number}"
    if not data.strip():
        raise refusal(f"{place}: expected a JSON object, got a blank line; remove it", number)
    found = parse_object(data, what=place, refusal=lambda said: refusal(said, number))

    def expected(what: str, got: Any, message: int | None) -> Exception:
        within = "" if message is None else f", message {message}"
        return refusal(f"{place}{within}: expected {what}, got {shown(got)}", number)

    return replace(checked_example(found, expected), file=file, line=number)


def _choices(given: Any, *, answer: Content) -> tuple[str, ...]:
    """Texts to choose the answer from; none where `choices` is something else, which is not read then."""
    if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
        return ()
    return tuple(given) if answer in given and len(set(given)) == len(given) > 1 else ()


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _DOMAIN_LIMIT and value.isprintable()
