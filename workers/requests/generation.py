"""What a user asks when putting questions to a subject: checked before anything is loaded."""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked, Distinct, Text
from formats.errors import InvalidField
from workers.errors import SpecInvalid

#: Below it, logits divided by the temperature leave float32's range.
LEAST_TEMPERATURE = 1e-4
MOST_TEMPERATURE = 100.0


def _temperature(value: float) -> float:
    if value == 0 or LEAST_TEMPERATURE <= value <= MOST_TEMPERATURE:
        return float(value)
    raise ValueError("out of range")


def _utf_8(value: str) -> str:
    value.encode()  # raises a ValueError
    return value


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


#: 0 is greedy.
Temperature: TypeAlias = Annotated[
    float,
    AfterValidator(_temperature),
    Field(json_schema_extra={"allowed": f"0, or from {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}"}),
]
#: What a model is told; an argument that is no UTF-8 reaches Python as a text that cannot be written.
Said: TypeAlias = Annotated[
    str, AfterValidator(_utf_8), Field(json_schema_extra={"allowed": "text in UTF-8"})
]
Stop: TypeAlias = Annotated[str, AfterValidator(_utf_8), Field(min_length=1, max_length=256)]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class GenerateRequest(Checked):
    """Questions to one subject, each by itself, and how the answers are drawn."""

    what: ClassVar[str] = "a question"
    refusal: ClassVar[type[InvalidField]] = SpecInvalid

    subject: Text = Field(description="Adapter, base model or composition to ask.")
    questions: Annotated[tuple[Said, ...], BeforeValidator(_tuple)] = Field(
        min_length=1, description="What to ask.", json_schema_extra={"allowed": "at least one, in UTF-8"}
    )
    system: Said | None = Field(
        default=None, description="System message; an adapter wants the one it was trained with."
    )
    raw: bool = Field(
        default=False, description="Continue each question as plain text, without the chat template."
    )
    max_new_tokens: int = Field(default=64, ge=1, le=2**24, description="The most tokens of an answer.")
    temperature: Temperature = Field(default=0.0, description="Of sampling; 0 is greedy.")
    top_k: int | None = Field(
        default=None, ge=1, le=2**24, description="Draw from the k most likely tokens alone; else from all."
    )
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="Draw from the likeliest tokens that together have this share."
    )
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Draw from tokens at least this share as likely as the likeliest.",
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Divides the logits of tokens that the question or the answer already holds; 1 is none.",
    )
    num_beams: int = Field(default=1, ge=1, le=256, description="Answers that a beam search pursues at once.")
    num_return_sequences: int = Field(
        default=1, ge=1, le=256, description="Answers to each question: samples, or the best beams."
    )
    stop: Distinct[Stop] = Field(
        default=(), description="Texts that end an answer, which is given without them.", max_length=64
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Of sampling, where the temperature is above 0."
    )
    routing: bool = Field(
        default=False, description="How a composition weighed its experts for each token of an answer."
    )

    def __post_init__(self) -> None:
        if self.raw and self.system is not None:
            raise SpecInvalid("system", "left out with raw, which uses no template", self.system)
        for name in ("top_k", "top_p", "min_p"):
            if self.temperature == 0 and getattr(self, name) is not None:
                allowed = "left out where nothing is drawn: the temperature is 0 (--temperature 1 draws)"
                raise SpecInvalid(name, allowed, getattr(self, name))
        answers = self.num_return_sequences
        if self.num_beams > 1 and answers > self.num_beams:
            raise SpecInvalid("num_return_sequences", f"at most the {self.num_beams} beams", answers)
        if self.num_beams == 1 and self.temperature == 0 and answers > 1:
            allowed = "1 where nothing is drawn, as all would be the same (--temperature 1, or --num-beams)"
            raise SpecInvalid("num_return_sequences", allowed, answers)

    @property
    def can_stream(self) -> bool:
        """Whether a token of an answer stays once it is there, and there is one answer at a time."""
        return self.num_beams == self.num_return_sequences == 1

    @property
    def drawing(self) -> dict[str, Any]:
        """How tokens are chosen, as `generate` of transformers takes it; nothing is left to its defaults."""
        chosen: dict[str, Any] = {
            "do_sample": self.temperature > 0,
            "num_beams": self.num_beams,
            "num_return_sequences": self.num_return_sequences,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.temperature > 0:
            # Where top_k is left out, transformers would draw from the 50 likeliest tokens.
            chosen |= {"temperature": self.temperature, "top_k": self.top_k or 0, "top_p": self.top_p or 1.0}
            chosen |= {} if self.min_p is None else {"min_p": self.min_p}
        return chosen


def read_questions(path: Path) -> tuple[str, ...]:
    """The questions of a file, one a line: text, or in a `.jsonl` file a JSON string or `{"prompt": …}`.

    Blank lines hold none.

    Raises:
        SpecInvalid: the file cannot be read as UTF-8, or a line of JSON holds something else; it is named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecInvalid("file", f"a file of questions in UTF-8 ({reason})", str(path)) from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if path.suffix != ".jsonl":
        return tuple(line for _, line in numbered)
    return tuple(_question(line, f"{path}:{number}") for number, line in numbered)


def _question(line: str, place: str) -> str:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    asked = found.get("prompt") if isinstance(found, dict) else found
    if not isinstance(asked, str):
        raise SpecInvalid("file", f'JSON lines of a text or {{"prompt": text}} ({place})', line[:80])
    return asked
