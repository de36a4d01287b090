"""Put questions to a subject: chat template in, text out, streamed on a terminal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers.generation.streamers import TextStreamer

from registry.service import Registry
from workers.errors import SpecInvalid
from workers.jobs.answering import Answerer, answering
from workers.requests.generation import GenerateRequest
from xlora_engine.data.chat import ChatTokenizer, encode_question, pad_token
from xlora_engine.sources.base_model import ReadLimits

#: Receives a piece of an answer as soon as later tokens will not change it.
OnText = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a subject said."""

    subject: str
    question: str
    text: str
    new_tokens: int


class _Streamer(TextStreamer):
    """Hands every finished piece of text to a function."""

    def __init__(self, tokenizer: Any, on_text: OnText) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
        """Called by `transformers` with text that later tokens will not change."""
        self._on_text(text)


def answers(
    registry: Registry,
    request: GenerateRequest,
    *,
    on_question: Callable[[str], None] = lambda _: None,
    on_text: OnText | None = None,
) -> Iterator[Answer]:
    """The answers, each as soon as it is complete; `on_question` receives a question before its answer.

    Raises:
        NotFound: there is no such subject.
        ChatInvalid: the base model's template refuses a question, or a token of it has no embedding.
        SpecInvalid: a question and its answer are longer than the base model reads.
    """
    fits = partial(require_room, request=request)
    with answering(registry, request.subject, before_weights=fits) as answerer:
        for question in request.questions:
            on_question(question)
            yield ask(answerer, question, request, on_text=on_text)


def require_room(tokenizer: ChatTokenizer, limits: ReadLimits, *, request: GenerateRequest) -> None:
    """Do nothing if every question fits, with its answer, into what a base model reads.

    Raises:
        ChatInvalid: the template refuses a question, or a token of it has no embedding.
        SpecInvalid: one does not; past that length a model repeats itself, or breaks off.
    """
    for question in request.questions:
        messages = _messages(question, request.system)
        asked = len(encode_question(tokenizer, messages, embeddings=limits.embeddings))
        if asked >= limits.tokens:
            allowed = (
                f"at most {limits.tokens - 1} tokens each, system message and template included: this base"
                f" model reads {limits.tokens}"
            )
            raise SpecInvalid("questions", allowed=allowed, value=asked)
        if asked + request.max_new_tokens > limits.tokens:
            allowed = (
                f"at most {limits.tokens - asked} here: this base model reads {limits.tokens} tokens, and"
                f" {asked} are the question's, system message and template included"
            )
            raise SpecInvalid("max_new_tokens", allowed=allowed, value=request.max_new_tokens)


def ask(
    answerer: Answerer, question: str, request: GenerateRequest, *, on_text: OnText | None = None
) -> Answer:
    """Let a subject answer one question."""
    tokenizer = answerer.tokenizer
    asked = encode_question(tokenizer, _messages(question, request.system))
    prompt = torch.tensor([asked], device=answerer.device)
    torch.manual_seed(request.seed)
    drawing = {"do_sample": True, "temperature": request.temperature} if request.temperature else {}
    streaming = {"streamer": _Streamer(tokenizer, on_text)} if on_text else {}
    ids = answerer.generate(
        prompt,
        torch.ones_like(prompt),
        request.max_new_tokens,
        pad_token_id=pad_token(tokenizer),
        **drawing,
        **streaming,
    )
    new = ids[0, len(asked) :]
    text = tokenizer.decode(new.tolist(), skip_special_tokens=True).strip()
    return Answer(subject=answerer.subject, question=question, text=text, new_tokens=len(new))


def _messages(question: str, system: str | None) -> Sequence[tuple[str, str]]:
    said = [] if system is None else [("system", system)]
    return [*said, ("user", question)]
