"""`transformers.Trainer` trains a mixture as a plain loop does, and saves what learns alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer, TrainingArguments

from tests.xlora_engine.conftest import Mixture
from xlora_engine.errors import ConfigInvalid
from xlora_engine.head_training.trainer_view import TrainerView
from xlora_engine.model import XLoraModel

pytestmark = pytest.mark.usefixtures("collect_less")

STEPS = 4
KINDS: dict[str, dict[str, Any]] = {
    "head": {},
    "head and experts": {"use_trainable_adapters": True},
}


@pytest.fixture(scope="module")
def examples() -> Tensor:
    """A example for each step."""
    return torch.randint(3, 250, (STEPS, 7), generator=torch.Generator().manual_seed(1))


def new(mixture: Mixture, kind: str) -> XLoraModel:
    # Output layer and embeddings are one tensor, which safetensors would not save twice.
    return mixture(base={"tie_word_embeddings": True}, xlora_dropout_p=0.0, **KINDS[kind])


def trained(
    model: XLoraModel, examples: Tensor, folder: Path, *, resume: bool = False, **asked: Any
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **{"max_steps": STEPS, "save_strategy": "no", **asked},
    )
    data: Any = [{"input_ids": example, "labels": example} for example in examples]
    trainer = Trainer(model=TrainerView(model), args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def learnt(model: XLoraModel) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]


def assert_equal_outputs(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_a_plain_loop_learns_with_and_without_recomputation(
    kind: str, mixture: Mixture, examples: Tensor, tmp_path: Path
) -> None:
    plain = new(mixture, kind).train()
    before = [value.clone() for value in learnt(plain)]
    optimiser = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], lr=0.01)
    for example in examples:
        plain(example[None], labels=example[None]).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert all(not torch.equal(a, b) for a, b in zip(learnt(plain), before, strict=True))

    for settings in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        model = new(mixture, kind)
        recomputes: dict[str, Any] = {} if settings is None else {
            "activation_checkpointing": True, "activation_checkpointing_kwargs": settings
        }  # fmt: skip
        trained(model, examples, tmp_path, **recomputes)
        assert model.is_gradient_checkpointing is (settings is not None)
        assert_equal_outputs(learnt(model), learnt(plain))


@pytest.mark.parametrize("kind", KINDS)
def test_its_checkpoints_hold_what_learns_alone_and_it_goes_on_from_them(
    kind: str, mixture: Mixture, examples: Tensor, tmp_path: Path
) -> None:
    whole, half, rest = (new(mixture, kind) for _ in range(3))
    trained(whole, examples, tmp_path / "whole")

    trained(half, examples, tmp_path / "parts", max_steps=2, save_strategy="steps", save_steps=2)
    saved = load_file(tmp_path / "parts" / "checkpoint-2" / "model.safetensors")
    trained(rest, examples, tmp_path / "parts", resume=True)

    assert len(saved) == len(learnt(half))
    assert_equal_outputs(learnt(rest), learnt(whole))


def test_it_predicts_logits(mixture: Mixture, examples: Tensor, tmp_path: Path) -> None:
    model = new(mixture, "head")
    trainer = trained(model, examples, tmp_path, per_device_eval_batch_size=2)

    found: Any = trainer.predict(trainer.eval_dataset)  # type: ignore[arg-type]

    with torch.no_grad():
        expected = model(examples, labels=examples)
    torch.testing.assert_close(torch.from_numpy(found.predictions), expected.logits, rtol=0, atol=2e-5)
    assert found.metrics["test_loss"] == pytest.approx(expected.loss.item(), abs=1e-5)


def test_what_it_cannot_do_is_refused(mixture: Mixture) -> None:
    view, other = TrainerView(new(mixture, "head")), TrainerView(new(mixture, "head and experts"))

    with pytest.raises(ConfigInvalid, match="every_n_layers must be 1, or left out, got 2"):
        view.activation_checkpointing_enable(every_n_layers=2)
    with pytest.raises(ConfigInvalid, match="offload must be False"):
        view.activation_checkpointing_enable(offload=True)
    with pytest.raises(ConfigInvalid, match="state must be of 4 trained tensors"):
        view.load_state_dict(other.state_dict())
