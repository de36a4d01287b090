"""Training examples as conversations, in chat JSONL: one JSON object a line, every one checked.

An example is `{"messages": [{"role": …, "content": …}, …], "domain": …}`: a system message if need be, then
user and assistant in turn, the last the answer to learn. `domain` may be left out. What would be dropped
silently is refused: another field of a message (`name`, `tool_calls`, `weight`), a key that is there twice, a
domain that cannot be shown. Other fields of the example itself, such as `id`, say nothing of the
conversation and are not read. A line ends with \\n or \\r\\n; a lone \\r ends none.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import IO, Any

from formats.strict_json import parse_object, shown

LINE_LIMIT_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_DOMAIN_LIMIT = 128
_MESSAGE_FIELDS = {"role", "content"}

#: Makes the error that a refusal raises, from its message and the line's number; None for the whole file.
LineRefusal = Callable[[str, int | None], Exception]


@dataclass(frozen=True, kw_only=True)
class ChatExample:
    """One conversation that ends with the answer to learn."""

    #: Role and content of each message.
    messages: tuple[tuple[str, str], ...]
    domain: str | None = None
    #: Name of the file it came from, and its line there, counted from 1.
    file: str = ""
    line: int = 0

    @property
    def origin(self) -> str:
        """Where it came from, for messages."""
        return f"{self.file}, line {self.line}" if self.file else f"line {self.line}"


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line being checked: its name in messages, and the error that is raised."""

    file: str
    number: int
    refusal: LineRefusal

    def refuse(self, message: str) -> Exception:
        return self.refusal(f"{self.file}, line {self.number}{message}", self.number)

    def expected(self, expected: str, got: Any, *, message: int | None = None) -> Exception:
        within = "" if message is None else f", message {message}"
        return self.refuse(f"{within}: expected {expected}, got {shown(got)}")


def read_chat_jsonl(source: IO[bytes], file: str, refusal: LineRefusal) -> Iterator[ChatExample]:
    """The examples of an open file called `file`, in order, without holding it in memory.

    Raises:
        refusal: the file is empty, or a line holds no conversation that ends with an answer; the message
            names file and line, what was expected and what is there.
    """
    number = 0
    for number, line in enumerate(_lines(source, file, refusal), 1):
        yield _example(line, _Line(file=file, number=number, refusal=refusal))
    if not number:
        raise refusal(f"{file} is empty; a dataset has at least one example", None)


def _lines(source: IO[bytes], file: str, refusal: LineRefusal) -> Iterator[bytes]:
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


def _example(data: bytes, line: _Line) -> ChatExample:
    if not data.strip():
        raise line.refuse(": expected a JSON object, got a blank line; remove it")
    found = parse_object(
        data, what=f"{line.file}, line {line.number}", refusal=lambda said: line.refusal(said, line.number)
    )
    messages = found.get("messages")
    if not isinstance(messages, list) or not messages:
        raise line.expected("a list of messages under 'messages'", messages)
    _check_turns(messages, line)
    domain = found.get("domain")
    if domain is not None and not _is_label(domain):
        raise line.expected(f"a text of at most {_DOMAIN_LIMIT} characters as 'domain'", domain)
    return ChatExample(
        messages=tuple((message["role"], message["content"]) for message in messages),
        domain=domain,
        file=line.file,
        line=line.number,
    )


def _check_turns(messages: list[Any], line: _Line) -> None:
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or set(message) != _MESSAGE_FIELDS:
            raise line.expected("an object with just 'role' and 'content'", message, message=number)
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise line.expected("a text as 'content', not blank", message["content"], message=number)
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    first = len(messages) - len(turns) + 1
    for number, (message, role) in enumerate(zip(turns, cycle(("user", "assistant")), strict=False), first):
        if message["role"] != role:
            raise line.expected(f"role {role!r}", message["role"], message=number)
    if messages[-1]["role"] != "assistant":
        raise line.expected("an answer: role 'assistant'", messages[-1], message=len(messages))


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _DOMAIN_LIMIT and value.isprintable()
