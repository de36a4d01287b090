"""A loaded subject asked: chat template in, text out."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.generation.streamers import TextStreamer

from registry.service import Registry
from workers.errors import SpecInvalid
from workers.jobs.answering import Answerer, answering
from workers.requests.answers import Answer, OnText, RoutedToken, Routing
from workers.requests.generation import GenerateRequest
from xlora_engine.data.chat import ChatTokenizer, encode_question, encode_text, pad_token
from xlora_engine.decoding.stop_texts import StopTexts, StreamedText, before_stop
from xlora_engine.sources.base_model import ReadLimits
from xlora_engine.sources.own_generation_config import stops_of

#: Of a gate, whose last digits are rounding.
_DIGITS = 5


class _Streamer(TextStreamer):
    """Hands every finished piece of text on."""

    def __init__(self, tokenizer: Any, streamed: StreamedText) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._streamed = streamed

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by `transformers` with text that later tokens will not change."""
        self._streamed.add(text)
        if stream_end:
            self._streamed.end()


def answers(
    registry: Registry,
    request: GenerateRequest,
    *,
    on_question: Callable[[str], None],
    on_text: OnText | None,
) -> Iterator[Answer]:
    """The answers of `workers.jobs.generation.generate`."""
    fits = partial(require_room, request=request)
    with answering(registry, request.subject, before_weights=fits) as answerer:
        for question in request.questions:
            on_question(question)
            yield from ask(answerer, question, request, on_text=on_text)


def require_room(tokenizer: ChatTokenizer, limits: ReadLimits, *, request: GenerateRequest) -> None:
    """Do nothing if every question fits, with its answer, into what a base model reads.

    Raises:
        ChatInvalid: the template refuses a question, or a token of it has no embedding.
        SpecInvalid: one does not; past that length a model repeats itself, or breaks off.
    """
    for question in request.questions:
        asked = len(_prompt(tokenizer, question, request, embeddings=limits.embeddings))
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
) -> Iterator[Answer]:
    """Let a subject answer one question, as often as the request says."""
    tokenizer = answerer.tokenizer
    asked = _prompt(tokenizer, question, request)
    prompt = torch.tensor([asked], device=answerer.device)
    torch.manual_seed(request.seed)
    options = request.drawing
    if request.stop:
        options["stopping_criteria"] = [StopTexts(tokenizer, request.stop, prompt_length=len(asked))]
    if on_text is not None and request.can_stream:
        options["streamer"] = _Streamer(tokenizer, StreamedText(on_text, request.stop))
    ids = answerer.generate(
        prompt,
        torch.ones_like(prompt),
        request.max_new_tokens,
        pad_token_id=pad_token(tokenizer),
        **options,
    )
    for choice, sequence in enumerate(ids):
        yield _answer(answerer, question, request, choice, sequence, start=len(asked))


def _answer(
    answerer: Answerer,
    question: str,
    request: GenerateRequest,
    choice: int,
    sequence: Int[Tensor, " seq"],
    *,
    start: int,
) -> Answer:
    new = sequence[start:].tolist()
    ends = set(stops_of(answerer.base_model.generation_config))
    # Answers that are shorter than others to the same question are padded.
    length = next((at for at, token in enumerate(new, 1) if token in ends), len(new))
    has_ended = bool(new) and new[length - 1] in ends
    text = answerer.tokenizer.decode(new[:length], skip_special_tokens=True)
    text, was_stopped = before_stop(text, request.stop)
    routing = _routing(answerer, sequence[: start + length], start) if request.routing else None
    return Answer(
        subject=answerer.subject,
        question=question,
        choice=choice,
        text=text.strip(),
        new_tokens=length,
        finish_reason="stop" if has_ended or was_stopped else "length",
        routing=routing,
    )


def _routing(answerer: Answerer, sequence: Int[Tensor, " seq"], start: int) -> Routing | None:
    """A token is chosen at the place before it, whose scalings are what weighed the experts."""
    gates = answerer.gates(sequence[None, :-1])
    if gates is None:
        return None
    chosen = gates[0, start - 1 :]
    tokens = zip(sequence[start:].tolist(), chosen.tolist(), strict=True)
    return Routing(
        experts=answerer.experts,
        mean=_rounded(chosen.mean(0).tolist()),
        tokens=tuple(
            RoutedToken(id=token, token=answerer.tokenizer.decode([token]), gates=_rounded(each))
            for token, each in tokens
        ),
    )


def _rounded(gates: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(gate, _DIGITS) for gate in gates)


def _prompt(
    tokenizer: ChatTokenizer, question: str, request: GenerateRequest, *, embeddings: int = sys.maxsize
) -> tuple[int, ...]:
    """Tokens that the answer follows."""
    if request.raw:
        return encode_text(tokenizer, question, embeddings=embeddings)
    said = [] if request.system is None else [("system", request.system)]
    return encode_question(tokenizer, [*said, ("user", question)], embeddings=embeddings)
