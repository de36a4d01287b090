"""Mixture training: the head learns from the language-model loss without labels."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.xlora_engine.conftest import Mixture
from tests.xlora_engine.examples_with_shared_prefix import (
    TOKENS_ONCE,
    TOKENS_WHOLE,
    assert_same_step,
    examples_with_shared_prefix,
    step,
)
from xlora_engine.data.chat import EncodedExample, collate
from xlora_engine.errors import ConfigInvalid, TrainingDiverged, TrainingStopped
from xlora_engine.head_training.best_state import StageResult
from xlora_engine.head_training.hidden_states import compute_hidden_states
from xlora_engine.head_training.horizon import Horizon
from xlora_engine.head_training.mixture_loss import mixture_loss
from xlora_engine.head_training.mixture_training import train_mixture
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.head_training.settings import MixtureTraining
from xlora_engine.head_training.stage_checkpoints import StageCheckpoints
from xlora_engine.head_training.warm_start import StageStep, routing_loss
from xlora_engine.mixture.gates import uneven_load
from xlora_engine.model import XLoraModel
from xlora_engine.sources.manifest import write_manifest

EXPERTS = 3
Problem = tuple[XLoraModel, list[EncodedExample], RoutedExamples]


@pytest.fixture(scope="module")
def answered(mixture: Mixture) -> tuple[list[EncodedExample], RoutedExamples]:
    """Examples answered as the expert that their first tokens name would."""
    model = mixture()
    generator = torch.Generator().manual_seed(3)
    examples = []
    for number in range(36):
        expert = number % EXPERTS
        marker = torch.full((2,), 5 + expert)
        prompt = torch.cat([marker, torch.randint(20, 250, (4,), generator=generator)])
        with model.fixed_scalings(one_hot(model, expert)):
            written = model.generate(prompt[None], max_new_tokens=3, min_new_tokens=3, do_sample=False)
        examples.append(EncodedExample(token_ids=tuple(written[0].tolist()), prompt_length=len(prompt)))
    hidden = compute_hidden_states(
        model.scaling_pass,
        examples,
        new_cache=lambda: model.new_cache().scaling,
        pad_id=0,
        tokens_per_batch=512,
        device=torch.device("cpu"),
    )
    experts = torch.arange(len(examples)) % EXPERTS
    train, held_out = tuple(range(24)), tuple(range(24, 36))
    return examples, RoutedExamples(hidden=hidden, experts=experts, train=train, held_out=held_out)


@pytest.fixture
def problem(mixture: Mixture, answered: tuple[list[EncodedExample], RoutedExamples]) -> Callable[[], Problem]:
    """Those examples, and a model with an untrained head."""
    return lambda: (mixture(spread=1.0), *answered)


def one_hot(model: XLoraModel, expert: int) -> torch.Tensor:
    return model.constant_scalings([float(index == expert) for index in range(EXPERTS)])


def head_of(model: XLoraModel) -> torch.Tensor:
    return torch.cat([values.detach().flatten() for values in model.head.parameters()])


def loss_with(model: XLoraModel, examples: list[EncodedExample], scalings: torch.Tensor) -> float:
    """Loss of the held-out examples under constant scalings."""
    batch = collate(examples[24:], pad_id=0)
    out = model.mixture_pass(
        scalings,
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        labels=batch.labels,
        use_cache=False,
    )
    assert out.loss is not None
    return float(out.loss.detach())


def settings(**changes: Any) -> MixtureTraining:
    return replace(MixtureTraining(learning_rate=1e-2, steps=40, batch_size=6), **changes)


@pytest.mark.parametrize("use_trainable_adapters", [False, True])
def test_a_shared_prefix_is_run_once_with_the_gradients_of_whole_sequences(
    mixture: Mixture, use_trainable_adapters: bool
) -> None:
    model = mixture(use_trainable_adapters=use_trainable_adapters)
    examples, routed = examples_with_shared_prefix(model)

    whole = step(model, examples, replace(routed, shared=0))
    once = step(model, examples, routed)

    assert (once.tokens, whole.tokens) == (TOKENS_ONCE, TOKENS_WHOLE)
    assert any(not name.startswith("head.") for name in once.gradients) == use_trainable_adapters
    assert_same_step(once, whole)


def test_sequences_are_run_whole_where_few_tokens_would_be_saved(mixture: Mixture) -> None:
    model = mixture()
    examples, routed = examples_with_shared_prefix(model)
    assert step(model, examples, replace(routed, shared=4)).tokens == TOKENS_WHOLE


def test_sequences_are_run_whole_with_sliding_windows(mixture: Mixture) -> None:
    model = mixture()
    model.base.config.layer_types = ["full_attention", "sliding_attention"]
    model.base.config.sliding_window = 4
    examples, routed = examples_with_shared_prefix(model)
    assert step(model, examples, routed).tokens == TOKENS_WHOLE


def test_sequences_are_run_whole_with_activation_checkpointing(mixture: Mixture) -> None:
    model = mixture()
    examples, routed = examples_with_shared_prefix(model)
    model.gradient_checkpointing_enable()
    assert step(model.train(), examples, routed).tokens == TOKENS_WHOLE
    model.gradient_checkpointing_disable()
    assert step(model, examples, routed).tokens == TOKENS_ONCE


def test_the_head_learns_which_expert_answers_best(problem: Callable[[], Problem]) -> None:
    model, examples, routed = problem()
    looked: dict[int, float] = {}

    result = train_mixture(
        model,
        examples,
        routed,
        settings(),
        pad_id=0,
        on_step=lambda taken: looked.update({taken.step: taken.held_out_loss} if taken.held_out_loss else {}),
    )

    # Better than it was and than any expert alone; and what was best is what is left
    assert result.best_held_out_loss < 0.9 * result.first_held_out_loss
    for expert in range(EXPERTS):
        assert result.best_held_out_loss < loss_with(model, examples, one_hot(model, expert))
    assert result.best_held_out_loss == min(looked.values()) == looked[result.best_step]
    left = mixture_loss(model, examples, routed, routed.held_out, pad_id=0)
    assert float(left.detach()) == pytest.approx(result.best_held_out_loss, rel=1e-5)
    assert not model.training


def test_a_seed_decides_what_is_learnt_whatever_was_drawn_before(problem: Callable[[], Problem]) -> None:
    learnt = []
    for seed, drawn_before in ((0, 0), (0, 5), (1, 0)):
        model, examples, routed = problem()
        torch.rand(drawn_before)
        train_mixture(model, examples, routed, settings(steps=2, evaluate_every=2, seed=seed), pad_id=0)
        learnt.append(head_of(model))
    assert torch.equal(learnt[0], learnt[1])
    assert not torch.equal(learnt[0], learnt[2])


def test_micro_batches_take_the_same_step(
    mixture: Mixture, answered: tuple[list[EncodedExample], RoutedExamples]
) -> None:
    examples, routed = answered
    # Answers of one and of three tokens, so that examples have different weights
    examples = [
        replace(example, prompt_length=example.prompt_length + 2 * (index % 2))
        for index, example in enumerate(examples)
    ]
    found = []
    for micro_batch_size in (None, 4, 1):
        model = mixture(spread=1.0, xlora_dropout_p=0.0)
        seen: list[int] = []
        counting = model.base.get_decoder().register_forward_hook(
            lambda _module, _inputs, made, seen=seen: seen.append(len(made.last_hidden_state))
        )
        few = settings(steps=2, evaluate_every=1, micro_batch_size=micro_batch_size)
        result = train_mixture(model, examples, routed, few, pad_id=0)
        counting.remove()
        found.append((head_of(model), result.best_held_out_loss, max(seen)))
    heads, losses, most = zip(*found, strict=True)
    assert most == (12, 4, 1)
    for head, loss in zip(heads[1:], losses[1:], strict=True):
        torch.testing.assert_close(head, heads[0], rtol=0, atol=1e-5)
        assert loss == pytest.approx(losses[0], rel=1e-4)


def test_a_worse_head_is_not_kept(problem: Callable[[], Problem]) -> None:
    # Given steps so long that they do harm
    model, examples, routed = problem()
    before = head_of(model)
    harmful = MixtureTraining(steps=4, evaluate_every=1, learning_rate=30.0)
    # When training looks and finds nothing better
    result = train_mixture(model, examples, routed, harmful, pad_id=0)
    # Then the head is the one it began with, and patience ended it early
    assert result.best_step == 0
    assert result.steps == harmful.patience
    assert torch.equal(head_of(model), before)


def test_no_steps_look_at_the_loss_alone(problem: Callable[[], Problem]) -> None:
    model, examples, routed = problem()
    before = head_of(model)
    result = train_mixture(model, examples, routed, settings(steps=0), pad_id=0)
    assert result.steps == 0
    assert result.first_held_out_loss == result.best_held_out_loss > 0
    assert torch.equal(head_of(model), before)


def test_training_ends_when_asked_to(problem: Callable[[], Problem]) -> None:
    model, examples, routed = problem()
    asked = iter([False, False, True])
    with pytest.raises(TrainingStopped, match="after 2 steps"):
        train_mixture(model, examples, routed, settings(), pad_id=0, stop=lambda: next(asked))


def test_a_loss_that_is_not_finite_is_reported_with_its_step(problem: Callable[[], Problem]) -> None:
    model, examples, routed = problem()
    with torch.no_grad():
        next(model.head.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="step 1 is nan"):
        train_mixture(model, examples, routed, settings(), pad_id=0)


@pytest.mark.parametrize("field", ["steps", "batch_size", "evaluate_every", "patience", "micro_batch_size"])
def test_budgets_below_nothing_are_refused(field: str) -> None:
    with pytest.raises(ConfigInvalid, match=field):
        replace(MixtureTraining(), **cast("Any", {field: -1}))


@pytest.mark.parametrize("field", ["learning_rate", "gradient_norm"])
def test_steps_of_no_length_are_refused(field: str) -> None:
    with pytest.raises(ConfigInvalid, match=field):
        replace(MixtureTraining(), **cast("Any", {field: 0.0}))


# ---------------------------------------------------------------------- stopping and going on

STOPPABLE = settings(steps=9, evaluate_every=2, patience=9)


class Disturbed:
    """One run in several calls, each on a model of its own, as each attempt of a job has it."""

    def __init__(self, problem: Callable[[], Problem], folder: Path) -> None:
        self._problem, self.folder = problem, folder
        self.steps: list[StageStep] = []

    def __call__(
        self,
        *,
        stop_after: int | None = None,
        die_after: int | None = None,
        run: str = "run",
        every_s: float = 3600,
    ) -> tuple[StageResult, torch.Tensor]:
        model, encoded, examples = self._problem()

        def on_step(step: StageStep) -> None:
            self.steps.append(step)
            if step.step == die_after:
                raise KeyboardInterrupt

        result = train_mixture(
            model,
            encoded,
            examples,
            STOPPABLE,
            pad_id=0,
            checkpoints=StageCheckpoints(self.folder, run=run, every_s=every_s),
            on_step=on_step,
            stop=lambda: bool(self.steps) and self.steps[-1].step == stop_after,
        )
        return result, head_of(model)


@pytest.fixture
def disturbed(problem: Callable[[], Problem], tmp_path: Path) -> Disturbed:
    return Disturbed(problem, tmp_path / "checkpoints")


@pytest.fixture
def undisturbed(problem: Callable[[], Problem]) -> tuple[StageResult, torch.Tensor]:
    model, encoded, examples = problem()
    return train_mixture(model, encoded, examples, STOPPABLE, pad_id=0), head_of(model)


def same(one: tuple[StageResult, torch.Tensor], other: tuple[StageResult, torch.Tensor]) -> bool:
    return one[0] == other[0] and torch.equal(one[1], other[1])


def test_a_stopped_run_goes_on_to_the_weights_of_an_undisturbed_one(
    disturbed: Disturbed, undisturbed: tuple[StageResult, torch.Tensor]
) -> None:
    for after in (3, 6):
        with pytest.raises(TrainingStopped, match=f"after {after} steps"):
            disturbed(stop_after=after)
        assert [path.name for path in disturbed.folder.iterdir()] == [f"checkpoint-{after}"]
    ended = disturbed()
    assert [step.step for step in disturbed.steps] == list(range(1, 10))
    assert same(ended, undisturbed)


def test_a_run_that_died_goes_on_from_its_last_checkpoint(
    disturbed: Disturbed, undisturbed: tuple[StageResult, torch.Tensor]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        disturbed(die_after=5, every_s=0)
    ended = disturbed()
    assert [step.step for step in disturbed.steps] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9]
    assert same(ended, undisturbed)


def test_a_run_that_ended_is_not_trained_again(
    disturbed: Disturbed, undisturbed: tuple[StageResult, torch.Tensor]
) -> None:
    disturbed()
    disturbed.steps.clear()
    assert same(disturbed(), undisturbed)
    assert disturbed.steps == []


@pytest.mark.parametrize("damage", ["torn", "flipped", "without a manifest", "of another run"])
def test_a_checkpoint_that_is_not_whole_or_not_its_own_is_left_out(
    disturbed: Disturbed, undisturbed: tuple[StageResult, torch.Tensor], damage: str
) -> None:
    with pytest.raises(TrainingStopped):
        disturbed(stop_after=4, run="another" if damage == "of another run" else "run")
    state = disturbed.folder / "checkpoint-4" / "state.pt"
    content = bytearray(state.read_bytes())
    if damage == "torn":
        state.write_bytes(content[: len(content) // 2])
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    if damage == "without a manifest":
        (state.parent / "manifest.json").unlink()
    disturbed.steps.clear()
    ended = disturbed()
    assert disturbed.steps[0].step == 1
    assert same(ended, undisturbed)


def test_where_there_is_no_room_training_goes_on_and_stops_without_a_checkpoint(
    disturbed: Disturbed, undisturbed: tuple[StageResult, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingStopped):
        disturbed(stop_after=2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(TrainingStopped):
            disturbed(stop_after=5, every_s=0)
    # The one of before has stayed, and nothing of those that found no room.
    assert [path.name for path in disturbed.folder.iterdir()] == ["checkpoint-2"]
    assert same(disturbed(), undisturbed)


def test_a_state_that_this_torch_cannot_read_is_left_out(
    disturbed: Disturbed, undisturbed: tuple[StageResult, torch.Tensor]
) -> None:
    with pytest.raises(TrainingStopped):
        disturbed(stop_after=2)
    checkpoint = disturbed.folder / "checkpoint-2"
    (checkpoint / "state.pt").write_bytes(b"of another torch")
    write_manifest(checkpoint, run="run")
    assert same(disturbed(), undisturbed)


def test_a_gradient_that_is_not_finite_is_reported_before_a_checkpoint_is_written(
    disturbed: Disturbed, undisturbed: tuple[StageResult, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = torch.nn.utils.clip_grad_norm_

    def exploding(trained: list[torch.Tensor], most: float) -> torch.Tensor:
        if disturbed.steps and disturbed.steps[-1].step == 3:
            for value in trained:
                assert value.grad is not None
                value.grad.mul_(float("inf"))
        return clip(trained, most)

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.utils, "clip_grad_norm_", exploding)
        with pytest.raises(TrainingDiverged, match="gradient norm of step 4"):
            disturbed(every_s=0)
    assert same(disturbed(), undisturbed)


def test_shared_layers_stay_and_every_layer_departs_from_the_one_gate_it_began_with(
    problem: Callable[[], Problem],
) -> None:
    model, examples, routed = problem()
    model.head.repeat(model.head.single(seed=1))
    inner, outer = (next(model.head.layers[index].parameters()) for index in (0, -1))
    first, last = inner.detach().clone(), outer.detach().clone()
    train_mixture(model, examples, routed, settings(steps=4, shared_layers=False), pad_id=0)
    assert torch.equal(inner, first)
    assert inner.requires_grad
    layers = (outer.detach() - last).unflatten(0, (-1, EXPERTS))
    assert (layers.flatten(1).norm(dim=1) > 0).all()
    assert not torch.allclose(layers[0], layers[1], atol=1e-4)


def test_labels_go_on_counting_beside_the_language_model_loss(problem: Callable[[], Problem]) -> None:
    losses = []
    for weight in (0.0, 3.0):
        model, examples, routed = problem()
        # Given labels that contradict the answers
        contrary = replace(routed, experts=(routed.experts + 1) % EXPERTS)
        train_mixture(model, examples, contrary, settings(steps=8, routing_weight=weight), pad_id=0)
        tokens = contrary.tokens(contrary.train)
        losses.append(float(routing_loss(model.head, tokens.hidden(), tokens.experts).detach()))
    assert losses[1] < losses[0] - 0.05


def test_a_load_penalty_makes_the_use_of_experts_more_even(problem: Callable[[], Problem]) -> None:
    loads = []
    for penalty in (0.0, 5.0):
        model, examples, routed = problem()
        # Given data of one expert alone, on which the head would settle
        alone = replace(routed, train=tuple(range(0, 24, EXPERTS)), held_out=tuple(range(24, 36, EXPERTS)))
        train_mixture(model, examples, alone, settings(steps=8, patience=99, load_penalty=penalty), pad_id=0)
        hidden = alone.hidden.left_padded(alone.train)
        with torch.no_grad():
            loads.append(float(uneven_load(model.head(hidden), torch.ones(hidden.shape[:2]))))
    assert loads[1] < loads[0] / 2


def test_uneven_load_of_raw_logits_is_refused(mixture: Mixture, problem: Callable[[], Problem]) -> None:
    _, examples, routed = problem()
    with pytest.raises(ConfigInvalid, match="load_penalty"):
        train_mixture(
            mixture(enable_softmax=False), examples, routed, settings(steps=1, load_penalty=1.0), pad_id=0
        )


def test_a_time_ends_it_and_time_of_earlier_attempts_counts(
    problem: Callable[[], Problem], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def from_now() -> None:
        looks = iter(range(1000))
        monkeypatch.setattr(Horizon, "elapsed_s", property(lambda self: self.spent_s + next(looks) / 2))

    from_now()
    model, examples, routed = problem()
    timed = settings(steps=1000, budget_s=12.0, patience=1000)
    kept = StageCheckpoints(tmp_path, run="timed", every_s=1000)
    result = train_mixture(model, examples, routed, timed, pad_id=0, checkpoints=kept)
    assert 3 < result.steps < 24
    from_now()
    again = train_mixture(model, examples, routed, timed, pad_id=0, checkpoints=kept)
    assert again.steps == result.steps
