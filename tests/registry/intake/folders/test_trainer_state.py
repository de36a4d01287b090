"""Steps, losses and the best checkpoint of a Trainer's state; what is no such state says nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry.intake.folders.trainer_state import TrainerState, read_trainer_state


def read(folder: Path, state: Any) -> TrainerState | None:
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return read_trainer_state(folder / "trainer_state.json")


def test_a_training_is_a_few_numbers(tmp_path: Path) -> None:
    log = [
        {"loss": 2.5, "step": 1},
        {"eval_loss": 1.5},
        {"loss": 0.5},
        {"eval_loss": 1.75},
        {"train_runtime": 3},
    ]
    state = {
        "global_step": 60, "epoch": 1.5, "log_history": log, "best_metric": 1.5,
        "best_model_checkpoint": "C:\\runs\\out\\checkpoint-30\\",
    }  # fmt: skip
    found = read(tmp_path, state)
    assert found is not None
    assert found.stated() == {
        "steps": 60, "epochs": 1.5, "first_loss": 2.5, "last_loss": 0.5, "last_eval_loss": 1.75,
        "lowest_eval_loss": 1.5, "best_metric": 1.5, "best_checkpoint": "checkpoint-30",
    }  # fmt: skip


def test_the_best_step_alone_names_its_checkpoint(tmp_path: Path) -> None:
    found = read(tmp_path, {"best_global_step": 40, "best_model_checkpoint": None})
    assert found is not None
    assert found.best_checkpoint == "checkpoint-40"


@pytest.mark.parametrize(
    "state",
    [
        {"log_history": [{"loss": float("nan")}, {"loss": float("inf")}, "x"], "global_step": "many"},
        {"epoch": True, "global_step": 10**400, "log_history": {"loss": 1}, "best_model_checkpoint": "\n"},
    ],
)
def test_values_that_are_no_numbers_are_left_out(tmp_path: Path, state: dict[str, Any]) -> None:
    found = read(tmp_path, state)
    assert found is not None
    assert found.stated() == {}


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"\xff", b"[" * 100_000, b"version https://git-lfs.github.com/spec/v1"]
)
def test_what_is_no_state_says_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "trainer_state.json").write_bytes(data)
    assert read_trainer_state(tmp_path / "trainer_state.json") is None
    assert read_trainer_state(tmp_path / "absent.json") is None
