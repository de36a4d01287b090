"""Training one LoRA adapter: PEFT's layers under transformers' Trainer, loss on the answers alone."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.cache_utils import Cache
from transformers.trainer_callback import PrinterCallback

from formats.peft import WEIGHTS_FILE
from formats.target_modules import ALL_LINEAR
from xlora_engine.adapter_training.callbacks import InactivePrefixCallback, StepCallback, StepMetrics
from xlora_engine.adapter_training.inactive_prefix import InactivePrefix
from xlora_engine.adapter_training.lora_injection import injected, load_adapter, write_adapter
from xlora_engine.adapter_training.settings import AdapterTraining
from xlora_engine.adapter_training.training_batches import Batches, only
from xlora_engine.data.chat import ChatTokenizer, EncodedExample, pad_token, training_order
from xlora_engine.data.shared_prefix import repeated, shared_prefix
from xlora_engine.devices.process_group import ALONE, ProcessGroup
from xlora_engine.errors import ConfigInvalid, TrainingStopped
from xlora_engine.sources.manifest import OnDiscarded, last_complete, step_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainedAdapter:
    """An adapter folder as PEFT writes it, and the figures of its training."""

    folder: Path
    #: Training loss of every step, those before a resumption included.
    losses: tuple[float, ...]
    #: Tokens seen in all steps.
    tokens: int
    #: Duration of this call.
    seconds: float

    @property
    def final_loss(self) -> float:
        """Training loss of the last step."""
        return self.losses[-1]


def train_adapter(
    base: PreTrainedModel,
    tokenizer: ChatTokenizer,
    examples: Sequence[EncodedExample],
    settings: AdapterTraining,
    *,
    base_name: str,
    folder: Path,
    initial: Path | None = None,
    group: ProcessGroup = ALONE,
    on_step: Callable[[StepMetrics], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    on_discarded: OnDiscarded = _log.warning,
) -> TrainedAdapter:
    """Train an adapter on a base model, which is restored, frozen and in eval mode.

    Checkpoints go to `folder/checkpoints`; a second call with the same arguments goes on from the
    last complete one, to the same weights as an uninterrupted run. The adapter goes to `folder/adapter`.
    `initial` is the folder of an adapter of this shape to continue from, with a new schedule and optimiser.
    `on_discarded` is told of each checkpoint that is not taken up, and why.

    Every process of a group calls it with the same arguments. Each takes its share of every batch, so that
    steps are those of one process; dropout, if any, is drawn by each for itself. The first one writes the
    adapter, and only its `on_step` and `stop` are called.

    Raises:
        ConfigInvalid: there are no examples, a target module that the base model does not have, a batch that
            the processes of the group cannot share, a base model whose loss they cannot, or an initial
            adapter of another shape.
        TrainingStopped: `stop` answered true; a checkpoint was written first.
        TrainingDiverged: a loss or gradient is not finite.
    """
    started = time.monotonic()
    # The seed decides, so a resumed run has the same order.
    order = training_order(examples, batch_size=settings.batch_size, steps=settings.steps, seed=settings.seed)
    parts = settings.parts(group.size)
    run = _run_digest(base, examples, settings, base_name, group, initial)
    step_callback = StepCallback(settings, run, group, on_step, stop)
    checkpoints = folder / "checkpoints"
    with injected(base, lora_config(settings), seed=settings.seed) as model:
        inactive = InactivePrefix(model, shared_prefix(examples) if settings.inactive_prefix else ())
        if initial is not None:
            load_adapter(model, initial)
            inactive.impose()
        batches = Batches(
            examples,
            order,
            parts=parts,
            pad_id=pad_token(tokenizer),
            cached=0 if inactive.cache is None else inactive.length,
        )
        trainer = _PrefixTrainer(
            prefix=inactive.cache,
            model=model,
            args=_arguments(settings, checkpoints, group, on_cpu=base.device.type == "cpu"),
            train_dataset=batches,
            data_collator=only,
            callbacks=[InactivePrefixCallback(inactive), step_callback],
        )
        trainer.remove_callback(PrinterCallback)
        if group.size > 1 and not trainer.model_accepts_loss_kwargs:
            allowed = "1 with this base model, which cannot average its loss over the tokens of all"
            raise ConfigInvalid("processes", allowed, group.size)
        if group.size > 1:
            # Otherwise dropout would drop the same units in every process.
            set_seed((settings.seed + group.index) % 2**32)
        last = _last_checkpoint(checkpoints, run, group, on_discarded)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        if step_callback.stopped:
            raise TrainingStopped(
                f"training was stopped after step {trainer.state.global_step} of {settings.steps}; "
                "its checkpoint is kept"
            )
        if group.is_first:
            write_adapter(model, folder / "adapter", base_name=base_name)
    return TrainedAdapter(
        folder=folder / "adapter",
        losses=tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry),
        tokens=batches.tokens,
        seconds=time.monotonic() - started,
    )


def lora_config(settings: AdapterTraining) -> LoraConfig:
    """What PEFT is asked for."""
    targets: Any = list(settings.target_modules)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
    )


def _last_checkpoint(folder: Path, run: str, group: ProcessGroup, on_discarded: OnDiscarded) -> Path | None:
    """The newest complete one that the first process finds; it removes the others."""
    found = last_complete(folder, run=run, on_discarded=on_discarded) if group.is_first else None
    step = group.from_first(-1 if found is None else step_of(found))
    return None if step < 0 else folder / f"checkpoint-{step}"


def _arguments(
    settings: AdapterTraining, folder: Path, group: ProcessGroup, *, on_cpu: bool
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # one item of `Batches` is a micro-batch
        # accelerate deals the items of a step to the processes in turn.
        gradient_accumulation_steps=settings.parts(group.size) // group.size,
        average_tokens_across_devices=True,  # examples differ in length, so processes differ in tokens
        ddp_broadcast_buffers=False,  # rotary frequencies may depend on a process's own sequences
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.gradient_norm,
        optim="adamw_torch_fused",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # `StepCallback` decides by time
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        use_cpu=on_cpu,
        seed=settings.seed,
    )


class _PrefixTrainer(Trainer):
    """A Trainer whose batches continue from the cache of a prefix, if there is one."""

    def __init__(self, *, prefix: Cache | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._prefix = prefix

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the Trainer computes it, after the prefix."""
        if self._prefix is not None:
            cache = repeated(self._prefix, len(inputs["input_ids"]))
            inputs = {**inputs, "cache": cache, "use_cache": True}
        return super().compute_loss(model, inputs, *args, **kwargs)


def _run_digest(
    base: PreTrainedModel,
    examples: Sequence[EncodedExample],
    settings: AdapterTraining,
    base_name: str,
    group: ProcessGroup,
    initial: Path | None,
) -> str:
    """Digests of everything the result depends on; a checkpoint with others is of another run."""
    deciding = {**asdict(settings), "checkpoint_every_s": None, "micro_batch_size": None}
    hashed = hashlib.sha256()
    for example in examples:
        learnt = (example.token_ids, example.prompt_length, *((example.between,) if example.between else ()))
        hashed.update(repr(learnt).encode())
    deciding_parts = {
        "settings": hashlib.sha256(json.dumps(deciding).encode()).hexdigest(),
        "base": hashlib.sha256(json.dumps([base_name, base.num_parameters()]).encode()).hexdigest(),
        "dtype": str(base.dtype),
        "processes": str(group.size),
        "examples": hashed.hexdigest(),
    }
    if initial is not None:
        deciding_parts["initial"] = hashlib.sha256((initial / WEIGHTS_FILE).read_bytes()).hexdigest()
    return " ".join(f"{name}={value}" for name, value in deciding_parts.items())
