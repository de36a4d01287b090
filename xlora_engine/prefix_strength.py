"""Training an adapter for company: its strength varies on the tokens with which every row begins.

In a mixture the gates cannot know the domain before the first token that tells it: until then every
expert acts at about 1/n. An adapter that only ever saw its full strength there has learnt to lean on it,
and its answers get worse in every mixture, however well the rest is routed. One that saw many strengths
does not lean on any.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn

from xlora_engine.chat import EncodedRow


def prefix_strengths(count: int, *, least: float, turn: int) -> list[float]:
    """One strength for each row of a batch: 1, `least` and what lies between in equal ratios.

    For 1/8 and four rows 1, 1/2, 1/4 and 1/8: what an adapter gets where 1, 2, 4 and 8 are weighed alike.
    `turn` decides whose is which; a single row takes turns as four would.
    """
    of = count if count > 1 else 4
    strengths: list[float] = [least ** ((place + turn) % of / (of - 1)) for place in range(count)]
    return strengths


def token_strengths(
    rows: Sequence[EncodedRow], on_prefix: Sequence[float], *, prefix_length: int
) -> Float[Tensor, "batch seq"]:
    """Strength for each token of a batch padded on the left, as `collate` pads it: 1 after the prefix."""
    width = max(len(row.token_ids) for row in rows)
    tokens = torch.ones(len(rows), width)
    for row_tokens, row, strength in zip(tokens, rows, on_prefix, strict=True):
        begin = width - len(row.token_ids)
        row_tokens[begin : begin + prefix_length] = strength
    return tokens


class StrengthContext:
    """The strengths in force in the adapter of one PEFT model; empty, it acts in full."""

    def __init__(self, model: PeftModel) -> None:
        self._now: Tensor | None = None
        self._ups = [module for name, module in model.named_modules() if ".lora_B." in f".{name}."]
        self._ups = [module for module in self._ups if isinstance(module, nn.Linear)]

    @contextmanager
    def using(self, strengths: Float[Tensor, "batch seq"]) -> Iterator[None]:
        """Inside, what the adapter adds to a token is multiplied by its strength."""
        hooks = [up.register_forward_hook(self._weaken) for up in self._ups]
        self._now = strengths[..., None]
        try:
            yield
        finally:
            self._now = None
            for hook in hooks:
                hook.remove()

    def _weaken(
        self, _up: nn.Module, _inputs: object, added: Float[Tensor, "batch seq out"]
    ) -> Float[Tensor, "batch seq out"]:
        if self._now is None:
            return added
        return added * self._now.to(added.dtype)
