"""Training an adapter for company: its strength varies on the tokens with which every row begins.

In a mixture the gates cannot know the domain before the first token that tells it: until then every
expert acts at about 1/n. An adapter that only ever saw its full strength there has learnt to lean on it,
and its answers get worse in every mixture, however well the rest is routed. One that saw many strengths
does not lean on any.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn

from xlora_engine.chat import EncodedRow


def shared_prefix_length(rows: Sequence[EncodedRow]) -> int:
    """Tokens with which the prompt of every row begins, but for one at least that is a row's own."""
    columns = zip(*(row.token_ids[: row.prompt_length - 1] for row in rows), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def strengths(
    rows: Sequence[EncodedRow], *, prefix_length: int, least: float, turn: int
) -> Float[Tensor, "batch seq"]:
    """Strength of the adapter for each token of a batch padded on the left, as `collate` pads it.

    On the shared prefix the rows are spread evenly over `least`..1, which one gets which changes with
    `turn`; everywhere else it is 1.
    """
    count = len(rows)
    width = max(len(row.token_ids) for row in rows)
    spread = torch.ones(count, width)
    for place, row in enumerate(rows):
        begin = width - len(row.token_ids)
        share = (place + turn) % count / count if count > 1 else turn % 4 / 4
        spread[place, begin : begin + prefix_length] = 1 - share * (1 - least)
    return spread


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
