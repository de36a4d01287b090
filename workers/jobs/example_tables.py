"""Scores of single examples as a table of the run: the answer that was wanted, and how each subject did."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from workers.tracking.spool import Run
from xlora_engine.data.answer_scores import AnswerScores
from xlora_engine.data.chat import ChatTokenizer, EncodedExample

#: MLflow's pages show so many of a table at most.
MOST_EXAMPLES = 500


def log_examples(
    run: Run,
    task: str,
    tokenizer: ChatTokenizer,
    examples: Sequence[EncodedExample],
    scores: Mapping[str, AnswerScores],
) -> None:
    """A table of the task's first examples with the scores of each subject, by its name."""
    shown = examples[:MOST_EXAMPLES]
    columns: dict[str, Sequence[Any]] = {
        "question": [_text(tokenizer, example.token_ids[: example.prompt_length]) for example in shown],
        "answer": [_text(tokenizer, example.answer_ids) for example in shown],
    }
    for subject, score in scores.items():
        columns[f"loss of {subject}"] = _filled([round(each, 4) for each in score.example_losses], len(shown))
        columns[f"match of {subject}"] = _filled(score.example_matches, len(shown))
    run.table(f"examples/{task}", columns)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Examples as they are on record, by column; what not every one has is empty, what has parts is JSON."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_cell(row.get(name)) for row in rows] for name in names}


def _cell(value: object) -> object:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _text(tokenizer: ChatTokenizer, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def _filled(values: Sequence[float], count: int) -> list[float | None]:
    """As many values as there are examples: some subjects are scored on the first few alone."""
    return [*values[:count], *[None] * (count - len(values))]
