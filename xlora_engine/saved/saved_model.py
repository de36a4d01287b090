"""An X-LoRA model apart from its base: what every format on disk is read into and written from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlora_engine.config import XLoraConfig
from xlora_engine.errors import CheckpointUnreadable, ProbeMismatch
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.sources.adapter_weights import Expert
from xlora_engine.sources.hub import looks_like_repository

PROBE_TOKENS = 8
#: Largest mean divergence (nats) of a reloaded model's answers to the probe from those saved, by dtype.
#: On the same machine it is 0; elsewhere additions come in another order, and their rounding differs.
PROBE_LIMITS = {"torch.float64": 1e-6, "torch.float32": 1e-6}
#: For dtypes of 8 to 11 bits, on either side.
PROBE_LIMIT_HALF = 5e-2


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Fixed token ids, the logits the saved model gave for them, and the dtype it computed in."""

    tensors: dict[str, Tensor]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """Configuration, experts and scaling head, read and verified; what a format leaves out is None."""

    config: XLoraConfig
    experts: tuple[Expert, ...]
    #: `layers.0.weight`, `layers.0.bias`, … as `ScalingHead` names them.
    head: dict[str, Tensor]
    #: Paths of the wrapped modules, in the order of the head's layer axis.
    layers: tuple[str, ...] | None = None
    #: The base model's name on the hub.
    base_id: str | None = None
    probe: Probe | None = None

    @classmethod
    def of(cls, model: Mixture) -> "SavedModel":
        """A model as it is now, its experts as trained since; tensors are shared with it."""
        return cls(
            config=model.config,
            experts=tuple(replace(expert, updates=model.updates_of(expert)) for expert in model.experts),
            head={name: tensor.detach() for name, tensor in model.head.state_dict().items()},
            layers=tuple(model.layers),
            base_id=_hub_name(model.base.name_or_path),
        )

    def restore(self, model: Mixture, *, verify: bool) -> None:
        """Load the scaling head into a model built from `config` and `experts`.

        Raises:
            CheckpointUnreadable: the head's tensors are not those the configuration asks for.
            ProbeMismatch: with `verify`, the model does not answer the probe as the saved one did.
        """
        if self.layers is not None and tuple(model.layers) != self.layers:
            raise CheckpointUnreadable(
                f"the checkpoint numbers {len(self.layers)} layers, this base model gives "
                f"{len(model.layers)} in that order; load it on the base model it was saved with"
            )
        try:
            model.head.load_state_dict(self.head, strict=True)
        except RuntimeError as error:
            raise CheckpointUnreadable(
                f"the scaling head does not fit the configuration, the experts and this base model: {error}"
            ) from error
        model.eval()
        if verify and self.probe is not None:
            check_probe(model, self.probe.tensors, saved_dtype=self.probe.dtype)


def _hub_name(loaded_from: str | None) -> str | None:
    """A base model's name on the hub, unless it was loaded from a folder."""
    if loaded_from and looks_like_repository(loaded_from) and not Path(loaded_from).exists():
        return loaded_from
    return None


def ask_probe(model: Mixture) -> dict[str, Tensor]:
    """Fixed token ids spread over the vocabulary, and the model's logits for them."""
    vocabulary = model.base.config.get_text_config(decoder=True).vocab_size
    token_ids = torch.arange(1, PROBE_TOKENS + 1) * (vocabulary // (PROBE_TOKENS + 2))
    return {"token_ids": token_ids[None], "logits": _logits(model, token_ids[None])}


@torch.no_grad()
def _logits(model: Mixture, token_ids: Int[Tensor, "1 seq"]) -> Float[Tensor, "1 seq vocabulary"]:
    # The two passes themselves: whoever saves may have fixed the scalings meanwhile.
    training = model.training
    model.eval()
    try:
        token_ids = token_ids.to(model.device)
        scalings = model.head(model.scaling_pass(token_ids))
        logits = cast("Tensor", model.mixture_pass(scalings, input_ids=token_ids).logits)
    finally:
        model.train(training)
    return logits.float().cpu()


def check_probe(model: Mixture, probe: dict[str, Tensor], *, saved_dtype: str) -> None:
    limit = max(PROBE_LIMITS.get(dtype, PROBE_LIMIT_HALF) for dtype in (saved_dtype, str(model.dtype)))
    saved, found = probe["logits"], _logits(model, probe["token_ids"])
    if saved.shape != found.shape:
        raise ProbeMismatch(f"saved with {saved.shape[-1]} tokens, this base has {found.shape[-1]}")
    divergence = (
        torch.nn.functional.kl_div(
            found.log_softmax(-1), saved.log_softmax(-1), log_target=True, reduction="sum"
        ).item()
        / saved.shape[1]
    )
    if not divergence <= limit:
        raise ProbeMismatch(
            f"the model answers the stored probe {divergence:.2g} nats off (at most {limit:g}); "
            "load it on the base model it was trained on"
        )
