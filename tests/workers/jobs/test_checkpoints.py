"""An attempt goes on from the checkpoint of the one before; one that is not taken up is said aloud."""

import logging
from dataclasses import replace

import pytest
import torch

from tests.workers.stocked_zoo import Started
from workers.attempts.context import JobContext
from workers.jobs import loading, train
from workers.requests.specs import TrainSpec
from xlora_engine.errors import TrainingStopped

SPEC = TrainSpec(name="new", base="pico", train_dataset="bio.train@1", steps=3, warmup_steps=0, rank=2)


@pytest.fixture
def stopped(started: Started, monkeypatch: pytest.MonkeyPatch) -> JobContext:
    """A job of which one attempt was stopped after a step that it computed in float32."""
    monkeypatch.setenv("ZOO_COMPUTE_DTYPE", "float32")
    context = started(SPEC)
    with pytest.raises(TrainingStopped):
        train.run(replace(context, stop_requested=lambda: True))
    return replace(context, job=context.registry.jobs.get(context.job.id))


def discarded(context: JobContext) -> list[str]:
    events = context.registry.jobs.events(context.job.id)
    return [str(event.payload["reason"]) for event in events if event.kind == "checkpoint_discarded"]


def test_another_attempt_computes_in_what_the_first_did(
    stopped: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a machine on which another dtype is measured to be faster
    monkeypatch.setattr(loading, "dtype_here", lambda _: torch.bfloat16)
    # When the job is tried again
    outcome = train.run(stopped)
    # Then it goes on from the checkpoint
    assert discarded(stopped) == []
    assert stopped.registry.adapters.get(outcome["adapter"]).compute_dtype == "float32"


def test_a_checkpoint_that_is_not_taken_up_is_in_journal_and_log(
    stopped: JobContext, caplog: pytest.LogCaptureFixture
) -> None:
    (manifest,) = stopped.folder.glob("training/checkpoints/checkpoint-*/manifest.json")
    manifest.unlink()
    with caplog.at_level(logging.WARNING, logger="workers"):
        train.run(stopped)
    said = f"{manifest.parent.name} is not taken up: it was not written to its end"
    assert discarded(stopped) == [said]
    assert said in caplog.messages
