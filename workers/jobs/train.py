"""The train job: one LoRA adapter from one dataset, registered with lineage, effect and scores."""

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from registry.entities import AdapterVersion
from registry.intake.proven_adapter import CheckedAdapter, ProvenAdapter
from registry.service import Registry
from workers.attempts.context import JobContext
from workers.jobs.answering import answering_on
from workers.jobs.evaluation.job import score
from workers.jobs.evaluation.measuring import Asking
from workers.jobs.evaluation.recording import with_errors
from workers.jobs.loading import DtypeOn, LoadedBase, dtype_of, loaded_base
from workers.jobs.run_pages import log_inputs, train_page
from workers.methods.mixing import TOKENS_PER_BATCH
from workers.methods.training_examples import dataset_file, encode_sample
from workers.requests.specs import TrainSpec
from workers.training_data.drawn_sequences import DrawnSequences, draw_sequences
from workers.training_data.length_figure import draw_lengths
from workers.training_data.token_pace import TokenPace
from xlora_engine.adapter_training.callbacks import StepMetrics
from xlora_engine.adapter_training.settings import AdapterTraining, TrainingSettings
from xlora_engine.adapter_training.train_adapter import TrainedAdapter, train_adapter
from xlora_engine.devices.process_group import ProcessGroup, joined
from xlora_engine.measuring.peft_comparison import compare_with_peft
from xlora_engine.measuring.probe import adapter_effect

_log = logging.getLogger(__name__)


def run(context: JobContext) -> Mapping[str, Any]:
    """Carry out one train job; its outcome names the adapter registered by the first process."""
    spec = TrainSpec.from_json(context.job.spec)
    member = context.member
    _begin(context, spec)
    with joined(index=member.index, size=member.processes, meeting_file=Path(member.rendezvous)) as group:
        base, trained, drawn = _train(context, spec, group)
    if not group.is_first:
        return {}
    effect = adapter_effect(base.model, trained.folder, name=spec.name)
    adapter = _register(context, spec, base, trained.folder, effect)
    context.run.tags({"zoo.adapter": adapter.reference})
    context.run.metrics({"effect": effect})
    outcome: dict[str, Any] = {"adapter": adapter.reference, "loss": trained.final_loss, "effect": effect}
    outcome |= {"data": drawn.facts, "warnings": list(drawn.warnings)}
    if spec.eval_dataset is not None:
        outcome["scores"] = _evaluate(context, spec.eval_dataset, base, adapter)
    context.run.describe(train_page(spec, adapter.reference, outcome))
    return outcome


def _begin(context: JobContext, spec: TrainSpec) -> None:
    """What the run shows while the training lasts."""
    context.run.describe(train_page(spec))
    context.run.tags({"zoo.base": spec.base})
    trained_on = (spec.train_dataset, *spec.further_data)
    log_inputs(context.registry, context.run, trained_on, context="training")
    held_out = () if spec.eval_dataset is None else (spec.eval_dataset,)
    log_inputs(context.registry, context.run, held_out, context="evaluation")


def _train(
    context: JobContext, spec: TrainSpec, group: ProcessGroup
) -> tuple[LoadedBase, TrainedAdapter, DrawnSequences]:
    context.report("loading", 0, spec.steps)
    registry = context.registry
    base = loaded_base(
        registry, registry.bases.get(spec.base), dtype_on=partial(_agreed_dtype, group, dtype_of(context.job))
    )
    context.computes_in(base.compute_dtype)
    drawn = _drawn(context, spec, base)

    micro_batch_size = context.micro_batch(spec.batch_size // spec.processes)
    context.run.tags({"zoo.micro_batch_size": micro_batch_size})

    pace = TokenPace(tokens_per_step=spec.batch_size * drawn.mean_tokens)

    def on_step(step: StepMetrics) -> None:
        context.report("training", step.step, spec.steps, loss=step.loss)
        measured = {"loss": step.loss, "learning_rate": step.learning_rate}
        measured |= {"gradient_norm": step.gradient_norm, **pace.after_step(step.step)}
        context.run.metrics({f"train/{name}": value for name, value in measured.items()}, step=step.step)

    trained = train_adapter(
        base.model,
        base.tokenizer,
        drawn.sequences,
        replace(training_of(spec), micro_batch_size=micro_batch_size),
        base_name=base.record.name,
        folder=context.folder / "training",
        initial=_initial_folder(registry, spec),
        group=group,
        on_step=on_step,
        stop=context.stop_requested,
        on_discarded=context.checkpoint_discarded,
    )
    return base, trained, drawn


def _initial_folder(registry: Registry, spec: TrainSpec) -> Path | None:
    """The verified files of the adapter that is continued from."""
    if spec.initial_adapter is None:
        return None
    return registry.materialise(registry.adapters.get(spec.initial_adapter))


def _drawn(context: JobContext, spec: TrainSpec, base: LoadedBase) -> DrawnSequences:
    """What is trained on; held-out examples that cannot be read are refused now, not after the training."""
    references = (spec.train_dataset, *spec.further_data)
    held_out = None if spec.eval_dataset is None else dataset_file(context.registry, spec.eval_dataset)
    if held_out is not None:
        encode_sample(held_out, base.tokenizer, count=None, limits=base.limits, seed=spec.seed)
    drawn = draw_sequences(
        {reference: dataset_file(context.registry, reference) for reference in references},
        base.tokenizer,
        spec,
        limits=base.limits,
        held_out=held_out,
    )
    if context.member.is_first:
        for warning in drawn.warnings:
            _log.warning(warning)
        context.run.metrics({f"data/{name}": float(count) for name, count in drawn.facts.items()})
        picture = context.folder / "pictures" / "lengths.png"
        limit = min(spec.max_tokens, base.limits.tokens)
        context.run.artifact(draw_lengths(drawn.sequences, picture, limit=limit), folder="pictures")
    return drawn


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
        prove=partial(_same_in_peft, base, effect),
    )


def _same_in_peft(base: LoadedBase, effect: float, adapter: CheckedAdapter) -> ProvenAdapter:
    """The files that are to be stored, compared with what PEFT, which trained them, makes of them."""
    found = compare_with_peft(base.model, adapter.folder, name=adapter.name)
    return ProvenAdapter(effect_score=effect, comparison=found.to_json())


def _evaluate(
    context: JobContext, reference: str, base: LoadedBase, adapter: AdapterVersion
) -> dict[str, float]:
    context.report("evaluating", 0, 1)
    asking = Asking(tokens_per_batch=context.micro_batch(TOKENS_PER_BATCH))
    task = context.registry.datasets.get(reference).domain or reference
    with answering_on(context.registry, base, adapter) as answerer:
        measured = score(context, base, answerer, task, reference, asking, None)
    values = {name: found.value for name, found in measured.values.items()}
    context.run.metrics({f"eval/{name}": value for name, value in with_errors(measured.values).items()})
    context.report("evaluating", 1, 1, loss=values["loss"])
    return values
