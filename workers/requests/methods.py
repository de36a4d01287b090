"""Every method that mixes experts, in one table: what it needs, which fields it reads, what it exports to.

A method is a row here and the class that the row names, in a module of its own in `workers/methods`; that
class is imported where a composition is made or asked, never by a command that only needs the row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from workers.errors import SpecInvalid

#: Formats that an X-LoRA folder can be exported to; the first is what the registry holds.
_OF_XLORA = ("zoo", "xlora", "peft", "mistralrs")

#: Formats that one adapter can be exported to.
_OF_ADAPTERS = ("zoo", "peft", "vllm", "merged")


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a request, a plan and an export must know of a method."""

    #: One clause for help texts.
    summary: str
    #: `module:class` of what makes, stores and asks it.
    implementation: str
    #: Whether it learns from examples; if not, the experts' weights are all it needs.
    needs_data: bool
    #: Fields of a compose spec that it reads and others may not.
    settings: frozenset[str] = frozenset()
    #: Formats of `zoo export`.
    exports: tuple[str, ...]
    #: Whether it leaves one ordinary adapter, which is exported as adapters are.
    is_adapter: bool = False
    #: Whether the report of every other method compares with it, which costs seconds.
    in_every_report: bool = False
    #: Why it has no other exports, as a clause.
    not_exported: str = ""


def _merge(
    summary: str,
    implementation: str,
    *,
    settings: frozenset[str] = frozenset(),
    in_every_report: bool = False,
) -> Method:
    return Method(
        summary=summary,
        implementation=f"workers.methods.merged:{implementation}",
        needs_data=False,
        settings=frozenset({"merged_rank", "merge_scale"}) | settings,
        exports=_OF_ADAPTERS,
        is_adapter=True,
        in_every_report=in_every_report,
    )


def _router(
    summary: str, implementation: str, *, needs_data: bool = False, settings: frozenset[str] = frozenset()
) -> Method:
    return Method(
        summary=summary,
        implementation=implementation,
        needs_data=needs_data,
        settings=frozenset({"router_top_k", "router_temperature"}) | settings,
        exports=("zoo",),
        not_exported="whose router reads each layer's input: no format of X-LoRA or PEFT can express it",
    )


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "xlora": Method(
            summary="a trained head weighs the experts for each token and layer",
            implementation="workers.methods.xlora:XLora",
            needs_data=True,
            settings=frozenset(
                {
                    *("head", "data", "corpora", "samples_per_domain", "checkpoint_every_s"),
                    *("warm_start_steps", "warm_start_learning_rate"),
                    *("mixture_steps", "budget_s", "mixture_learning_rate", "without_help", "load_penalty"),
                }
            ),
            exports=_OF_XLORA,
        ),
        "uniform": Method(
            summary="all experts weigh the same; nothing is trained",
            implementation="workers.methods.uniform:Uniform",
            needs_data=False,
            exports=_OF_XLORA,
        ),
        "linear": _merge("the mean of the experts as one adapter", "linear"),
        "ties": _merge(
            "of each expert the largest entries, of these the mean of the commoner sign, as one adapter",
            "ties",
            settings=frozenset({"density"}),
        ),
        "dare": _merge(
            "the mean of the experts, entries of each dropped at random, as one adapter",
            "dare",
            settings=frozenset({"density"}),
        ),
        "core-ties": _merge(
            "TIES in the space that the experts share, as one adapter",
            "core_ties",
            settings=frozenset({"density"}),
            in_every_report=True,
        ),
        "pico": _merge(
            "the mean of the experts, output directions that they share weighing less, as one adapter",
            "pico",
            in_every_report=True,
        ),
        "cat": Method(
            summary="a trained weight for each expert and layer, as one adapter",
            implementation="workers.methods.cat:Cat",
            needs_data=True,
            settings=frozenset(
                {
                    *("data", "corpora", "samples_per_domain", "checkpoint_every_s", "merged_rank"),
                    *("mixture_steps", "budget_s", "cat_learning_rate", "merge_scale"),
                }
            ),
            exports=_OF_ADAPTERS,
            is_adapter=True,
        ),
        "arrow": _router(
            "each layer weighs the experts by the direction that each amplifies most; nothing is trained",
            "workers.methods.routed:arrow",
        ),
        "spectr": _router(
            "each layer weighs the experts by the size of each one's response; nothing is trained",
            "workers.methods.routed:spectr",
        ),
        "phatgoose": _router(
            "each layer weighs the experts by a gate that each learnt on its own data, once",
            "workers.methods.phatgoose:Phatgoose",
            needs_data=True,
            settings=frozenset({"data", "samples_per_domain", "gate_steps"}),
        ),
    }
)

DEFAULT_METHOD = "xlora"

#: Asks for every method of the table; the composition that is registered is of the best.
ALL_METHODS = "all"

#: What may be asked for.
ASKED_METHODS = (*METHODS, ALL_METHODS)

_ALL = Method(
    summary="each of them, compared in one report; the best is registered",
    implementation="",
    needs_data=True,
    settings=frozenset[str]().union(*(row.settings for row in METHODS.values())),
    exports=(),
)

#: What the option is said to do.
METHODS_HELP = (
    "; ".join(f"{name}: {row.summary}" for name, row in {**METHODS, ALL_METHODS: _ALL}.items()) + "."
)


def method_row(name: str) -> Method:
    """The row of that name.

    Raises:
        SpecInvalid: there is none.
    """
    if name == ALL_METHODS:
        return _ALL
    if name not in METHODS:
        raise SpecInvalid("method", allowed=f"one of {', '.join(ASKED_METHODS)}", value=name)
    return METHODS[name]


def require_export(name: str, layout: str) -> None:
    """Do nothing if a composition of that method can be exported so.

    Raises:
        SpecInvalid: it cannot.
    """
    exports = method_row(name).exports
    if layout not in exports:
        allowed = f"one of {', '.join(exports)} for a composition of the method {name}"
        if reason := method_row(name).not_exported:
            allowed += f", {reason}"
        raise SpecInvalid("format", allowed=allowed, value=layout)


def require_read(name: str, given: Mapping[str, object]) -> None:
    """Do nothing if every field that was given is one that the method reads.

    Raises:
        SpecInvalid: another method alone reads it.
    """
    settings = method_row(name).settings
    others = frozenset[str]().union(*(row.settings for row in METHODS.values())) - settings
    for field in sorted(others.intersection(given)):
        raise SpecInvalid(field, allowed=f"left out with the method {name}", value=given[field])
