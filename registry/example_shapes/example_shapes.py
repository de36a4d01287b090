"""Every way to write an example down, in one table: how it is recognised, and how it is converted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from formats.chat_messages import Expected
from registry.example_shapes.instructions import is_instruction, read_instruction
from registry.example_shapes.messages import is_chat, is_sharegpt, read_chat
from registry.example_shapes.multiple_choice import is_multiple_choice, read_multiple_choice
from registry.example_shapes.prompts import is_prompt, read_prompt
from registry.example_shapes.values import Converted, converted, text_at


@dataclass(frozen=True, kw_only=True)
class ExampleShape:
    """One way to write an example down."""

    name: str
    #: For people, after "examples that are".
    what: str
    #: The names that it is recognised by, for the documentation.
    keys: str
    #: Whether an example, its names in one form, is written this way.
    recognises: Callable[[Mapping[str, Any]], bool]
    convert: Callable[[Mapping[str, Any], Expected], Converted]


def _read_text(values: Mapping[str, Any], expected: Expected) -> Converted:
    return converted(values, {"text"}, text=text_at(values, "text", expected))


#: The first that recognises an example converts it.
SHAPES = (
    ExampleShape(
        name="sharegpt",
        what="ShareGPT conversations (from, value)",
        keys='`conversations` (or `messages`): `{"from": …, "value": …}`; `system`, `tools`',
        recognises=is_sharegpt,
        convert=read_chat,
    ),
    ExampleShape(
        name="chat",
        what="conversations (role, content)",
        keys='`messages` (or `conversations`, `dialogue`): `{"role": …, "content": …}`; `system`, `tools`',
        recognises=is_chat,
        convert=read_chat,
    ),
    ExampleShape(
        name="alpaca",
        what="instructions with their answers (Alpaca)",
        keys="`instruction`, `input` or `context`, `output` or `response`; `system`, `history`",
        recognises=is_instruction,
        convert=read_instruction,
    ),
    ExampleShape(
        name="choice",
        what="questions with answers to choose from",
        keys="`question`, `choices` or `options`, `answer` or `answerKey`: number, letter or text; `system`",
        recognises=is_multiple_choice,
        convert=read_multiple_choice,
    ),
    ExampleShape(
        name="prompt",
        what="prompts with their answers",
        keys="`prompt` and `completion`, `question` and `answer`, `query` and `response`, `problem` and"
        " `solution`, `input` and `output`; `system`, `tools`",
        recognises=is_prompt,
        convert=read_prompt,
    ),
    ExampleShape(
        name="text",
        what="plain texts, learnt whole and without a chat template",
        keys="`text`",
        recognises=lambda values: "text" in values,
        convert=_read_text,
    ),
)


def shape_of(values: Mapping[str, Any]) -> ExampleShape | None:
    """The way an example is written; None if it is none of them."""
    return next((row for row in SHAPES if row.recognises(values)), None)
