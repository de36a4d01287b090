"""Every form in which an adapter can be exported, in one table; compositions' are those of their method."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from workers.errors import SpecInvalid
from workers.requests.methods import METHODS


@dataclass(frozen=True, kw_only=True)
class AdapterExport:
    """What a command must know of a form, which `xlora_engine.saved.adapter_formats` writes."""

    #: One clause for help texts.
    summary: str
    #: Whether the weights of the base model are written too, in a dtype that may be chosen.
    with_weights: bool = False


#: The first is what `zoo export` writes of an adapter if no format is named.
ADAPTER_EXPORTS: Mapping[str, AdapterExport] = MappingProxyType(
    {
        "peft": AdapterExport(summary="a folder as PEFT saves a LoRA"),
        "vllm": AdapterExport(summary="the same with one rank and one scale, and nothing that vLLM refuses"),
        "merged": AdapterExport(summary="a base model with the adapter in its weights", with_weights=True),
    }
)

#: What a composition is exported to if no format is named.
DEFAULT_OF_COMPOSITIONS = "zoo"

#: Every format of `zoo export`.
EXPORT_FORMATS = tuple(
    dict.fromkeys((*(name for method in METHODS.values() for name in method.exports), *ADAPTER_EXPORTS))
)

#: What merged weights may be written in.
DTYPES = ("float32", "bfloat16", "float16")


def require_adapter_export(layout: str, *, with_base: bool, dtype: str | None) -> None:
    """Do nothing if an adapter can be exported so.

    Raises:
        SpecInvalid: it cannot, or an option says nothing about that format.
    """
    if layout not in ADAPTER_EXPORTS:
        allowed = f"one of {', '.join(ADAPTER_EXPORTS)} for an adapter"
        raise SpecInvalid("format", allowed=allowed, value=layout)
    if with_base:
        raise SpecInvalid("with_base", allowed="left out for an adapter", value=True)
    if dtype is not None and not ADAPTER_EXPORTS[layout].with_weights:
        raise SpecInvalid("dtype", allowed=f"left out with the format {layout}", value=dtype)
