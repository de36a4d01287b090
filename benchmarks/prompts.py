"""Inputs of a measurement: chats about one domain, cut to an exact number of tokens."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.subject import DOMAINS, EXAMPLES
from formats.chat_examples import ChatExample
from xlora_engine.data.chat import ChatTokenizer, EncodedExample, encode
from xlora_engine.data.shared_prefix import shared_prefix


def chats(
    tokenizer: ChatTokenizer, *, batch_size: int, tokens: int, start: int
) -> Int[Tensor, "batch_size tokens"]:
    """Chats, each of many questions of one domain with their answers; domains take turns.

    `start` shifts which domain and which questions come first, so that repetitions differ.
    """
    return torch.stack(
        [
            _chat(tokenizer, DOMAINS[number % len(DOMAINS)], tokens, number)
            for number in range(start, start + batch_size)
        ]
    )


def all_labelled(
    tokenizer: ChatTokenizer, *, batch_size: int, tokens: int, start: int
) -> list[EncodedExample]:
    """The same chats, with every token as a label."""
    ids = chats(tokenizer, batch_size=batch_size, tokens=tokens, start=start)
    return [EncodedExample(token_ids=tuple(sequence), prompt_length=0) for sequence in ids.tolist()]


def answers_labelled(
    tokenizer: ChatTokenizer, *, batch_size: int, tokens: int, start: int
) -> list[EncodedExample]:
    """Chats with the shared prefix whose last answer alone is labelled, as in training.

    Chats that are too long lose tokens after the shared prefix.
    """
    prefix_length = len(shared_prefix([_whole(tokenizer, domain, 0) for domain in DOMAINS]))
    return [
        _shortened(
            _whole(tokenizer, DOMAINS[number % len(DOMAINS)], number), tokens, prefix_length=prefix_length
        )
        for number in range(start, start + batch_size)
    ]


def _whole(tokenizer: ChatTokenizer, domain: str, start: int) -> EncodedExample:
    turns = tuple((message["role"], message["content"]) for message in _messages(domain, start))
    return encode(tokenizer, ChatExample(messages=turns, domain=domain), max_tokens=sys.maxsize)


def _shortened(example: EncodedExample, tokens: int, *, prefix_length: int) -> EncodedExample:
    cut = _surplus(example.token_ids, tokens, str(example.domain))
    if prefix_length >= example.prompt_length - cut:
        raise SystemExit(
            f"{tokens} tokens do not hold the shared prefix and the last answer of {example.domain}"
        )
    return EncodedExample(
        token_ids=example.token_ids[:prefix_length] + example.token_ids[prefix_length + cut :],
        prompt_length=example.prompt_length - cut,
    )


def _messages(domain: str, start: int) -> list[dict[str, Any]]:
    """A domain's questions and answers, after the first one's system message if it has one."""
    lines = (EXAMPLES / f"{domain}.eval.jsonl").read_text(encoding="utf-8").splitlines()
    first = start * 7 % len(lines)
    messages: list[dict[str, Any]] = []
    for line in lines[first:] + lines[:first]:
        messages += json.loads(line)["messages"][1 if messages else 0 :]
    return messages


def _chat(tokenizer: ChatTokenizer, domain: str, tokens: int, start: int) -> Int[Tensor, " tokens"]:
    messages = _messages(domain, start)
    token_ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    _surplus(token_ids, tokens, domain)
    return torch.tensor(token_ids[:tokens])


def _surplus(token_ids: Sequence[int], tokens: int, domain: str) -> int:
    if len(token_ids) < tokens:
        raise SystemExit(f"{domain} has {len(token_ids)} tokens, {tokens} are wanted")
    return len(token_ids) - tokens
