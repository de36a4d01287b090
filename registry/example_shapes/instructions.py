"""Alpaca's instruction, input and output, Dolly's instruction, context and response, with earlier turns."""

from collections.abc import Mapping
from typing import Any

from formats.chat_messages import Expected
from registry.example_shapes.values import Converted, asked, converted, optional_text, text_at

_ANSWERS = ("output", "response", "answer", "completion", "target")
_INPUTS = ("input", "context")


def is_instruction(values: Mapping[str, Any]) -> bool:
    """Whether there is an instruction and what answers it."""
    return "instruction" in values and _answer(values) is not None


def read_instruction(values: Mapping[str, Any], expected: Expected) -> Converted:
    """A question, the input two lines below the instruction, and its answer.

    Raises:
        expected: instruction or answer is no text, or an earlier turn is no pair of texts.
    """
    answer = _answer(values) or "output"
    said = [text_at(values, "instruction", expected)]
    said += [text for name in _INPUTS if (text := optional_text(values, name, expected)) is not None]
    system = optional_text(values, "system", expected)
    *before, question = asked(system, "\n\n".join(said))
    messages = [
        *before,
        *_earlier(values.get("history"), expected),
        question,
        {"role": "assistant", "content": text_at(values, answer, expected)},
    ]
    return converted(values, {"instruction", answer, *_INPUTS, "system", "history"}, messages=messages)


def _answer(values: Mapping[str, Any]) -> str | None:
    return next((name for name in _ANSWERS if name in values), None)


def _earlier(history: Any, expected: Expected) -> list[dict[str, str]]:
    """Turns before the instruction, as pairs of question and answer."""
    messages: list[dict[str, str]] = []
    for pair in history or []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise expected("pairs of question and answer under 'history'", pair, None)
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return messages
