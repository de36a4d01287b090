"""Chat examples as tokens: encoding with the base model's template, left-padded batches, order."""

import json
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Int
from jinja2 import TemplateError
from torch import Tensor

from formats.chat_examples import ChatExample, read_chat_jsonl
from formats.chat_messages import Message, MessageFields, for_template
from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import AnswerTooLong, ChatInvalid, ConfigInvalid

#: The label that the loss ignores, in torch's cross-entropy and in transformers.
IGNORED = -100


class ChatTokenizer(Protocol):
    """What is used of a tokenizer of `transformers`."""

    pad_token_id: int | None
    eos_token_id: int
    #: One template, or several by name.
    chat_template: str | Mapping[str, str] | None

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Tokens outside the ordinary vocabulary; those with `special` set are not text."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any:
        """Messages as one text, or its tokens."""

    def decode(self, token_ids: list[int], **kwargs: Any) -> Any:
        """Tokens as text."""

    def __call__(self, text: str, **kwargs: Any) -> Any:
        """Text as tokens."""


@dataclass(frozen=True, kw_only=True)
class EncodedExample:
    """One conversation as tokens; the answer is everything from `prompt_length` on."""

    token_ids: tuple[int, ...]
    prompt_length: int
    domain: str | None = None
    #: (start, end) of what comes after the first answer and is not learnt: other questions, tools' results.
    between: tuple[tuple[int, int], ...] = ()

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Tokens of the answer, the end of its turn included."""
        return self.token_ids[self.prompt_length :]

    def after(self, count: int) -> "EncodedExample":
        """The example without its first tokens, which a cache holds."""
        return replace(
            self,
            token_ids=self.token_ids[count:],
            prompt_length=self.prompt_length - count,
            between=tuple((start - count, end - count) for start, end in self.between),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Examples as sequences padded on the left, so that every answer ends at the last position."""

    input_ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"]
    position_ids: Int[Tensor, "batch seq"]
    #: Token ids at the answers' positions, `IGNORED` elsewhere.
    labels: Int[Tensor, "batch seq"]
    #: Number of last positions whose logits are needed: the longest answer and the token before it.
    keep: int

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(
            input_ids=upload(self.input_ids, device),
            attention_mask=upload(self.attention_mask, device),
            position_ids=upload(self.position_ids, device),
            labels=upload(self.labels, device),
            keep=self.keep,
        )


def read_examples(path: Path) -> list[ChatExample]:
    """The examples of a file of chat JSONL, as the registry stores them.

    Raises:
        ChatInvalid: the file cannot be read, or an example is refused; the message names file and line.
    """

    def refusal(message: str, _: int | None) -> ChatInvalid:
        return ChatInvalid(message)

    try:
        with path.open("rb") as source:
            return list(read_chat_jsonl(source, str(path), refusal))
    except OSError as error:
        raise ChatInvalid(f"cannot read {path}: {error}") from error


def encode(
    tokenizer: ChatTokenizer, example: ChatExample, *, max_tokens: int, embeddings: int = sys.maxsize
) -> EncodedExample:
    """Encode an example with the tokenizer's chat template, without what it writes after the answer's turn.

    `embeddings` is how many tokens the base model has an embedding for.

    Raises:
        ChatInvalid: the template refuses the example, begins it differently with and without its answer, or
            does not end the answer's turn by a special token; or a message holds such a token itself; or a
            token has no embedding.
        AnswerTooLong: the example has more than `max_tokens`; nothing is ever cut off silently.
    """
    special = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    _refuse_special(example, special.values())
    if example.text is not None:
        return _encoded_text(tokenizer, example, max_tokens=max_tokens, embeddings=embeddings)
    prompt, answer = _templated(tokenizer, example)
    prompt_ids = _tokens(tokenizer, prompt)
    token_ids = _tokens(tokenizer, prompt + answer)
    if token_ids[: len(prompt_ids)] != prompt_ids:
        # A token would span prompt and answer, but generation starts after the prompt's last token.
        token_ids = prompt_ids + _tokens(tokenizer, answer)
    if token_ids[-1] not in special:
        raise ChatInvalid(
            f"{example.origin}: the chat template ends the answer with {answer[-20:]!r} and no special "
            "token, so a model could not learn where to stop; use a base model whose template ends each turn"
        )
    if len(token_ids) > max_tokens:
        raise AnswerTooLong(
            f"{example.origin} has {len(token_ids)} tokens ({len(prompt_ids)} before the answer), "
            f"the limit is {max_tokens}; shorten it or raise the limit (at most the base model's context)"
        )
    _require_written(example, prompt + answer)
    _require_embeddings(tokenizer, token_ids, embeddings, origin=example.origin)
    return EncodedExample(token_ids=tuple(token_ids), prompt_length=len(prompt_ids), domain=example.domain)


