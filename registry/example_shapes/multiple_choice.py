"""A question with answers to choose from, as MMLU and ARC write it; the right one by any of its names."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

from formats.chat_messages import Expected
from registry.example_shapes.values import Converted, asked, converted, optional_text, text_at

_CHOICES = ("choices", "options")
#: What says which is right, the surest first.
_RIGHT = ("answerkey", "answer", "answer_index", "gold", "correct", "label")


def is_multiple_choice(values: Mapping[str, Any]) -> bool:
    """Whether there are a question, a list of choices, and what says which is right."""
    return "question" in values and bool(_texts(values)) and _key(values) is not None


def read_multiple_choice(values: Mapping[str, Any], expected: Expected) -> Converted:
    """The question with the right choice as its answer, and the choices.

    Raises:
        expected: the question is no text, or none of the choices is called right.
    """
    key, texts = _key(values) or _RIGHT[0], _texts(values)
    right = _right(values[key], texts, _labels(values, len(texts)))
    if right is None:
        raise expected(
            f"the number, letter or text of one of {len(texts)} choices as {key!r}", values[key], None
        )
    messages = [
        *asked(optional_text(values, "system", expected), text_at(values, "question", expected)),
        {"role": "assistant", "content": texts[right]},
    ]
    return converted(values, {"question", key, *_CHOICES, "system"}, messages=messages, choices=list(texts))


def _held(values: Mapping[str, Any]) -> Any:
    return next((values[name] for name in _CHOICES if name in values), None)


def _texts(values: Mapping[str, Any]) -> Sequence[str]:
    held = _held(values)
    texts = held.get("text") if isinstance(held, Mapping) else held
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        return ()
    return texts if len(set(texts)) == len(texts) > 1 else ()


def _labels(values: Mapping[str, Any], count: int) -> Sequence[str]:
    held = _held(values)
    labels = held.get("label") if isinstance(held, Mapping) else None
    return list(map(str, labels)) if isinstance(labels, list) else list(string.ascii_uppercase[:count])


def _key(values: Mapping[str, Any]) -> str | None:
    return next((name for name in _RIGHT if isinstance(values.get(name), int | str)), None)


def _right(given: Any, texts: Sequence[str], labels: Sequence[str]) -> int | None:
    """Its position: a number counts from 0, unless the choices have labels of their own that it is one of."""
    if isinstance(given, str):
        for known in (labels, texts):
            if given in known:
                return known.index(given)
        given = int(given) if given.isdecimal() else None
    is_position = isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(texts)
    return given if is_position else None
