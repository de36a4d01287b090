"""What an adapter_config.json may state, field by field: an allow-list, typed and ranged.

Names and defaults: peft 0.21.2, `LoraConfig`. PEFT takes a text for a regular expression, and a stranger's
can run for ever: names are plain here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked
from formats.peft import ALL_LINEAR, CONFIG_FILE, is_module_path, is_plain_pattern

_MANY = 10_000
_PLAIN = "plain module names (no regular expression)"


def _listed(value: object) -> object:
    """One entry, or a list of them, as a tuple."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, str | int) else value


def _module_name(name: str) -> str:
    if name != ALL_LINEAR and not is_module_path(name):
        raise ValueError("not a module's path")
    return name


def _all_or_some(names: tuple[str, ...]) -> tuple[str, ...]:
    if ALL_LINEAR in names and names != (ALL_LINEAR,):
        raise ValueError("all-linear beside other names")
    return names


def _plain_pattern(name: str) -> str:
    if not is_plain_pattern(name):
        raise ValueError("a regular expression")
    return name


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("not printable")
    return text


Rank: TypeAlias = Annotated[int, Field(ge=1, le=4096)]
#: At most as far as any adapter can mean; beyond float32, scalings would be infinite.
Alpha: TypeAlias = Annotated[float, Field(gt=0, le=1e30)]
ModuleNames: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_module_name)], ...],
    BeforeValidator(_listed),
    AfterValidator(_all_or_some),
    Field(max_length=_MANY, json_schema_extra={"allowed": f"a list of {_PLAIN}, or {ALL_LINEAR!r}"}),
]
Pattern: TypeAlias = Annotated[str, AfterValidator(_plain_pattern)]
Printable: TypeAlias = Annotated[
    str,
    AfterValidator(_printable),
    Field(max_length=1024, json_schema_extra={"allowed": "a text of at most 1024 printable characters"}),
]
Layers: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed), Field(max_length=_MANY)
]
Settings: TypeAlias = Mapping[str, Any]

_BY_NAME: dict[str, Any] = {"allowed": f"at most {_MANY} numbers by {_PLAIN}"}


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class StatedConfig(Checked):
    """A file that asks for nothing a mixture cannot honour; null and absent are the same."""

    what: ClassVar[str] = CONFIG_FILE

    # what is kept
    r: Rank
    lora_alpha: Alpha
    target_modules: ModuleNames = Field(min_length=1)
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
    exclude_modules: ModuleNames = ()
    layers_to_transform: Layers = ()
    layers_pattern: ModuleNames = ()
    qalora_group_size: int | None = None
    eva_config: Settings | None = None
    velora_config: Settings | None = None
    runtime_config: Settings | None = None
