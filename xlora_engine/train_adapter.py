"""Training one LoRA adapter: PEFT's layers under transformers' Trainer, loss on the answers alone."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback

from xlora_engine.chat import IGNORED, ChatTokenizer, EncodedRow, collate, pad_token, training_order
from xlora_engine.errors import ConfigInvalid, TrainingDiverged, TrainingStopped
from xlora_engine.lora_injection import ALL_LINEAR, injected, write_adapter
from xlora_engine.prefix_strength import (
    StrengthContext,
    prefix_strengths,
    token_strengths,
)
from xlora_engine.shared_prefix import shared_prefix_length
from xlora_engine.training_checkpoints import last_whole, seal

#: What a checkpoint holds and nobody reads: a pickle, and a card that tells where the base model lay.
UNREAD_FILES = (TRAINING_ARGS_NAME, "README.md")

#: The item of a batch that is not the model's.
STRENGTHS = "adapter_strengths"


@dataclass(frozen=True, kw_only=True)
class AdapterTraining:
    """How an adapter is trained.

    Raises:
        ConfigInvalid: a field is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = (ALL_LINEAR,)
    learning_rate: float = 1e-3
    steps: int = 48
    batch_rows: int = 8
    #: Rows in memory at once; fewer take longer and learn the same. None: the whole batch.
    micro_batch_rows: int | None = None
    warmup_steps: int = 4
    weight_decay: float = 0.0
    #: Gradients are scaled down to this norm at most.
    gradient_norm: float = 1.0
    #: Least strength of the adapter on the tokens all rows begin with, which a mixture of eight gives it;
    #: 1 trains as PEFT does by itself.
    least_prefix_strength: float = 0.125
    seed: int = 0
    checkpoint_every_s: float = 60.0

    def __post_init__(self) -> None:
        for field in ("rank", "steps", "batch_rows"):
            if getattr(self, field) < 1:
                raise ConfigInvalid(field, "at least 1", getattr(self, field))
        if self.micro_batch_rows is not None and self.micro_batch_rows < 1:
            raise ConfigInvalid("micro_batch_rows", "at least 1", self.micro_batch_rows)
        for field in ("alpha", "learning_rate", "gradient_norm", "checkpoint_every_s"):
            if not getattr(self, field) > 0:
                raise ConfigInvalid(field, "above 0", getattr(self, field))
        if not 0 <= self.dropout < 1:
            raise ConfigInvalid("dropout", "in 0..1, 1 excluded", self.dropout)
        if not 0 <= self.least_prefix_strength <= 1:
            raise ConfigInvalid("least_prefix_strength", "in 0..1", self.least_prefix_strength)
        if not self.weight_decay >= 0:
            raise ConfigInvalid("weight_decay", "at least 0", self.weight_decay)
        if not 0 <= self.warmup_steps <= self.steps:
            raise ConfigInvalid("warmup_steps", f"in 0..{self.steps}, the steps", self.warmup_steps)
        if not self.target_modules:
            raise ConfigInvalid("target_modules", "at least one name", self.target_modules)

    @property
    def parts(self) -> int:
        """How many micro-batches a batch is cut into."""
        return math.ceil(self.batch_rows / min(self.micro_batch_rows or self.batch_rows, self.batch_rows))


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One step, for whoever records it."""

    step: int
    loss: float
    learning_rate: float
    #: Before it was scaled down.
    gradient_norm: float


@dataclass(frozen=True, kw_only=True)
class TrainedAdapter:
    """An adapter folder as PEFT writes it, and what making it took."""

    folder: Path
    #: Training loss of every step, those before a resumption included.
    losses: tuple[float, ...]
    #: Tokens seen in all steps.
    tokens: int
    #: Spent in this call.
    seconds: float

    @property
    def final_loss(self) -> float:
        """Training loss of the last step."""
        return self.losses[-1]


def train_adapter(
    base: PreTrainedModel,
    tokenizer: ChatTokenizer,
    rows: Sequence[EncodedRow],
    settings: AdapterTraining,
    *,
    base_name: str,
    folder: Path,
    on_step: Callable[[StepMetrics], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainedAdapter:
    """Train an adapter on a base model, which is left as it was, frozen and evaluating.

    Checkpoints go to `folder/checkpoints`; a second call with the same arguments goes on from the
    last whole one, to the same weights as an undisturbed run. The adapter goes to `folder/adapter`.

    Raises:
        ConfigInvalid: there are no rows, or a target module that the base model does not have.
        TrainingStopped: `stop` answered true; a checkpoint was written first.
        TrainingDiverged: a loss or gradient is not finite.
    """
    started = time.monotonic()
    batches = _Batches(rows, settings, pad_id=pad_token(tokenizer))
    run = _run_digest(base, rows, settings, base_name)
    watcher = _Watcher(settings, run, on_step, stop)
    checkpoints = folder / "checkpoints"
    with injected(base, _lora(settings), seed=settings.seed) as model:
        trainer = _StrengthTrainer(
            strength_context=StrengthContext(model),
            model=model,
            args=_arguments(settings, checkpoints, on_cpu=base.device.type == "cpu"),
            train_dataset=batches,
            data_collator=_only,
            callbacks=[watcher],
        )
        trainer.remove_callback(PrinterCallback)
        last = last_whole(checkpoints, run=run)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        if watcher.stopped:
            raise TrainingStopped(
                f"training was stopped after step {trainer.state.global_step} of {settings.steps}; "
                "its checkpoint is kept"
            )
        write_adapter(model, folder / "adapter", base_name=base_name)
    return TrainedAdapter(
        folder=folder / "adapter",
        losses=tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry),
        tokens=batches.tokens,
        seconds=time.monotonic() - started,
    )


def _lora(settings: AdapterTraining) -> LoraConfig:
    targets: Any = list(settings.target_modules)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
    )


def _arguments(settings: AdapterTraining, folder: Path, *, on_cpu: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # one item of `_Batches` is a whole micro-batch
        gradient_accumulation_steps=settings.parts,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.gradient_norm,
        optim="adamw_torch_fused",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # `_Watcher` decides by time
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        use_cpu=on_cpu,
        seed=settings.seed,
    )


class _StrengthTrainer(Trainer):
    """A Trainer whose batches say how strong the adapter is for each token."""

    def __init__(self, *, strength_context: StrengthContext, **settings: Any) -> None:
        super().__init__(**settings)
        self._strength_context = strength_context

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the Trainer computes it, with the batch's strengths in force."""
        given = {name: value for name, value in inputs.items() if name != STRENGTHS}
        with self._strength_context.using(inputs[STRENGTHS]):
            return super().compute_loss(model, given, *args, **kwargs)


