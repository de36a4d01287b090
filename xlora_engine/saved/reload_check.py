"""The reload check of a saved model: its logits for a few tokens, which the loaded model must give again."""

from dataclasses import dataclass
from typing import Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlora_engine.errors import ReloadMismatch
from xlora_engine.mixture.mixture import Mixture

TOKENS = 8
#: Largest mean divergence (nats) of a loaded model's logits from those saved, by dtype. On the same machine
#: it is 0; elsewhere additions come in another order, and their rounding differs.
DIVERGENCE_LIMITS = {"torch.float64": 1e-6, "torch.float32": 1e-6}
#: For dtypes with 8 to 11 significant bits, on either side.
DIVERGENCE_LIMIT_HALF = 5e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class ReloadCheck:
    """Fixed token ids, the logits the saved model gave for them, and the dtype it computed in."""

    token_ids: Int[Tensor, "1 seq"]
    logits: Float[Tensor, "1 seq vocabulary"]
    dtype: str

    @classmethod
    def of(cls, model: Mixture) -> Self:
        """Ask a model for its logits on token ids spread over the vocabulary."""
        vocabulary = model.base.config.get_text_config(decoder=True).vocab_size
        token_ids = (torch.arange(1, TOKENS + 1) * (vocabulary // (TOKENS + 2)))[None]
        return cls(token_ids=token_ids, logits=_logits(model, token_ids), dtype=str(model.dtype))

    def require_same(self, model: Mixture) -> None:
        """Compare a loaded model's logits with those saved.

        Raises:
            ReloadMismatch: they diverge by more than rounding explains: another base model, most often.
        """
        limit = max(
            DIVERGENCE_LIMITS.get(dtype, DIVERGENCE_LIMIT_HALF) for dtype in (self.dtype, str(model.dtype))
        )
        saved, found = self.logits, _logits(model, self.token_ids)
        if saved.shape != found.shape:
            raise ReloadMismatch(f"saved with {saved.shape[-1]} tokens, this base has {found.shape[-1]}")
        divergence = (
            torch.nn.functional.kl_div(
                found.log_softmax(-1), saved.log_softmax(-1), log_target=True, reduction="sum"
            ).item()
            / saved.shape[1]
        )
        if not divergence <= limit:
            raise ReloadMismatch(
                f"the loaded model's logits differ from those saved by {divergence:.2g} nats (at most "
                f"{limit:g} allowed); load it on the base model it was trained on"
            )


@torch.no_grad()
def _logits(model: Mixture, token_ids: Int[Tensor, "1 seq"]) -> Float[Tensor, "1 seq vocabulary"]:
    # The two passes themselves: the caller may have fixed the scalings before saving.
    training = model.training
    model.eval()
    try:
        token_ids = token_ids.to(model.device)
        scalings = model.head(model.scaling_pass(token_ids))
        logits = cast("Tensor", model.mixture_pass(scalings, input_ids=token_ids).logits)
    finally:
        model.train(training)
    return logits.float().cpu()
