"""Examples that train no adapter here, in one table: recognised by their names, refused by what they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.example_shapes.multiple_choice import is_multiple_choice


@dataclass(frozen=True, kw_only=True)
class RefusedExample:
    """One kind of example that is not learnt from here."""

    #: "preference pairs"
    what: str
    #: What makes them usable; `{file}` stands for the file, `{register}` for the command that registers it.
    remedy: str
    recognises: Callable[[Mapping[str, Any]], bool]


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda values: values.keys() >= set(names)


def _is_judged(values: Mapping[str, Any]) -> bool:
    return values.keys() >= {"prompt", "completion", "label"} and isinstance(values["label"], bool)


def _is_whole(chosen: Any) -> bool:
    """Whether a chosen answer is a conversation with its question."""
    return isinstance(chosen, list) and len(chosen) > 1


def _is_picture(values: Mapping[str, Any]) -> bool:
    media = ("image", "images", "video", "videos", "audio", "audios")
    return any(values.get(name) not in (None, "", [], {}) for name in media)


def _is_choice(values: Mapping[str, Any]) -> bool:
    return (
        "question" in values
        and not is_multiple_choice(values)
        and any(isinstance(values.get(name), list | dict) for name in ("choices", "options"))
    )


def _is_columns(values: Mapping[str, Any]) -> bool:
    by_number = [isinstance(held, dict) and "0" in held for held in values.values()]
    asking = [values.get(name) for name in ("prompt", "instruction", "question", "text")]
    in_a_list = [isinstance(held, list) and bool(held) and isinstance(held[0], str) for held in asking]
    return (bool(by_number) and all(by_number)) or any(in_a_list)


_NO_ADAPTER = ", which train no adapter here yet"

REFUSED_EXAMPLES = (
    RefusedExample(
        what="columns, not examples: every name holds the values of all examples",
        remedy="write one example a line, with pandas: pandas.read_json({file!r}).to_json('examples.jsonl',"
        " orient='records', lines=True)",
        recognises=_is_columns,
    ),
    RefusedExample(
        what=f"preference pairs{_NO_ADAPTER}",
        remedy="to learn the chosen answers alone: {register} --map prompt=prompt,completion=chosen",
        recognises=lambda values: (
            _has("prompt", "chosen", "rejected")(values) and not _is_whole(values["chosen"])
        ),
    ),
    RefusedExample(
        what=f"preference pairs{_NO_ADAPTER}",
        remedy="to learn the chosen conversations alone: {register} --map messages=chosen",
        recognises=_has("chosen", "rejected"),
    ),
    RefusedExample(
        what=f"answers judged good or bad{_NO_ADAPTER}",
        remedy="keep the good ones, and name what is read: jq -c 'select(.label)' {file} > good.jsonl &&"
        " zoo register dataset good.jsonl --map prompt=prompt,completion=completion",
        recognises=_is_judged,
    ),
    RefusedExample(
        what=f"steps judged one by one{_NO_ADAPTER}",
        remedy="name a prompt and an answer: {register} --map prompt=prompt,completion=COLUMN",
        recognises=_has("prompt", "completions", "labels"),
    ),
    RefusedExample(
        what="tokens of some tokenizer, not text",
        remedy="give the text they were made from, since a base model has its own tokens",
        recognises=_has("input_ids"),
    ),
    RefusedExample(
        what="examples with images, video or sound; adapters are trained on text only here",
        remedy="where the text alone makes sense, name it: {register} --map prompt=COLUMN,completion=COLUMN",
        recognises=_is_picture,
    ),
    RefusedExample(
        what="multiple-choice questions that do not say which choice is right",
        remedy="write question and choices as a prompt and the choice as its completion",
        recognises=_is_choice,
    ),
    RefusedExample(
        what="questions about passages, with answers by position (SQuAD)",
        remedy="write passage and question as a prompt and one answer as its completion",
        recognises=_has("context", "question", "answers"),
    ),
    RefusedExample(
        what="texts with labels, for a classifier",
        remedy="to learn the label as an answer: {register} --map prompt=text,completion=label",
        recognises=lambda values: _has("text", "label")(values) and not _has("prompt")(values),
    ),
    RefusedExample(
        what="pairs of sentences, for an embedding model",
        remedy="name a prompt and an answer: {register} --map prompt=COLUMN,completion=COLUMN",
        recognises=lambda values: (
            _has("anchor", "positive")(values)
            or _has("sentence1", "sentence2")(values)
            or _has("premise", "hypothesis")(values)
        ),
    ),
    RefusedExample(
        what="a notebook",
        remedy="give the data it loads",
        recognises=_has("cells", "nbformat"),
    ),
)


def refused_kind(values: Mapping[str, Any]) -> RefusedExample | None:
    """The row of an example by its names; None if it is none of them."""
    return next((row for row in REFUSED_EXAMPLES if row.recognises(values)), None)
