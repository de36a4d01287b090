"""The messages of a conversation: which fields each may have, who speaks after whom, what is kept.

A message is a role and a text; where there is more than a text (tool calls, what a tool answered to, a
reasoning), it is a role and `MessageFields`. Roles and fields are those that chat templates of `transformers`
take: `system` first if at all, `user`, `assistant`, `tool`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from formats.strict_json import shown

ASSISTANT, SYSTEM, TOOL, USER = "assistant", "system", "tool", "user"

#: Role -> the fields that a message of this role may have.
FIELDS: Mapping[str, frozenset[str]] = {
    SYSTEM: frozenset({"role", "content"}),
    USER: frozenset({"role", "content"}),
    ASSISTANT: frozenset({"role", "content", "tool_calls", "reasoning_content"}),
    TOOL: frozenset({"role", "content", "name", "tool_call_id"}),
}

#: Role -> the roles that may follow; a conversation begins as after `None`.
_NEXT: Mapping[str | None, tuple[str, ...]] = {
    None: (SYSTEM, USER, ASSISTANT),
    SYSTEM: (USER, ASSISTANT),
    USER: (ASSISTANT,),
    ASSISTANT: (USER,),
    TOOL: (ASSISTANT, TOOL),
}

#: Makes the error that a refusal raises, from what was expected, what is there, and the message's number.
Expected: TypeAlias = Callable[[str, Any, int | None], Exception]


@dataclass(frozen=True)
class MessageFields:
    """All fields of a message but its role, where there is more than a text, as canonical JSON."""

    text: str

    @property
    def values(self) -> Mapping[str, Any]:
        """By their names."""
        fields: dict[str, Any] = json.loads(self.text)
        return fields


#: What a message holds besides its role.
Content: TypeAlias = str | MessageFields
#: A role and what is said.
Message: TypeAlias = tuple[str, Content]


def canonical_json(value: Any) -> str:
    """A value as JSON in one form: no spaces, text as it is, keys in their order, which templates show."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def for_template(message: Message) -> dict[str, Any]:
    """A message as `apply_chat_template` takes it."""
    role, content = message
    return {"role": role, **(content.values if isinstance(content, MessageFields) else {"content": content})}


def text_of(content: Content) -> str:
    """The text that a message says."""
    return str(content.values["content"]) if isinstance(content, MessageFields) else content


def checked_messages(given: Any, expected: Expected) -> tuple[Message, ...]:
    """The messages of a conversation that ends with an answer.

    Raises:
        expected: they are none; the first that is wrong is named by its number, from 1.
    """
    if not isinstance(given, list) or not given:
        raise expected("a list of messages under 'messages'", given, None)
    last: Mapping[str, Any] | None = None
    for number, message in enumerate(given, 1):
        _check_fields(message, number, expected)
        allowed = _roles_after(last)
        if message["role"] not in allowed:
            raise expected(f"role {' or '.join(map(repr, allowed))}", message["role"], number)
        _check_content(message, number, expected)
        last = message
    if all(message["role"] != USER for message in given):
        raise expected("a question: role 'user'", given, None)
    if given[-1]["role"] != ASSISTANT:
        raise expected("an answer: role 'assistant'", given[-1], len(given))
    return tuple(_message(message) for message in given)


def checked_tools(given: Any, expected: Expected) -> str | None:
    """The functions that a conversation's model may call, as canonical JSON; None where there are none."""
    if given is None or given == []:
        return None
    if not isinstance(given, list) or not all(isinstance(tool, dict) and tool for tool in given):
        raise expected("a list of functions, as JSON Schema, under 'tools'", given, None)
    return canonical_json(given)


def _roles_after(last: Mapping[str, Any] | None) -> tuple[str, ...]:
    if last is None:
        return _NEXT[None]
    return (TOOL,) if last.get("tool_calls") else _NEXT[last["role"]]


def _check_fields(message: Any, number: int, expected: Expected) -> None:
    if not isinstance(message, dict) or "role" not in message:
        raise expected("an object with 'role' and 'content'", message, number)
    role = message["role"]
    if not isinstance(role, str) or role not in FIELDS:
        raise expected(f"a role of {', '.join(map(repr, FIELDS))}", role, number)
    if foreign := sorted(set(message) - FIELDS[role]):
        raise expected(
            f"of role {role!r} only {', '.join(map(repr, sorted(FIELDS[role])))}", foreign[0], number
        )


def _check_content(message: Mapping[str, Any], number: int, expected: Expected) -> None:
    content, calls = message.get("content"), message.get("tool_calls")
    may_be_blank = message["role"] == TOOL or calls
    if not isinstance(content, str) or not (content.strip() or may_be_blank):
        raise expected("a text as 'content', not blank", content, number)
    if "tool_calls" in message and (
        not isinstance(calls, list) or not calls or not all(map(_is_call, calls))
    ):
        raise expected(
            "a list of {'type': 'function', 'function': {'name': …, 'arguments': {…}}} as 'tool_calls'",
            calls,
            number,
        )
    for field in ("name", "tool_call_id", "reasoning_content"):
        if field in message and not (isinstance(message[field], str) and message[field].strip()):
            raise expected(f"a text as {field!r}, not blank", message[field], number)


def _is_call(call: Any) -> bool:
    if not isinstance(call, dict) or not set(call) <= {"type", "function", "id"}:
        return False
    function = call.get("function")
    return (
        call.get("type") == "function"
        and isinstance(call.get("id", ""), str)
        and isinstance(function, dict)
        and set(function) == {"name", "arguments"}
        and isinstance(function["name"], str)
        and bool(function["name"])
        and isinstance(function["arguments"], dict)
    )


def _message(message: Mapping[str, Any]) -> Message:
    fields = {name: value for name, value in message.items() if name != "role"}
    plain = set(fields) == {"content"}
    return message["role"], fields["content"] if plain else MessageFields(canonical_json(fields))


def told(expected: str, got: Any, number: int | None) -> str:
    """What is wrong with a message, or with the whole conversation, in words."""
    return f"{'' if number is None else f'message {number}: '}expected {expected}, got {shown(got)}"
