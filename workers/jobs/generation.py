"""Ask a subject one question: chat template in, text out, streamed on a terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.generation.streamers import TextStreamer

from workers.errors import SpecInvalid
from workers.jobs.answering import Answerer
from xlora_engine.data.chat import ChatTokenizer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a subject said."""

    subject: str
    question: str
    text: str
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn; temperature 0 is greedy."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0


class _Streamer(TextStreamer):
    """Hands every finished piece of text to a function."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
        """Called by `transformers` with text that later tokens will not change."""
        self._on_text(text)


def require_room(
    tokenizer: ChatTokenizer,
    context_tokens: int,
    questions: Sequence[str],
    *,
    system: str | None,
    sampling: Sampling,
) -> None:
    """Do nothing if every question fits, with its answer, into what a base model reads.

    Raises:
        SpecInvalid: one does not; past that length a model repeats itself, or breaks off.
    """
    for question in questions:
        asked = _prompt_ids(tokenizer, question, system).shape[1]
        if asked >= context_tokens:
            allowed = (
                f"at most {context_tokens - 1} tokens each, system message and template included: this base"
                f" model reads {context_tokens}"
            )
            raise SpecInvalid("questions", allowed=allowed, value=asked)
        if asked + sampling.max_new_tokens > context_tokens:
            allowed = (
                f"at most {context_tokens - asked} here: this base model reads {context_tokens} tokens, and"
                f" {asked} are the question's, system message and template included"
            )
            raise SpecInvalid("max_new_tokens", allowed=allowed, value=sampling.max_new_tokens)


def ask(
    answerer: Answerer,
    question: str,
    *,
    system: str | None,
    sampling: Sampling,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Let a subject answer one question."""
    prompt = _prompt_ids(answerer.tokenizer, question, system).to(answerer.device)
    torch.manual_seed(sampling.seed)
    drawing = {"do_sample": True, "temperature": sampling.temperature} if sampling.temperature else {}
    streaming = {"streamer": _Streamer(answerer.tokenizer, on_text)} if on_text else {}
    ids = answerer.generate(
        prompt,
        torch.ones_like(prompt),
        sampling.max_new_tokens,
        pad_token_id=answerer.tokenizer.pad_token_id,
        **drawing,
        **streaming,
    )
    new = ids[0, prompt.shape[1] :]
    text = answerer.tokenizer.decode(new.tolist(), skip_special_tokens=True).strip()
    return Answer(subject=answerer.subject, question=question, text=text, new_tokens=len(new))


def _prompt_ids(tokenizer: ChatTokenizer, question: str, system: str | None) -> Int[Tensor, "1 seq"]:
    messages = [{"role": "user", "content": question}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    ids: torch.Tensor = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    return ids
