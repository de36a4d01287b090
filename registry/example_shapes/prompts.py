"""A prompt and its completion, a question and its answer, under the names that people give them."""

from collections.abc import Mapping
from typing import Any

from formats.chat_messages import Expected
from registry.example_shapes.messages import is_message_list, plain_messages
from registry.example_shapes.tool_calls import tools_of
from registry.example_shapes.values import Converted, asked, converted, optional_text, text_at

#: (what asks, what answers); the first pair that is there is meant.
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("question", "answer"),
    ("question", "response"),
    ("question", "output"),
    ("query", "response"),
    ("query", "answer"),
    ("problem", "solution"),
    ("user", "assistant"),
    ("input", "output"),
    ("input", "response"),
)


def is_prompt(values: Mapping[str, Any]) -> bool:
    """Whether one of the pairs is there."""
    return _pair(values) is not None


def read_prompt(values: Mapping[str, Any], expected: Expected) -> Converted:
    """A question and its answer; a prompt that is a list of messages is the conversation so far.

    Raises:
        expected: one of them is neither a text nor messages.
    """
    question, answer = _pair(values) or PAIRS[0]
    before = (
        plain_messages(values[question], expected)
        if is_message_list(values[question])
        else asked(optional_text(values, "system", expected), text_at(values, question, expected))
    )
    after = (
        plain_messages(values[answer], expected)
        if is_message_list(values[answer])
        else [{"role": "assistant", "content": text_at(values, answer, expected)}]
    )
    tools = tools_of(values.get("tools"), expected)
    return converted(values, {question, answer, "system", "tools"}, messages=[*before, *after], tools=tools)


def _pair(values: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if values.keys() >= set(pair)), None)