class _Batches(Dataset[dict[str, Any]]):
    """The micro-batches of step 0, then those of step 1: the seed decides, so a resumed run sees the same."""

    def __init__(self, rows: Sequence[EncodedRow], settings: AdapterTraining, *, pad_id: int) -> None:
        self._rows = rows
        self._pad_id = pad_id
        self._least_strength = settings.least_prefix_strength
        self._prefix_length = shared_prefix_length(rows)
        self._parts = settings.parts
        self._order = training_order(
            rows, rows_per_batch=settings.batch_rows, steps=settings.steps, seed=settings.seed
        )

    @property
    def tokens(self) -> int:
        """Tokens in all steps, without padding."""
        return sum(len(self._rows[index].token_ids) for indices in self._order for index in indices)

    def __len__(self) -> int:
        return len(self._order) * self._parts

    def __getitem__(self, item: int) -> dict[str, Any]:
        step, part = divmod(item, self._parts)
        indices = self._order[step][part :: self._parts]
        spread = prefix_strengths(len(self._order[step]), least=self._least_strength, turn=step)
        # The last batch of an epoch may be too short for all its parts; what fills one teaches nothing.
        rows = [self._rows[index] for index in indices or self._order[step][:1]]
        batch = collate(rows, pad_id=self._pad_id)
        labels = batch.labels if indices else torch.full_like(batch.labels, IGNORED)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            # The vocabulary is wide: logits are made for the answers' positions alone.
            "labels": labels[:, -batch.keep :],
            "logits_to_keep": batch.keep,
            "use_cache": False,
            STRENGTHS: token_strengths(
                rows, (spread[part :: self._parts] or spread[:1]), prefix_length=self._prefix_length
            ),
        }


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The Trainer collates lists of one, for an item is a batch already."""
    return items[0]


class _Watcher(TrainerCallback):
    """Hears every step; asks for a checkpoint when it is time, and for the end when told to stop."""

    def __init__(
        self,
        settings: AdapterTraining,
        run: str,
        on_step: Callable[[StepMetrics], None],
        stop: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._run = run
        self._on_step = on_step
        self._stop = stop
        self._saved_at = time.monotonic()
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """After every optimiser step."""
        if self._stop() and state.global_step < self._settings.steps:
            self.stopped = control.should_training_stop = control.should_save = True
        elif time.monotonic() - self._saved_at >= self._settings.checkpoint_every_s:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """When the Trainer has written a checkpoint."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for name in UNREAD_FILES:
            (checkpoint / name).unlink(missing_ok=True)
        seal(checkpoint, run=self._run)
        self._saved_at = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """With the loss of a step, before any checkpoint of it."""
        if "loss" not in (logs or {}):
            return
        step = StepMetrics(
            step=state.global_step,
            loss=float(logs["loss"]),
            learning_rate=float(logs["learning_rate"]),
            gradient_norm=float(logs["grad_norm"]),
        )
        for what, value in (("loss", step.loss), ("gradient norm", step.gradient_norm)):
            if not math.isfinite(value):
                raise TrainingDiverged(f"the {what} of step {step.step} is {value}; lower the learning rate")
        self._on_step(step)


def _run_digest(
    base: PreTrainedModel, rows: Sequence[EncodedRow], settings: AdapterTraining, base_name: str
) -> str:
    """Of all that decides what training gives; a checkpoint of another digest is of another run."""
    deciding = {**asdict(settings), "checkpoint_every_s": None, "micro_batch_rows": None}
    model = (base_name, str(base.dtype), base.num_parameters())
    hashed = hashlib.sha256(json.dumps([deciding, model]).encode())
    for row in rows:
        hashed.update(repr((row.token_ids, row.prompt_length)).encode())
    return f"sha256:{hashed.hexdigest()}"
