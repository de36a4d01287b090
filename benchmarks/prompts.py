"""Inputs of a measure: chats about one domain, cut to an exact number of tokens."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.subject import DOMAINS, EXAMPLES
from xlora_engine.chat import ChatTokenizer


def chats(tokenizer: ChatTokenizer, *, rows: int, tokens: int, start: int) -> Int[Tensor, "rows tokens"]:
    """One chat a row, each of many questions of one domain with their answers; domains take turns.

    `start` shifts which domain and which questions come first, so that repetitions are not alike.
    """
    return torch.stack(
        [_chat(tokenizer, DOMAINS[(start + row) % len(DOMAINS)], tokens, start + row) for row in range(rows)]
    )


def _chat(tokenizer: ChatTokenizer, domain: str, tokens: int, start: int) -> Int[Tensor, " tokens"]:
    lines = (EXAMPLES / f"{domain}.eval.jsonl").read_text(encoding="utf-8").splitlines()
    first = start * 7 % len(lines)
    messages: list[dict[str, Any]] = []
    for line in lines[first:] + lines[:first]:
        messages += json.loads(line)["messages"][1 if messages else 0 :]
    token_ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    if len(token_ids) < tokens:
        raise SystemExit(f"{Path(domain)} has {len(token_ids)} tokens, {tokens} are wanted")
    return torch.tensor(token_ids[:tokens])
