"""Checked values: frozen pydantic dataclasses that raise our `InvalidField`.

A field is declared once: name, type, range, default and what it is for (`description`). From that come the
check, the words of its refusal, the JSON Schema, and the command's option. A rule about two fields is a
`__post_init__` that raises the class's `refusal` itself.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from formats.errors import InvalidField

#: What a subclass of `Checked` is decorated with: `@dataclass(frozen=True, kw_only=True, config=CHECKED)`.
#: Strict: "8" and true are no numbers, and 8.0 is no whole one; 8 is a number.
CHECKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Schema: TypeAlias = Mapping[str, Any]
_ANYTHING = "a JSON value"
Entry = TypeVar("Entry")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Checked:
    """A frozen value that exists only in range; equal requests have equal fields, however written.

    Raises:
        InvalidField: (the class's `refusal`) a field is unknown, missing or out of its range.
    """

    #: What this is called in messages.
    what: ClassVar[str] = "a value"
    refusal: ClassVar[type[InvalidField]] = InvalidField

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_our_words(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return check(given)
        except ValidationError as error:
            raise refusal_of(cls, error) from None

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON holds it: lists for tuples, plain dicts for mappings."""
        return {str(name): value for name, value in to_jsonable_python(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The value that `to_json` described.

        Raises:
            InvalidField: (the class's `refusal`) as the constructor does, or `stored` is no object.
        """
        if not isinstance(stored, Mapping):
            raise cls.refusal(cls.what, "an object of fields", stored)
        return cls(**stored)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema (2020-12) of what `from_json` takes, rules about two fields excepted."""
        return TypeAdapter(cls).json_schema()


def refusal_of(checked: type[Checked], error: ValidationError) -> InvalidField:
    """What pydantic found, as one of our errors: the first field refused (`data.bio` for an entry of `data`).

    An unknown field comes first: a misspelt name is why another is missing.
    """
    found = min(error.errors(include_url=False), key=lambda entry: "unexpected" not in entry["type"])
    name, *inner = map(str, found["loc"] or (checked.what,))
    fields = checked.json_schema()["properties"]
    if "unexpected" in found["type"]:
        near = difflib.get_close_matches(name, fields, n=1)
        known = f"did you mean {near[0]}?" if near else f"it has {', '.join(fields)}"
        allowed = f"left out, as {checked.what} has no such field ({known})"
        return checked.refusal(name, allowed, found["input"])
    if found["type"] == "missing":
        return checked.refusal(name, f"given in {checked.what}", None)
    field = fields[name]
    if inner and field.get("type") == "object" and "[key]" not in inner:
        name, field = f"{name}.{inner[0]}", _of_entries(field)
    return checked.refusal(name, allowed_words(field), found["input"])


def allowed_words(schema: Schema) -> str:
    """What a field's JSON Schema allows, to follow "must be"."""
    if "allowed" in schema:
        return str(schema["allowed"])
    if "anyOf" in schema:
        choices = [allowed_words(choice) for choice in schema["anyOf"] if choice.get("type") != "null"]
        return f"{' or '.join(choices)}, or left out"
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    words = _WORDS.get(schema.get("type", ""))
    return _ANYTHING if words is None else words(schema)


def _of_entries(schema: Schema) -> Schema:
    by_pattern: Mapping[str, Schema] = schema.get("patternProperties", {})
    found = next(iter(by_pattern.values()), schema.get("additionalProperties"))
    return found if isinstance(found, Mapping) else {}


def _whole_number(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None or high is None:
        return "a whole number" if low is None else f"a whole number of at least {low}"
    return f"a whole number in {low}..{high}"


def _number(schema: Schema) -> str:
    words = ["a number"]
    if "exclusiveMinimum" in schema:
        words.append(f"above {schema['exclusiveMinimum']:g}")
    elif "minimum" in schema:
        words.append(f"from {schema['minimum']:g}")
    if "exclusiveMaximum" in schema:
        words.append(f"to below {schema['exclusiveMaximum']:g}")
    elif "maximum" in schema:
        words.append(f"to {schema['maximum']:g}")
    return " ".join(words) if len(words) > 1 else "a finite number"


def _text(schema: Schema) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if most is None:
        return "text, not empty" if least else "text"
    return f"{f'{least} to' if least else 'at most'} {most} characters of text"


def _list(schema: Schema) -> str:
    different = "different entries" if schema.get("uniqueItems") else "entries"
    count = _count(schema.get("minItems"), schema.get("maxItems"))
    return f"a list of {count}{different}, each {allowed_words(schema['items'])}"


def _object(schema: Schema) -> str:
    entries = allowed_words(_of_entries(schema))
    if entries == _ANYTHING:
        return "an object of JSON values"
    return f"{_count(schema.get('minProperties'), schema.get('maxProperties'))}entries name -> {entries}"


def _count(least: int | None, most: int | None) -> str:
    if most is None:
        return f"{least} or more " if least else ""
    return f"{least or 0} to {most} "


_WORDS: Mapping[str, Callable[[Schema], str]] = {
    "integer": _whole_number,
    "number": _number,
    "boolean": lambda _: "true or false",
    "string": _text,
    "array": _list,
    "object": _object,
}


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _distinct(values: Sequence[object]) -> Sequence[object]:
    if len(set(values)) < len(values):
        raise ValueError("entries that differ")
    return values


#: A name or reference: text that is not blank.
Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=256, pattern=r"\S")]
#: Entries that differ, in an order that matters; a list is taken for a tuple.
Distinct: TypeAlias = Annotated[
    tuple[Entry, ...],
    BeforeValidator(_tuple),
    AfterValidator(_distinct),
    Field(json_schema_extra={"uniqueItems": True}),
]
