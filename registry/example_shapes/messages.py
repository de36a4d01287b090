"""Conversations as lists of messages, `{"role": …, "content": …}` or ShareGPT's `{"from": …, "value": …}`."""

import json
from collections.abc import Mapping
from typing import Any

from formats.chat_messages import FIELDS, SYSTEM, Expected
from registry.example_shapes.tool_calls import calls_of, tools_of
from registry.example_shapes.values import Converted, converted, is_blank, optional_text

#: Names under which a list of messages stands.
_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
#: Other words for the roles.
_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "developer": "system",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
}
#: ShareGPT's role of a message that calls a function, its value the call as JSON.
_CALLING = ("function_call", "tool_call")
#: Fields that say which messages are learnt: to leave them out would train on others.
_LEARNING = ("weight", "train", "loss", "loss_weight", "mask", "training")
_REASONING = ("reasoning", "thinking")


def is_chat(values: Mapping[str, Any]) -> bool:
    """Whether there is a list of messages with roles."""
    return _has_messages(values, "role") or (_list_name(values) == "messages" and not is_sharegpt(values))


def is_sharegpt(values: Mapping[str, Any]) -> bool:
    """Whether there is a list of messages `from` someone."""
    return _has_messages(values, "from")


def read_chat(values: Mapping[str, Any], expected: Expected) -> Converted:
    """A conversation, its roles, content parts and tool calls in one form.

    Raises:
        expected: a message cannot be taken; it is named by its number.
    """
    name = _list_name(values) or "messages"
    given = _listed(values.get(name))
    if not isinstance(given, list):
        raise expected(f"a list of messages under {name!r}", given, None)
    unread: set[str] = set()
    messages = [_message(message, number, unread, expected) for number, message in enumerate(given, 1)]
    system = optional_text(values, "system", expected) or optional_text(values, "system_prompt", expected)
    if system is not None and not (messages and messages[0]["role"] == SYSTEM):
        messages = [{"role": SYSTEM, "content": system}, *messages]
    tools = tools_of(values.get("tools", values.get("functions")), expected)
    read = {name, "system", "system_prompt", "tools", "functions"}
    found = converted(values, read, messages=messages, tools=tools)
    return Converted(stored=found.stored, unread=found.unread | {f"{name}.{field}" for field in unread})


def plain_messages(given: Any, expected: Expected) -> list[dict[str, Any]]:
    """A list of messages as it stands under another name, such as TRL's `prompt`.

    Raises:
        expected: a message cannot be taken.
    """
    return [_message(message, number, set(), expected) for number, message in enumerate(given, 1)]


def is_message_list(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]


def _list_name(values: Mapping[str, Any]) -> str | None:
    return next((name for name in _LISTS if name in values), None)


def _has_messages(values: Mapping[str, Any], marked_by: str) -> bool:
    given = _listed(values.get(_list_name(values) or ""))
    return isinstance(given, list) and any(isinstance(one, dict) and marked_by in one for one in given)


def _listed(given: Any) -> Any:
    """A list, or the list that a cell of a table holds as JSON."""
    if not isinstance(given, str) or not given.strip().startswith("["):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        return given


def _message(given: Any, number: int, unread: set[str], expected: Expected) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise expected("an object with 'role' and 'content'", given, number)
    message = {name: value for name, value in given.items() if value is not None}
    role = message.pop("role", message.pop("from", None))
    content = message.pop("content", message.pop("value", None))
    calling = role in _CALLING
    role = "assistant" if calling else _ROLES.get(role, role) if isinstance(role, str) else role
    calls = calls_of(message | ({"tool_calls": content} if calling else {}), number, expected)
    message.pop("tool_calls", None)
    message.pop("function_call", None)
    text = "" if calling else _text(content, number, expected)
    fields: dict[str, Any] = {"role": role, "content": text}
    if calls:
        fields["tool_calls"] = calls
    for name, value in message.items():
        _put(fields, name, value, number, unread, expected)
    return fields


def _put(
    fields: dict[str, Any], name: str, value: Any, number: int, unread: set[str], expected: Expected
) -> None:
    """Take up one more field of a message, or say that it is not read."""
    called = "reasoning_content" if name in _REASONING else name
    if name in _LEARNING and value not in (1, True):
        raise expected(
            f"no {name!r}: which answers are learnt is an option of training, for all examples alike",
            value,
            number,
        )
    if is_blank(value) or name in _LEARNING:
        return
    if called in FIELDS.get(str(fields["role"]), ()):
        fields[called] = value
    else:
        unread.add(name)


def _text(content: Any, number: int, expected: Expected) -> Any:
    """The text of a message; parts of it are put together as templates do."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    return "".join(_part(part, number, expected) for part in content)


def _part(part: Any, number: int, expected: Expected) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else part
    raise expected("parts of a message that are text; images and sound train no adapter here", kind, number)
