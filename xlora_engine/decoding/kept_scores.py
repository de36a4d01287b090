"""Scores and logits of every step of a generation, if the caller wants them."""

from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig


class KeptScores:
    """Grows by one entry a step; None for those not wanted, as `GenerationMixin` returns them."""

    def __init__(self, config: GenerationConfig) -> None:
        wanted = config.return_dict_in_generate
        self.scores: tuple[Tensor, ...] | None = () if wanted and config.output_scores else None
        self.logits: tuple[Tensor, ...] | None = () if wanted and config.output_logits else None

    def add(self, scores: Float[Tensor, "batch vocab"], logits: Float[Tensor, "batch vocab"]) -> None:
        """Append those of one step."""
        if self.scores is not None:
            self.scores = (*self.scores, scores)
        if self.logits is not None:
            self.logits = (*self.logits, logits)
