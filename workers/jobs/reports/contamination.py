"""Contamination: held-out examples that stand in what an expert or the composition was trained on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from formats.chat_examples import ChatExample

EXAMPLE, QUESTION = "example", "question"


@dataclass(frozen=True, kw_only=True)
class SeenExample:
    """A held-out example that was trained on."""

    task: str
    #: Its line in the held-out dataset.
    line: int
    #: The training dataset, and the line of the first equal example in it.
    dataset: str
    training_line: int
    #: `example`: question and answer are equal; `question`: the question alone.
    same: str


def seen_examples(
    held_out: Mapping[str, Sequence[ChatExample]], trained_on: Mapping[str, Iterable[ChatExample]]
) -> list[SeenExample]:
    """Held-out examples by task that stand in a training dataset, by its name; case and spaces aside."""
    found: list[SeenExample] = []
    for dataset, examples in trained_on.items():
        whole: dict[object, int] = {}
        questions: dict[object, int] = {}
        for example in examples:
            whole.setdefault(_said(example), example.line)
            questions.setdefault(_asked(example), example.line)
        for task, asked in held_out.items():
            for example in asked:
                if (line := whole.get(_said(example))) is not None:
                    same = EXAMPLE
                elif (line := questions.get(_asked(example))) is not None:
                    same = QUESTION
                else:
                    continue
                found.append(
                    SeenExample(task=task, line=example.line, dataset=dataset, training_line=line, same=same)
                )
    return found


def _said(example: ChatExample) -> object:
    return _compared(example.messages if example.text is None else (("text", example.text),))


def _asked(example: ChatExample) -> object:
    """The question; a plain text has none but itself."""
    return _compared(example.messages[:-1]) if example.text is None else _said(example)


def _compared(messages: Sequence[tuple[str, object]]) -> tuple[tuple[str, str], ...]:
    # What is no text, such as a call of a tool, is compared by all its fields.
    return tuple((role, " ".join(str(content).casefold().split())) for role, content in messages)
