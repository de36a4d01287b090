"""Texts that end an answer: while tokens are chosen, in the finished text, and in text that is streamed."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import StoppingCriteria

#: Tokens of no text, such as special ones, that may stand among those of a stop text.
_TOKENS_BESIDE = 8


class Decodes(Protocol):
    """What is used of a tokenizer."""

    def decode(self, token_ids: list[int], **kwargs: Any) -> Any:
        """Tokens as text."""


class StopTexts(StoppingCriteria):
    """Ends a sequence once its answer holds one of the texts, wherever tokens begin and end.

    Unlike the criterion of transformers it looks at the answer alone: a text that begins in the prompt, whose
    last characters may be a newline of the chat template, ends nothing.
    """

    def __init__(self, tokenizer: Decodes, texts: Sequence[str], *, prompt_length: int) -> None:
        self._tokenizer, self._texts, self._start = tokenizer, tuple(texts), prompt_length
        # A token of text has a byte at least.
        self._window = max(len(text.encode()) for text in texts) + _TOKENS_BESIDE

    def __call__(
        self,
        input_ids: Int[Tensor, "batch seq"],
        scores: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> Bool[Tensor, " batch"]:
        """Whether each sequence holds a stop text at its end."""
        newest = input_ids[:, max(self._start, input_ids.shape[1] - self._window) :].tolist()
        found = [self._holds_one(ids) for ids in newest]
        return torch.tensor(found, dtype=torch.bool, device=input_ids.device)

    def _holds_one(self, ids: list[int]) -> bool:
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return any(stop in text for stop in self._texts)


def before_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """An answer up to the first stop text, and whether it holds one."""
    ends = [at for at in map(text.find, stops) if at >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


class StreamedText:
    """Passes text on as soon as it cannot belong to a stop text, and nothing from a stop text on."""

    def __init__(self, on_text: Callable[[str], None], stops: Sequence[str]) -> None:
        self._on_text, self._stops = on_text, tuple(stops)
        self._held, self._stopped = "", False

    def add(self, text: str) -> None:
        """More text."""
        if self._stopped:
            return
        self._held, self._stopped = before_stop(self._held + text, self._stops)
        self._pass_on(len(self._held) if self._stopped else len(self._held) - self._may_begin_a_stop())

    def end(self) -> None:
        """Pass on what is left; the next text is that of another answer."""
        self._pass_on(len(self._held))
        self._stopped = False

    def _pass_on(self, count: int) -> None:
        if count:
            self._on_text(self._held[:count])
        self._held = self._held[count:]

    def _may_begin_a_stop(self) -> int:
        """How many of the last characters are the beginning of a stop text."""
        longest = max(map(len, self._stops), default=1) - 1
        for count in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stops):
                return count
        return 0