def encode_question(
    tokenizer: ChatTokenizer, messages: Sequence[Message], *, embeddings: int = sys.maxsize
) -> tuple[int, ...]:
    """Tokens of a conversation of (role, content) up to where its answer is generated.

    Raises:
        ChatInvalid: the template refuses the messages, or a token has no embedding.
    """
    token_ids = _tokens(
        tokenizer, _rendered(tokenizer, messages, None, "the question", add_generation_prompt=True)
    )
    _require_embeddings(tokenizer, token_ids, embeddings, origin="the question")
    return tuple(token_ids)


def encode_text(tokenizer: ChatTokenizer, text: str, *, embeddings: int = sys.maxsize) -> tuple[int, ...]:
    """Tokens of a text to be continued as it is, with what the tokenizer puts before every text.

    Raises:
        ChatInvalid: the text has no token, or one without an embedding.
    """
    token_ids: list[int] = tokenizer(text)["input_ids"]
    if not token_ids:
        raise ChatInvalid("the text has no token to continue after; write at least one")
    _require_embeddings(tokenizer, token_ids, embeddings, origin="the text")
    return tuple(token_ids)


def has_template(tokenizer: ChatTokenizer) -> bool:
    """Whether conversations can be written: one template, or a default among several."""
    template = tokenizer.chat_template
    return "default" in template if isinstance(template, Mapping) else bool(template)


def pad_token(tokenizer: ChatTokenizer) -> int:
    """Id of the padding token, or of the end token if there is none."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def collate(examples: Sequence[EncodedExample], *, pad_id: int) -> Batch:
    """Examples as one batch, padded on the left."""
    width = max(len(example.token_ids) for example in examples)
    input_ids = torch.full((len(examples), width), pad_id)
    labels = torch.full((len(examples), width), IGNORED)
    mask = torch.zeros(len(examples), width, dtype=torch.long)
    for index, example in enumerate(examples):
        start = width - len(example.token_ids)
        input_ids[index, start:] = torch.tensor(example.token_ids)
        mask[index, start:] = 1
        labels[index, start + example.prompt_length :] = torch.tensor(example.answer_ids)
        for first, after in example.between:
            labels[index, start + first : start + after] = IGNORED
    return Batch(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp_min(0),
        labels=labels,
        keep=max(len(example.answer_ids) for example in examples) + 1,
    )


def length_grouped(examples: Sequence[EncodedExample], *, tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of all examples, longest first, in batches of at most this many tokens, padding included."""
    batch: list[int] = []
    width = 0
    for index in sorted(range(len(examples)), key=lambda index: -len(examples[index].token_ids)):
        width = max(width, len(examples[index].token_ids))
        if batch and width * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch, width = [], len(examples[index].token_ids)
        batch.append(index)
    if batch:
        yield batch


def training_order(
    examples: Sequence[EncodedExample], *, batch_size: int, steps: int, seed: int
) -> list[list[int]]:
    """Indices for each step: every example once an epoch, similar lengths in a batch, all decided by `seed`.

    Examples are shuffled, then sorted by length within groups of a few batches, then the batches are
    shuffled: little padding, and a new order in every epoch.

    Raises:
        ConfigInvalid: there are no examples.
    """
    if not examples:
        raise ConfigInvalid("examples", "at least one", 0)
    generator = random.Random(seed)  # noqa: S311 - a data order, not a secret
    order: list[list[int]] = []
    while len(order) < steps:
        shuffled = generator.sample(range(len(examples)), len(examples))
        group = batch_size * 8
        epoch = []
        for start in range(0, len(shuffled), group):
            by_length = sorted(
                shuffled[start : start + group], key=lambda index: len(examples[index].token_ids)
            )
            epoch += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
        order += generator.sample(epoch, len(epoch))
    return order[:steps]


