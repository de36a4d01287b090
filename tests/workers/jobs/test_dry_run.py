"""A forecast reads the data and the base model as the job would, and trains, queues and registers nothing."""

from pathlib import Path
from typing import Any

import pytest

from registry.service import Registry
from tests.workers.stocked_zoo import write_chats
from workers.jobs.dry_run import TrainingForecast, forecast
from workers.requests.training import planned_training
from xlora_engine.errors import AnswerTooLong, ConfigInvalid

ASKED: dict[str, Any] = {"name": "new", "base": "pico", "train_dataset": "bio.train", "rank": 2, "epochs": 2}


def foreseen(registry: Registry, **fields: Any) -> TrainingForecast:
    return forecast(registry, planned_training(registry, {**ASKED, **fields}))


def test_what_would_be_trained_is_counted(stocked: Registry) -> None:
    found = foreseen(stocked, batch_size=4)
    assert (found.examples, found.steps, found.epochs) == (12, 6, 2.0)
    assert found.tokens > 12 * found.longest_example_tokens * 0.8
    assert found.fits


def test_the_trained_parameters_are_the_adapters(stocked: Registry) -> None:
    # bio of the stocked zoo has rank 4 on all linear layers
    known = stocked.adapters.get("bio")
    found = foreseen(stocked, rank=known.rank, target_modules=list(known.target_modules))
    assert found.trained_parameters == known.parameter_count


def test_memory_grows_with_what_meets_in_a_step(stocked: Registry, tmp_path: Path) -> None:
    file = str(write_chats(tmp_path / "more.train.jsonl", domain="more" * 25, count=600))
    sizes = [foreseen(stocked, train_dataset=file, batch_size=size).memory_mib for size in (8, 512)]
    assert sizes[1] > 8 * sizes[0]
    assert [row["name"] for row in stocked.datasets.list() if row["name"].startswith("more")] == []


def test_a_module_that_is_not_there_is_refused(stocked: Registry) -> None:
    with pytest.raises(ConfigInvalid, match="target_modules must be names of the base model's modules"):
        foreseen(stocked, target_modules=["nope"])


def test_an_example_that_is_too_long_is_named_by_file_and_line(stocked: Registry, tmp_path: Path) -> None:
    file = write_chats(tmp_path / "long.train.jsonl", domain="long" * 9, count=2)
    with pytest.raises(AnswerTooLong, match=r"long\.train\.jsonl, line 1 has \d+ tokens .* limit is 20;"):
        foreseen(stocked, train_dataset=str(file), max_tokens=20)


def test_further_data_count_as_often_as_they_are_met(stocked: Registry, tmp_path: Path) -> None:
    file = str(write_chats(tmp_path / "a.train.jsonl", domain="a", count=10))
    found = foreseen(stocked, further_data={"protein.train": 0.5, file: 1.0}, batch_size=4, epochs=1)
    assert (found.examples, found.steps) == (12 + 6 + 10, 7)
