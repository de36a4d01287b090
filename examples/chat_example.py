"""One question with its answer, and the line of chat JSONL it becomes; knows no domain."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSTEM_MESSAGE = "Answer briefly."  # shorter than the one the chat template inserts by itself


@dataclass(frozen=True, kw_only=True)
class ChatExample:
    """One question, its answer, the domain it is from and the task it practises."""

    question: str
    answer: str
    domain: str
    task: str

    def to_json(self) -> str:
        """Return the example as one line of chat JSONL, without its line end."""
        messages = [
            {"role": "system", "content": SYSTEM_MESSAGE},
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": self.answer},
        ]
        return json.dumps({"messages": messages, "domain": self.domain}, ensure_ascii=False)


def write_jsonl(path: Path, examples: Iterable[ChatExample]) -> None:
    """Write one line per example, UTF-8, line feeds on every platform."""
    text = "".join(f"{example.to_json()}\n" for example in examples)
    path.write_bytes(text.encode())


def normalise(text: str) -> str:
    """Return the text as exact match compares it: casefolded, single spaces, no final full stop."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
