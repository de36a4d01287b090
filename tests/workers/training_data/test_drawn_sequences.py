"""What is trained on is counted, weighed and compared with what is held out."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.pico import pico_tokenizer
from workers.requests.specs import TrainSpec
from workers.training_data.drawn_sequences import draw_sequences
from workers.training_data.length_figure import draw_lengths
from xlora_engine.errors import AnswerTooLong
from xlora_engine.sources.base_model import ReadLimits

LIMITS = ReadLimits(tokens=512, embeddings=1000)


def written(path: Path, answers: Mapping[str, str]) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in answers.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spec(**fields: object) -> TrainSpec:
    return TrainSpec(name="bio", base="pico", train_dataset="bio.train@1", **fields)  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> Mapping[str, Path]:
    return {
        "bio.train@1": written(tmp_path / "bio.jsonl", {f"question {i}": "a" for i in range(4)}),
        "more@1": written(tmp_path / "more.jsonl", {f"other {i}": "b" * (i + 1) for i in range(6)}),
    }


def test_datasets_are_drawn_by_their_weights_and_counted(files: Mapping[str, Path]) -> None:
    drawn = draw_sequences(files, pico_tokenizer(), spec(further_data={"more@1": 0.5}), limits=LIMITS)
    assert len(drawn.sequences) == 4 + 3
    assert (drawn.facts["examples"], drawn.facts["sequences"], drawn.facts["cut"]) == (10, 10, 0)
    assert drawn.facts["longest"] == max(len(one.token_ids) for one in drawn.parts["more@1"].sequences)
    assert "shared_with_held_out" not in drawn.facts
    assert drawn.warnings == ()


def test_what_is_cut_and_what_is_held_out_but_trained_on_is_said(
    files: Mapping[str, Path], tmp_path: Path
) -> None:
    held_out = written(tmp_path / "eval.jsonl", {"Question  2?": "a", "another": "c", "other 0": "B"})
    limit = draw_sequences(files, pico_tokenizer(), spec(), limits=LIMITS).facts["longest"] - 1
    with pytest.raises(AnswerTooLong, match=r"more\.jsonl, line 6 has"):
        draw_sequences(files, pico_tokenizer(), spec(max_tokens=limit), limits=LIMITS)
    drawn = draw_sequences(
        files,
        pico_tokenizer(),
        spec(max_tokens=limit, long_examples="cut", further_data={"more@1": 1.0}),
        limits=LIMITS,
        held_out=held_out,
    )
    assert drawn.facts["shared_with_held_out"] == 2
    assert drawn.warnings == (
        "1 of 10 sequences were cut off at the limit",
        "1 of 3 examples stand in bio.train@1 (1 equal, 0 nearly), so scores on them say little: lines 1",
        "1 of 3 examples stand in more@1 (1 equal, 0 nearly), so scores on them say little: lines 3",
    )


def test_lengths_are_a_picture(files: Mapping[str, Path], tmp_path: Path) -> None:
    drawn = draw_sequences(files, pico_tokenizer(), spec(), limits=LIMITS)
    picture = draw_lengths(drawn.sequences, tmp_path / "pictures" / "lengths.png", limit=512)
    assert picture.read_bytes().startswith(b"\x89PNG")
