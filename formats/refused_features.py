"""A table of the features of an adapter's configuration that a mixture of plain LoRA does not support.

Registry and engine refuse by this table, so that no adapter is registered that cannot be loaded, or loaded as
something else than it is. Source: peft 0.21.2, `LoraConfig`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from formats.strict_json import shown

#: Initialisations that leave the base model's weights unchanged, so that A and B are complete.
PLAIN_STARTS = ("gaussian", "orthogonal", "eva")

_CLASSIFIER = re.compile(r"For(?:Sequence|Token|Image|Audio)Classification\Z")
_DIFFUSION = re.compile(r"\Adiffusers\b|\AUNet|Transformer[23]DModel\Z")
_TRANSFORMERS_MODULE = re.compile(r"transformers(?:\.[a-z0-9_]+)*")


@dataclass(frozen=True, kw_only=True)
class RefusedFeature:
    """One field of adapter_config.json: the values that enable the feature, the reason, and the remedy."""

    field: str
    #: Whether a value, None where the field is absent, asks for the feature.
    asks: Callable[[Any], bool] = bool
    reason: str
    remedy: str = "train the adapter again without it"

    def refusal(self, config: Mapping[str, Any]) -> str:
        """The message for a configuration that enables the feature."""
        value = shown(config.get(self.field))
        return f"{self.field} = {value} cannot be honoured: {self.reason}; {self.remedy}"


def refused_feature(config: Mapping[str, Any]) -> RefusedFeature | None:
    """The first feature of the table that a configuration enables, if any."""
    return next((row for row in REFUSED_FEATURES if row.asks(config.get(row.field))), None)


def _is_no_transformers_class(value: Any) -> bool:
    """Whether it is set, and names no class of transformers, as PEFT writes where the task is left out."""
    if not value:
        return False
    is_class = (
        isinstance(value, dict)
        and {"base_model_class", "parent_library"} & set(value)
        and str(value.get("base_model_class", "x")).isidentifier()
        and _TRANSFORMERS_MODULE.fullmatch(str(value.get("parent_library", "transformers"))) is not None
    )
    return not is_class


def _is_class_like(name: re.Pattern[str]) -> Callable[[Any], bool]:
    """Whether the class or library that an `auto_mapping` names is of a kind."""

    def asks(value: Any) -> bool:
        named = value if isinstance(value, dict) else {}
        return any(name.search(str(named.get(f, ""))) for f in ("base_model_class", "parent_library"))

    return asks


def _names_a_label_head(value: Any) -> bool:
    return isinstance(value, list) and not {"score", "classifier"}.isdisjoint(map(str, value))


def _changes_the_base(start: Any) -> bool:
    is_plain = isinstance(start, str) and start.lower() in PLAIN_STARTS
    return not (start is None or isinstance(start, bool) or is_plain)


def _is_other_than(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: value not in allowed


def _is_one_of(*refused: Any) -> Callable[[Any], bool]:
    return lambda value: value in refused


#: The field that says which kind of adapter it is; its row comes first.
TYPE_FIELD = "peft_type"

_LABELS = "it is a classifier's, which gives labels and no text"
_WRITERS = "only an adapter of a causal language model can be an expert"

#: In the order in which they are said: what it is first, what it asks for afterwards.
REFUSED_FEATURES: tuple[RefusedFeature, ...] = (
    RefusedFeature(
        field=TYPE_FIELD,
        asks=_is_other_than("LORA"),
        reason="it must be 'LORA', no other kind of adapter can be an expert",
        remedy="train a LoRA adapter",
    ),
    RefusedFeature(
        field="auto_map",
        reason="it makes transformers run remote code, which comes with the adapter",
        remedy="use a base model that transformers has itself",
    ),
    RefusedFeature(
        field="task_type",
        asks=_is_one_of("SEQ_CLS", "TOKEN_CLS"),
        reason=_LABELS,
        remedy=_WRITERS,
    ),
    RefusedFeature(
        field="task_type",
        asks=_is_one_of("SEQ_2_SEQ_LM"),
        reason="it is of an encoder-decoder such as T5, whose encoder a mixture cannot run",
        remedy=_WRITERS,
    ),
    RefusedFeature(
        field="task_type",
        asks=_is_one_of("FEATURE_EXTRACTION"),
        reason="it is of an embedding model, which gives vectors and no text",
        remedy=_WRITERS,
    ),
    RefusedFeature(
        field="task_type",
        asks=_is_one_of("QUESTION_ANS"),
        reason="it is of a model that marks answers in a text and writes none",
        remedy=_WRITERS,
    ),
    RefusedFeature(field="modules_to_save", asks=_names_a_label_head, reason=_LABELS, remedy=_WRITERS),
    RefusedFeature(field="auto_mapping", asks=_is_class_like(_CLASSIFIER), reason=_LABELS, remedy=_WRITERS),
    RefusedFeature(
        field="auto_mapping",
        asks=_is_class_like(_DIFFUSION),
        reason="it is of a diffusion model, which makes pictures",
        remedy=_WRITERS,
    ),
    RefusedFeature(
        field="auto_mapping",
        asks=_is_no_transformers_class,
        reason="it is of a class outside transformers, remote code that PEFT would import",
        remedy="use a base model that transformers has itself",
    ),
    RefusedFeature(field="use_dora", reason="DoRA rescales the base model's weights"),
    RefusedFeature(
        field="bias", asks=_is_other_than(None, "none"), reason="biases of the base model would change"
    ),
    RefusedFeature(field="lora_bias", reason="a bias beside B is not part of a mixture"),
    RefusedFeature(field="modules_to_save", reason="whole layers of the base model would be replaced"),
    RefusedFeature(field="layer_replication", reason="the base model would get other layers"),
    RefusedFeature(field="trainable_token_indices", reason="the vocabulary would change"),
    RefusedFeature(field="target_parameters", reason="only whole modules can be experts"),
    RefusedFeature(field="ensure_weight_tying", reason="tied adapters are not part of a mixture"),
    RefusedFeature(field="megatron_config", reason="it makes PEFT import code"),
    RefusedFeature(
        field="megatron_core",
        asks=_is_other_than(None, "megatron.core"),
        reason="it makes PEFT import code",
    ),
    RefusedFeature(field="tokenizer_kwargs", reason="it belongs to prompt tuning and can load code"),
    RefusedFeature(
        field="alora_invocation_tokens", reason="activated LoRA changes only what follows an invocation"
    ),
    RefusedFeature(field="use_qalora", reason="QALoRA needs a quantised base model"),
    RefusedFeature(field="use_bdlora", reason="block-diagonal factors are not plain LoRA"),
    RefusedFeature(field="arrow_config", reason="Arrow routes adapters in a way of its own"),
    RefusedFeature(field="kasa_config", reason="KaSA truncates the base model's weights"),
    RefusedFeature(field="monteclora_config", reason="Monte Carlo samples would be added to the weights"),
    RefusedFeature(field="corda_config", reason="CorDA changes the base model and can load a pickle"),
    RefusedFeature(field="lora_ga_config", reason="LoRA-GA changes the base model and can load a pickle"),
    RefusedFeature(field="loftq_config", reason="LoftQ changes the base model's weights"),
    RefusedFeature(
        field="init_lora_weights",
        asks=_changes_the_base,
        reason=(
            "a start such as PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA or MiCA changes the base model or depends on"
            " its weights"
        ),
        remedy=(
            "save the adapter again with save_pretrained(..., path_initial_model_for_weight_conversion=...),"
            " which makes it plain LoRA"
        ),
    ),
)
