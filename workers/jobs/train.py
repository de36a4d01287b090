"""The train job: one LoRA adapter from one dataset, registered with lineage, effect and scores."""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from registry.entities import AdapterVersion
from workers.attempts.context import JobContext
from workers.jobs.answering import answering_on
from workers.jobs.evaluation import record, score_dataset
from workers.jobs.loading import DtypeOn, LoadedBase, dates, dtype_of, loaded_base
from workers.methods.mixing import TOKENS_PER_BATCH
from workers.methods.training_examples import dataset_file, encode_sample
from workers.requests.specs import TrainSpec
from xlora_engine.adapter_training.callbacks import StepMetrics
from xlora_engine.adapter_training.settings import AdapterTraining, TrainingSettings
from xlora_engine.adapter_training.train_adapter import TrainedAdapter, train_adapter
from xlora_engine.data.chat import EncodedExample
from xlora_engine.devices.process_group import ProcessGroup, joined
from xlora_engine.measuring.probe import adapter_effect


def run(context: JobContext) -> Mapping[str, Any]:
    """Carry out one train job; its outcome names the adapter registered by the first process."""
    spec = TrainSpec.from_json(context.job.spec)
    member = context.member
    with joined(index=member.index, size=member.processes, meeting_file=Path(member.rendezvous)) as group:
        base, trained = _train(context, spec, group)
    if not group.is_first:
        return {}
    effect = adapter_effect(base.model, trained.folder, name=spec.name)
    adapter = _register(context, spec, base, trained.folder, effect)
    context.run.tags({"zoo.adapter": adapter.reference, "zoo.base": base.record.name})
    context.run.metrics({"effect": effect})
    outcome: dict[str, Any] = {"adapter": adapter.reference, "loss": trained.final_loss, "effect": effect}
    if spec.eval_dataset is not None:
        outcome["scores"] = _evaluate(context, spec.eval_dataset, base, adapter)
    return outcome


def _train(context: JobContext, spec: TrainSpec, group: ProcessGroup) -> tuple[LoadedBase, TrainedAdapter]:
    context.report("loading", 0, spec.steps)
    registry = context.registry
    base = loaded_base(
        registry, registry.bases.get(spec.base), dtype_on=partial(_agreed_dtype, group, dtype_of(context.job))
    )
    context.computes_in(base.compute_dtype)
    examples = _examples(context, spec, base)

    micro_batch_size = context.micro_batch(spec.batch_size // spec.processes)
    context.run.tags({"zoo.micro_batch_size": micro_batch_size})

    def on_step(step: StepMetrics) -> None:
        context.report("training", step.step, spec.steps, loss=step.loss)
        context.run.metrics(
            {"train/loss": step.loss, "train/learning_rate": step.learning_rate}, step=step.step
        )

    trained = train_adapter(
        base.model,
        base.tokenizer,
        examples,
        replace(training_of(spec), micro_batch_size=micro_batch_size),
        base_name=base.record.name,
        folder=context.folder / "training",
        group=group,
        on_step=on_step,
        stop=context.stop_requested,
        on_discarded=context.checkpoint_discarded,
    )
    return base, trained


def _examples(context: JobContext, spec: TrainSpec, base: LoadedBase) -> list[EncodedExample]:
    """What is trained on; held-out examples that cannot be read are refused now, not after the training."""
    tokens = min(spec.max_tokens, base.limits.tokens)
    file = dataset_file(context.registry, spec.train_dataset)
    limits = replace(base.limits, tokens=tokens)
    examples = encode_sample(file, base.tokenizer, count=None, limits=limits, seed=spec.seed)
    if spec.eval_dataset is not None:
        held_out = dataset_file(context.registry, spec.eval_dataset)
        encode_sample(held_out, base.tokenizer, count=None, limits=base.limits, seed=spec.seed)
    return examples


def _agreed_dtype(group: ProcessGroup, dtype_on: DtypeOn, device: torch.device) -> torch.dtype:
    """What the first process finds: on a CPU it is measured, and another may measure something else."""
    fastest = dtype_on(device) if group.is_first else torch.float32
    return torch.bfloat16 if group.from_first(int(fastest == torch.bfloat16)) else torch.float32


def training_of(spec: TrainSpec) -> AdapterTraining:
    """The engine's settings, from what was asked."""
    return AdapterTraining(**{field.name: getattr(spec, field.name) for field in fields(TrainingSettings)})


def _register(
    context: JobContext, spec: TrainSpec, base: LoadedBase, folder: Path, effect: float
) -> AdapterVersion:
    context.report("registering", spec.steps, spec.steps)
    return context.registry.adapters.register(
        folder,
        name=spec.name,
        base=base.record.name,
        domains=spec.domains,
        licence=spec.licence,
        description=spec.description,
        origin=f"job:{context.job.id}",
        job_id=context.job.id,
        fence=context.fence,
        parameters={**spec.to_json(), **base.decided},
        effect_score=effect,
        compute_dtype=base.compute_dtype,
    )


def _evaluate(
    context: JobContext, reference: str, base: LoadedBase, adapter: AdapterVersion
) -> dict[str, float]:
    context.report("evaluating", 0, 1)
    tokens = context.micro_batch(TOKENS_PER_BATCH)
    with answering_on(context.registry, base, adapter) as answerer:
        score = score_dataset(context, base, answerer, reference, limit=None, tokens=tokens)
    task = context.registry.datasets.get(reference).domain or reference
    record(
        context, answerer.subject, task, reference, score, settings={"limit": None, **dates(base.tokenizer)}
    )
    context.run.metrics({"eval/loss": score.loss, "eval/exact_match": score.exact_match})
    context.report("evaluating", 1, 1, loss=score.loss)
    return {"loss": score.loss, "exact_match": score.exact_match}
