"""Inputs of a measure: chats about one domain, cut to an exact number of tokens."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.subject import DOMAINS, EXAMPLES
from xlora_engine.chat import Batch, ChatRow, ChatTokenizer, EncodedRow, collate, encode


def chats(tokenizer: ChatTokenizer, *, rows: int, tokens: int, start: int) -> Int[Tensor, "rows tokens"]:
    """One chat a row, each of many questions of one domain with their answers; domains take turns.

    `start` shifts which domain and which questions come first, so that repetitions are not alike.
    """
    return torch.stack(
        [_chat(tokenizer, DOMAINS[(start + row) % len(DOMAINS)], tokens, start + row) for row in range(rows)]
    )


def all_labelled(tokenizer: ChatTokenizer, *, rows: int, tokens: int, start: int) -> Batch:
    """The same chats, every token of them to be learnt."""
    ids = chats(tokenizer, rows=rows, tokens=tokens, start=start)
    return collate([EncodedRow(token_ids=tuple(row), prompt_length=0) for row in ids.tolist()], pad_id=0)


def answers_labelled(tokenizer: ChatTokenizer, *, rows: int, tokens: int, start: int) -> Batch:
    """Chats that end with an answer, which alone is to be learnt, as in training; cut at the beginning."""
    encoded = [
        _ends_with_answer(tokenizer, DOMAINS[(start + row) % len(DOMAINS)], tokens, start + row)
        for row in range(rows)
    ]
    return collate(encoded, pad_id=0)


def _ends_with_answer(tokenizer: ChatTokenizer, domain: str, tokens: int, start: int) -> EncodedRow:
    turns = tuple((message["role"], message["content"]) for message in _messages(domain, start))
    whole = encode(tokenizer, ChatRow(messages=turns), max_tokens=sys.maxsize)
    cut = _surplus(whole.token_ids, tokens, domain)
    return EncodedRow(token_ids=whole.token_ids[cut:], prompt_length=whole.prompt_length - cut)


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
