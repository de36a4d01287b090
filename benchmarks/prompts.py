"""Inputs of a measure: chats about one domain, cut to an exact number of tokens."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.subject import DOMAINS, EXAMPLES
from formats.chat_examples import ChatExample
from xlora_engine.data.chat import ChatTokenizer, EncodedRow, encode
from xlora_engine.data.shared_prefix import shared_prefix


def chats(tokenizer: ChatTokenizer, *, rows: int, tokens: int, start: int) -> Int[Tensor, "rows tokens"]:
    """One chat a row, each of many questions of one domain with their answers; domains take turns.

    `start` shifts which domain and which questions come first, so that repetitions are not alike.
    """
    return torch.stack(
        [_chat(tokenizer, DOMAINS[(start + row) % len(DOMAINS)], tokens, start + row) for row in range(rows)]
    )


def all_labelled(tokenizer: ChatTokenizer, *, rows: int, tokens: int, start: int) -> list[EncodedRow]:
    """The same chats, every token of them to be learnt."""
    ids = chats(tokenizer, rows=rows, tokens=tokens, start=start)
    return [EncodedRow(token_ids=tuple(row), prompt_length=0) for row in ids.tolist()]


def answers_labelled(tokenizer: ChatTokenizer, *, rows: int, tokens: int, start: int) -> list[EncodedRow]:
    """Chats that begin as all do and end with an answer, which alone is to be learnt, as in training.

    What is too long is cut out after the beginning.
    """
    opening = len(shared_prefix([_whole(tokenizer, domain, 0) for domain in DOMAINS]))
    return [
        _shortened(
            _whole(tokenizer, DOMAINS[(start + row) % len(DOMAINS)], start + row), tokens, opening=opening
        )
        for row in range(rows)
    ]


def _whole(tokenizer: ChatTokenizer, domain: str, start: int) -> EncodedRow:
    turns = tuple((message["role"], message["content"]) for message in _messages(domain, start))
    return encode(tokenizer, ChatExample(messages=turns, domain=domain), max_tokens=sys.maxsize)


def _shortened(row: EncodedRow, tokens: int, *, opening: int) -> EncodedRow:
    cut = _surplus(row.token_ids, tokens, str(row.domain))
    if opening >= row.prompt_length - cut:
        raise SystemExit(f"{tokens} tokens do not hold the beginning and the last answer of {row.domain}")
    return EncodedRow(
        token_ids=row.token_ids[:opening] + row.token_ids[opening + cut :],
        prompt_length=row.prompt_length - cut,
    )


def _messages(domain: str, start: int) -> list[dict[str, Any]]:
    """Questions of a domain and their answers, behind the first one's system message if it has one."""
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
