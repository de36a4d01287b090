"""The stages in which a scaling head is trained: hidden states, routing warm start, mixture training."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from workers.methods.kept_passes import cached_hidden_states, scaling_pass_digest
from workers.methods.mixing import TOKENS_PER_BATCH, Making
from workers.methods.training_examples import DrawnExamples
from xlora_engine.data.chat import pad_token
from xlora_engine.head_training.best_state import StageResult
from xlora_engine.head_training.expert_labels import SEVERAL
from xlora_engine.head_training.hidden_states import HiddenStates
from xlora_engine.head_training.mixture_training import train_mixture
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.head_training.settings import MixtureTraining, WarmStart
from xlora_engine.head_training.stage_checkpoints import StageCheckpoints
from xlora_engine.head_training.warm_start import StageStep, warm_start
from xlora_engine.model import XLoraModel


class HiddenStatesStage:
    """What the scaling pass says of every token: computed once for these experts and examples, then found."""

    def __init__(self, making: Making, model: XLoraModel, examples: DrawnExamples) -> None:
        self._making = making
        self._model = model
        self._examples = examples
        self._done = 0

    def run(self) -> HiddenStates:
        """The hidden states of all examples."""
        making = self._making
        with making.watch.phase("hidden states"):
            return cached_hidden_states(
                self._examples,
                self._model,
                folder=making.context.registry.settings.home / "cache" / "hidden-states",
                pass_digest=scaling_pass_digest(making.parts.base, making.parts.adapters, making.spec.head),
                pad_id=pad_token(making.tokenizer),
                tokens_per_batch=making.context.micro_batch(TOKENS_PER_BATCH),
                on_examples=self._on_examples,
            )

    def _on_examples(self, count: int) -> None:
        self._done += count
        self._making.context.report("hidden states", self._done, len(self._examples.encoded))
        self._making.context.raise_if_stopped()


class WarmStartStage:
    """The head learns which domain a token is of."""

    def __init__(self, making: Making, model: XLoraModel, routed: RoutedExamples) -> None:
        self._making = making
        self._model = model
        self._routed = routed

    def run(self) -> None:
        """Train the head from hidden states alone."""
        making, spec = self._making, self._making.spec
        with making.watch.phase("routing warm start"):
            warm_start(
                self._model.head,
                self._routed,
                WarmStart(
                    steps=spec.warm_start_steps,
                    learning_rate=spec.warm_start_learning_rate,
                    seed=spec.seed,
                ),
                on_step=_recorder(making, "routing warm start", "warm_start", spec.warm_start_steps),
                stop=making.context.stop_requested,
            )


class MixtureStage:
    """The head learns by the language-model loss of the mixture, from checkpoint to checkpoint."""

    def __init__(
        self,
        making: Making,
        model: XLoraModel,
        examples: DrawnExamples,
        routed: RoutedExamples,
        *,
        checkpoints: str = "mixture",
    ) -> None:
        """`checkpoints` is a folder of the job's own: two stages of one job do not share it."""
        self._making = making
        self._model = model
        self._examples = examples
        self._routed = routed
        self._checkpoints = StageCheckpoints(
            making.context.folder / "training" / checkpoints,
            run=f"request={making.context.job.spec_digest} dtype={model.base.dtype}",
            every_s=making.spec.checkpoint_every_s,
            on_discarded=making.context.checkpoint_discarded,
        )

    @property
    def is_new(self) -> bool:
        """Whether no attempt of the job has left a checkpoint."""
        return self._checkpoints.last() is None

    def run(self, **settings: Any) -> StageResult:
        """Train the head through the mixture pass; `settings` are fields of `MixtureTraining` to change."""
        making, training = self._making, replace(self._training(), **settings)
        micro_batch = making.context.micro_batch(training.batch_size)
        making.context.run.tags({"zoo.micro_batch_size": micro_batch})
        with making.watch.phase("mixture training"):
            return train_mixture(
                self._model,
                self._examples.encoded,
                self._routed,
                replace(training, micro_batch_size=micro_batch),
                pad_id=pad_token(making.tokenizer),
                checkpoints=self._checkpoints,
                on_step=_recorder(making, "mixture training", "mixture", training.steps),
                stop=making.context.stop_requested,
            )

    def _training(self) -> MixtureTraining:
        spec = self._making.spec
        return MixtureTraining(
            steps=self._steps(),
            budget_s=spec.budget_s,
            learning_rate=spec.mixture_learning_rate,
            load_penalty=spec.load_penalty,
            shared_layers=spec.warm_start_steps == 0,
            seed=spec.seed,
        )

    def _steps(self) -> int:
        """As many as were asked for, else as the data need.

        Where every example belongs to one expert, its label has said so: there is little left to learn.
        """
        spec = self._making.spec
        if spec.mixture_steps is not None:
            return spec.mixture_steps
        needed = spec.budget_s or spec.warm_start_steps == 0 or SEVERAL in self._routed.experts.tolist()
        return MixtureTraining().steps if needed else 0


def _recorder(making: Making, phase: str, metric: str, total: int) -> Callable[[StageStep], None]:
    def on_step(step: StageStep) -> None:
        making.context.report(phase, step.step, total, loss=step.loss)
        values = {f"{metric}/loss": step.loss}
        if step.held_out_loss is not None:
            values[f"{metric}/held_out_loss"] = step.held_out_loss
        making.context.run.metrics(values, step=step.step)

    return on_step
