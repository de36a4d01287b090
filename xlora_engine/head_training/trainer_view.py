"""A mixture in the form that `transformers.Trainer` takes: checkpoints hold what is trained, not the base."""

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from xlora_engine.errors import ConfigInvalid
from xlora_engine.mixture.mixture import Mixture


class TrainerView(nn.Module):
    """`Trainer(model=TrainerView(mixture), …)` trains the mixture; save it with its own `save_pretrained`.

    A `Trainer` changes the configuration of a model that has one, saves its whole state, and predicts with
    all of its outputs. This view has no configuration, only trained state, and only loss and logits.
    """

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        # From these a `Trainer` decides over how many tokens the model averages its loss.
        self.loss_type = getattr(mixture.base, "loss_type", None)
        self.accepts_loss_kwargs = any(
            given.kind is Parameter.VAR_KEYWORD
            for given in signature(mixture.base.forward).parameters.values()
        )

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "batch seq"] | None = None,
        inputs_embeds: Float[Tensor, "batch seq hidden"] | None = None,
        labels: Int[Tensor, "batch seq"] | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Loss, if there are labels, and logits; a `Trainer` reads from the names which columns to pass."""
        out = self.mixture(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            **kwargs,
        )
        return {name: out[name] for name in ("loss", "logits") if name in out}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is trained, each tensor once: layers that share their input share one stack of experts."""
        learns = self._learns()
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in learns}

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,  # noqa: ARG002  # a `Trainer` asks for leniency, which would hide a mistake
        assign: bool = False,
    ) -> _IncompatibleKeys:
        """Load what `state_dict` returned.

        Raises:
            ConfigInvalid: the state is of a mixture in which other parameters are trained.
        """
        learns = self._learns()
        if learns != set(state_dict):
            raise ConfigInvalid("state", f"of {len(learns)} trained tensors", sorted(state_dict)[:3])
        super().load_state_dict(state_dict, strict=False, assign=assign)
        return _IncompatibleKeys([], [])

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """As `Mixture.gradient_checkpointing_enable`.

        Raises:
            ConfigInvalid: some blocks only, or activations kept on the host.
        """
        for name, value, allowed in (("every_n_layers", every_n_layers, 1), ("offload", offload, False)):
            if value != allowed:
                raise ConfigInvalid(name, f"{allowed!r}, or left out", value)
        self.mixture.gradient_checkpointing_enable(activation_checkpointing_kwargs)

    def _learns(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}
