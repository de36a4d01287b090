"""What an adapter_config.json may state, field by field: an allow-list, typed and ranged.

Names and defaults: peft 0.21.2, `LoraConfig`. As there, a list holds names of modules, and a text is a
regular expression; so are the keys of the two patterns.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked
from formats.module_names import is_module_path
from formats.peft import CONFIG_FILE
from formats.target_modules import ALL_LINEAR

_MANY = 10_000
#: Longer than any that a person writes, in characters.
LONGEST_EXPRESSION = 4096


def _listed(value: object) -> object:
    """One entry, or a list of them, as a tuple."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, str | int) else value


def _names_or_expression(value: object) -> object:
    """A list as a tuple of names; a text stays the expression that it is, but for PEFT's one word."""
    if isinstance(value, str):
        return (ALL_LINEAR,) if value.lower() == ALL_LINEAR else _expression(value)
    return tuple(map(_module_name, value)) if isinstance(value, list) else value


def _module_name(name: object) -> object:
    if isinstance(name, str) and not is_module_path(name):
        raise ValueError("not a module's path")
    return name


def _expression(text: str) -> str:
    if not text or not text.isprintable() or len(text) > LONGEST_EXPRESSION:
        raise ValueError("no expression")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("not printable")
    return text


Rank: TypeAlias = Annotated[int, Field(ge=1, le=4096)]
#: At most as far as any adapter can mean; beyond float32, scalings would be infinite.
Alpha: TypeAlias = Annotated[float, Field(gt=0, le=1e30)]
Targeted: TypeAlias = Annotated[
    tuple[str, ...] | str,
    BeforeValidator(_names_or_expression),
    Field(
        max_length=_MANY,
        json_schema_extra={
            "allowed": f"a list of plain module names, a regular expression as text, or {ALL_LINEAR!r}"
        },
    ),
]
Pattern: TypeAlias = Annotated[str, AfterValidator(_expression)]
LayerLists: TypeAlias = Annotated[tuple[Pattern, ...], BeforeValidator(_listed), Field(max_length=_MANY)]
Printable: TypeAlias = Annotated[
    str,
    AfterValidator(_printable),
    Field(max_length=1024, json_schema_extra={"allowed": "a text of at most 1024 printable characters"}),
]
Layers: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed), Field(max_length=_MANY)
]
Settings: TypeAlias = Mapping[str, Any]

_BY_NAME: dict[str, Any] = {"allowed": f"at most {_MANY} numbers by module names or regular expressions"}


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class StatedConfig(Checked):
    """A file that asks for nothing a mixture cannot honour; null and absent are the same."""

    what: ClassVar[str] = CONFIG_FILE

    # what is kept
    r: Rank
    lora_alpha: Alpha
    target_modules: Targeted = Field(min_length=1)
    use_rslora: bool = False
    rank_pattern: Mapping[Pattern, Rank] = Field(
        default_factory=dict, max_length=_MANY, json_schema_extra=_BY_NAME
    )
    alpha_pattern: Mapping[Pattern, Alpha] = Field(
        default_factory=dict, max_length=_MANY, json_schema_extra=_BY_NAME
    )
    fan_in_fan_out: bool = False
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    init_lora_weights: bool | str = True
    #: Experts of a composition generate text.
    task_type: Literal["CAUSAL_LM"] | None = None
    base_model_name_or_path: Printable | None = None
    peft_version: Printable | None = None

    # what matters while training only, or is said by the tensors: checked and dropped
    inference_mode: bool = False
    revision: Printable | None = None
    exclude_modules: Targeted = ()
    layers_to_transform: Layers = ()
    layers_pattern: LayerLists = ()
    qalora_group_size: int | None = None
    eva_config: Settings | None = None
    velora_config: Settings | None = None
    runtime_config: Settings | None = None
