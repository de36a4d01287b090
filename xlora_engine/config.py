"""What an X-LoRA model is configured with: one frozen value that refuses what cannot work."""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked, Distinct
from formats.errors import InvalidField
from formats.names import NAME_ALLOWED, NAME_RULE
from xlora_engine.errors import ConfigInvalid

#: It is also a folder of the saved model.
ExpertName: TypeAlias = Annotated[
    str, Field(pattern=f"^{NAME_RULE}$", json_schema_extra={"allowed": f"a name of {NAME_ALLOWED}"})
]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class XLoraConfig(Checked):
    """How hidden states become scalings, and scalings weigh experts (arXiv:2402.07148).

    Field names and defaults are PEFT's, so that a configuration can move between the two;
    `enable_relu_and_dropout` and `use_bias`, which PEFT lacks, are the original package's.

    Raises:
        ConfigInvalid: a field is unknown or out of range, or two fields contradict each other.
    """

    what: ClassVar[str] = "an X-LoRA configuration"
    refusal: ClassVar[type[InvalidField]] = ConfigInvalid

    adapters: Distinct[ExpertName] = Field(
        default=(), description="Expert names, in the order of the scaling head's outputs."
    )
    hidden_size: int = Field(
        default=0,
        ge=0,
        description="Width of the base model's hidden states; 0 until a base model is known.",
    )
    layerwise_scalings: bool = Field(
        default=False,
        description="One set of scalings for each wrapped layer, instead of one for all of them.",
    )
    xlora_depth: int = Field(
        default=1, ge=1, description="Linear layers in the scaling head; 1 is a single linear map."
    )
    xlora_size: int = Field(
        default=2048,
        ge=1,
        description="Width of the scaling head's inner layers, where the depth is above 1.",
    )
    xlora_dropout_p: float = Field(
        default=0.2, ge=0, lt=1, description="Dropout between the scaling head's layers, while training."
    )
    enable_relu_and_dropout: bool = Field(
        default=True,
        description="ReLU and dropout between the scaling head's layers; off, it is linear at any depth.",
    )
    use_bias: bool = Field(default=True, description="Whether the scaling head's layers have a bias.")
    enable_softmax: bool = Field(
        default=True, description="Softmax over the experts; off, the raw logits weigh them."
    )
    softmax_temperature: float = Field(default=1.0, gt=0, description="Divides the logits before a softmax.")
    top_k_lora: int | None = Field(
        default=None,
        ge=1,
        description="Only the k largest scalings of a token and layer act; all do if left out.",
    )
    enable_softmax_topk: bool = Field(
        default=False,
        description="Softmax over the k kept logits alone, so that what acts sums to 1.",
    )
    unit_top_1: bool = Field(
        default=False,
        description="Only a token's best expert of a layer acts, at scaling 1, the scale it was trained at;"
        " gradients pass as through the softmax.",
    )
    sigmoid_floor: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Each expert's scaling is the sigmoid of its own logit, this at least: experts do not"
        " compete, and none falls silent. Without it, or with softmax, they do.",
    )
    absent_experts: Literal["drop", "renormalise"] = Field(
        default="drop",
        description="What happens, at a layer that some experts do not adapt, to the share those experts"
        " have: drop it, as in the paper, or renormalise: softmax and top-k of that layer run over the"
        " experts that adapt it.",
    )
    scaling_pass_value: float = Field(
        default=0.0,
        description="Constant scaling of every expert in the scaling pass; 0 makes it the plain base model.",
    )
    global_scaling_weight: float = Field(
        default=1.0, description="Multiplies every expert's output, in both passes."
    )
    use_trainable_adapters: bool = Field(
        default=False, description="Train the experts along with the scaling head."
    )

    def to_json(self) -> dict[str, Any]:
        """Every field; those that came later only where they are set, so that equal heads have equal JSON."""
        later = {"unit_top_1": False, "sigmoid_floor": None}
        return {name: value for name, value in super().to_json().items() if later.get(name, ...) != value}

    def __post_init__(self) -> None:
        self._check_top_k()
        self._check_gate()
        if self.enable_softmax or self.enable_softmax_topk:
            return
        if self.absent_experts == "renormalise":
            # Raw logits are no shares of a whole.
            raise ConfigInvalid("absent_experts", "drop where there is no softmax", self.absent_experts)
        if self.softmax_temperature != 1:
            raise ConfigInvalid(
                "softmax_temperature", "1 where there is no softmax", self.softmax_temperature
            )

    def _check_gate(self) -> None:
        chosen = self.top_k_lora is not None
        if self.unit_top_1 and (chosen or not self.enable_softmax):
            raise ConfigInvalid(
                "unit_top_1", "false unless enable_softmax is set and top_k_lora is not", True
            )
        if self.sigmoid_floor is not None and (chosen or self.enable_softmax):
            allowed = "left out unless enable_softmax is false and top_k_lora is not set"
            raise ConfigInvalid("sigmoid_floor", allowed, self.sigmoid_floor)

    def _check_top_k(self) -> None:
        experts, k = len(self.adapters), self.top_k_lora
        if experts and k is not None and k > experts:
            raise ConfigInvalid("top_k_lora", f"a whole number in 1..{experts}, the experts", k)
        if not self.enable_softmax_topk:
            return
        if k is None:
            raise ConfigInvalid("enable_softmax_topk", "false where top_k_lora is not set", True)
        if self.enable_softmax:
            allowed = "false where enable_softmax_topk is set (one softmax, not two)"
            raise ConfigInvalid("enable_softmax", allowed, True)
        if k == 1:
            # The one kept scaling is 1 whatever its logit, so no gradient would ever reach the head.
            raise ConfigInvalid("top_k_lora", "at least 2 where enable_softmax_topk is set", 1)
