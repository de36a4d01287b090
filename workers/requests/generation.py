"""What a user asks when putting questions to a subject: checked before anything is loaded."""

from typing import Annotated, ClassVar, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked, Text
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
    max_new_tokens: int = Field(default=64, ge=1, le=2**24, description="The most tokens of an answer.")
    temperature: Temperature = Field(default=0.0, description="Of sampling; 0 is greedy.")
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Of sampling, where the temperature is above 0."
    )