def _templated(tokenizer: ChatTokenizer, example: ChatExample) -> tuple[str, str]:
    """The conversation up to where generation starts, and the answer with the end of its turn."""
    rendered = partial(_rendered, tokenizer, tools=example.tools, origin=example.origin)
    prompt = rendered(example.messages[:-1], add_generation_prompt=True)
    whole = rendered(example.messages, add_generation_prompt=False)
    if not prompt or not whole.startswith(prompt):
        raise ChatInvalid(
            f"{example.origin}: the chat template does not begin a conversation with its generation prompt, "
            "so the answer cannot be separated from the question; use a base model whose template does"
        )
    answer = whole[len(prompt) :].rstrip()
    if not answer:
        raise ChatInvalid(f"{example.origin}: the chat template leaves the answer out")
    return prompt, answer


def _rendered(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    tools: str | None,
    origin: str,
    *,
    add_generation_prompt: bool,
) -> str:
    if not has_template(tokenizer):
        raise ChatInvalid(
            "the base model's tokenizer has no chat template that holds by default; register it again under"
            " another name with --chat-template FILE or NAME"
        )
    conversation = [for_template(message) for message in messages]
    functions = {} if tools is None else {"tools": json.loads(tools)}
    try:
        text: str = tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=add_generation_prompt, **functions
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ChatInvalid(f"{origin}: the chat template refuses the messages: {error}") from error
    return text


def _require_embeddings(
    tokenizer: ChatTokenizer, token_ids: Sequence[int], embeddings: int, *, origin: str
) -> None:
    beyond = next((token for token in token_ids if token >= embeddings), None)
    if beyond is not None:
        raise ChatInvalid(
            f"{origin} holds {tokenizer.decode([beyond])!r}, token {beyond} of the tokenizer, for which the"
            f" base model has no embedding (it has {embeddings}); take it out, or use another base model"
        )


def _encoded_text(
    tokenizer: ChatTokenizer, example: ChatExample, *, max_tokens: int, embeddings: int
) -> EncodedExample:
    """A text with the token that ends it; all is learnt but what a tokenizer puts before every text."""
    token_ids: list[int] = tokenizer(example.text or "")["input_ids"]
    if token_ids[-1:] != [tokenizer.eos_token_id]:
        token_ids.append(tokenizer.eos_token_id)
    if len(token_ids) > max_tokens:
        raise AnswerTooLong(
            f"{example.origin} has {len(token_ids)} tokens, the limit is {max_tokens}; shorten it or raise"
            " the limit (at most the base model's context)"
        )
    _require_embeddings(tokenizer, token_ids, embeddings, origin=example.origin)
    # No model predicts the first token of a sequence.
    return EncodedExample(token_ids=tuple(token_ids), prompt_length=1, domain=example.domain)


def _require_written(example: ChatExample, whole: str) -> None:
    """Refuse a template that leaves out what is to be learnt beside a text: a call, a reasoning."""
    content = example.messages[-1][1]
    if not isinstance(content, MessageFields):
        return
    said = {
        **{f"the call of {name}": name for name in _called(content)},
        "the reasoning": str(content.values.get("reasoning_content", "")),
    }
    missing = next((what for what, text in said.items() if text.strip() not in whole), None)
    if missing is not None:
        raise ChatInvalid(
            f"{example.origin}: the base model's chat template leaves out {missing}; use a base model whose"
            " template writes it, or write it into the message's text"
        )


def _called(content: MessageFields) -> list[str]:
    return [call["function"]["name"] for call in content.values.get("tool_calls", [])]


def _tokens(tokenizer: ChatTokenizer, text: str) -> list[int]:
    # Templates write the special tokens out themselves.
    token_ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return token_ids


def _refuse_special(example: ChatExample, special: Iterable[str]) -> None:
    # Of a message that is more than a text, its fields as JSON hold every text of them.
    said = [
        content.text if isinstance(content, MessageFields) else content for _, content in example.messages
    ]
    for text in (*said, example.text or "", example.tools or ""):
        found = next((token for token in special if token in text), None)
        if found is not None:
            raise ChatInvalid(
                f"{example.origin}: a message holds {found!r}, which the tokenizer would take for the token "
                "that structures a chat; take it out or write it differently"
            )
