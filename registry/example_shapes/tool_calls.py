"""Calls of functions, as the interfaces of different makers write them, in the form chat templates take."""

import json
from typing import Any

from formats.chat_messages import Expected
from registry.example_shapes.values import is_blank


def calls_of(message: dict[str, Any], number: int, expected: Expected) -> list[dict[str, Any]]:
    """The calls of a message, taken out of it: `tool_calls`, or the older `function_call`.

    Raises:
        expected: they are none, or arguments are not an object.
    """
    older, calls = message.pop("function_call", None), message.pop("tool_calls", None)
    given = [older] if is_blank(calls) and not is_blank(older) else calls
    if is_blank(given):
        return []
    given = _parsed(given)
    if not isinstance(given, list):
        given = [given]
    return [_call(call, number, expected) for call in given]


def tools_of(given: Any, expected: Expected) -> Any:
    """The functions that may be called; a JSON text of a list is that list.

    Raises:
        expected: it is a text that is not JSON.
    """
    if is_blank(given):
        return None
    tools = _parsed(given)
    if isinstance(tools, str):
        raise expected("a list of functions, as JSON Schema, under 'tools'", given, None)
    return [tools] if isinstance(tools, dict) else tools


def _call(call: Any, number: int, expected: Expected) -> dict[str, Any]:
    call = _parsed(call)
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise expected("a call of a function: {'name': …, 'arguments': {…}}", call, number)
    arguments = _parsed(function.get("arguments", function.get("parameters", {})))
    if is_blank(arguments):
        arguments = {}
    if not isinstance(arguments, dict):
        raise expected("an object as 'arguments' of a call", arguments, number)
    named = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    # Columns of a table hold every name that any row has: those that a call was not given are null.
    given = {name: value for name, value in arguments.items() if value is not None}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": given}}


def _parsed(value: Any) -> Any:
    """What a JSON text holds; anything else as it is."""
    if not isinstance(value, str) or value.strip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
