"""A base model whose template writes the date: the day of its registration, in every job, on record."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry.entities import BaseModel
from tests.pico import CHATML, pico_base_folder
from tests.workers.stocked_zoo import Started
from workers.attempts.context import JobContext
from workers.jobs import train
from workers.jobs.evaluation import job as evaluation
from workers.jobs.loading import loaded_base
from workers.requests.specs import EvalSpec, TrainSpec
from xlora_engine.data.chat import encode_question

SPEC = TrainSpec(
    name="new", base="dated", train_dataset="bio.train@1", eval_dataset="bio.eval@1", steps=1, warmup_steps=0
)


@pytest.fixture
def context(started: Started, tmp_path: Path) -> JobContext:
    context = started(SPEC)
    folder = pico_base_folder(tmp_path / "dated", seed=5)
    today = "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}"
    (folder / "chat_template.jinja").write_text(today + CHATML)
    context.registry.bases.register(folder, name="dated", source="here")
    return context


@pytest.fixture
def base(context: JobContext) -> BaseModel:
    return context.registry.bases.get("dated")


def test_it_is_the_day_of_the_registration(context: JobContext, base: BaseModel) -> None:
    earlier = replace(base, created_at=datetime(2024, 7, 26, 23, 59, tzinfo=UTC))
    tokenizer = loaded_base(context.registry, earlier).tokenizer
    assert "Today is 26 Jul 2024" in tokenizer.decode(list(encode_question(tokenizer, [("user", "q")])))


def test_records_say_which(context: JobContext, base: BaseModel, started: Started) -> None:
    day = base.created_at.date().isoformat()
    adapter = context.registry.adapters.get(train.run(context)["adapter"])
    assert adapter.parameters["template_date"] == day
    subject = f"adapter:{adapter.reference}"
    evaluation.run(started(EvalSpec(subjects=(subject,), datasets={"again": "bio.eval@1"})))
    found = context.registry.evaluations.list(subject)
    assert {one.task: one.settings["template_date"] for one in found} == {"bio": day, "again": day}


def test_records_of_a_base_model_without_one_say_nothing(started: Started) -> None:
    context = started(replace(SPEC, base="pico"))
    adapter = context.registry.adapters.get(train.run(context)["adapter"])
    assert "template_date" not in adapter.parameters
    found = context.registry.evaluations.list(f"adapter:{adapter.reference}")
    assert ["template_date" in one.settings for one in found] == [False] * 4
