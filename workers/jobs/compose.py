"""The compose job: check, train the scaling head, prove it was worth it, save and register."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from formats.saved_model import HEAD_FILE, MANIFEST_FILE, RELOAD_CHECK_FILE
from registry.entities import AdapterVersion, BaseModel, ExpertRecord, NewEvaluation, StoredMethod
from workers.attempts.context import JobContext
from workers.jobs.composition_scores import record_routing, score_subjects
from workers.jobs.device import device_here
from workers.jobs.figures import draw_layer_map, draw_scores, draw_token_maps
from workers.jobs.report import COMPOSED, Tasks, build_report
from workers.jobs.training_examples import (
    DrawnRows,
    cached_hidden_states,
    dataset_file,
    draw_rows,
    encode_sample,
    scaling_pass_digest,
)
from workers.requests.specs import ComposeSpec
from xlora_engine.config import XLoraConfig
from xlora_engine.data.chat import ChatTokenizer, EncodedRow
from xlora_engine.devices.compute_dtype import compute_dtype
from xlora_engine.head_training.mixture_training import MixtureTraining, train_mixture
from xlora_engine.head_training.routed_examples import RoutedRows
from xlora_engine.head_training.stage_checkpoints import StageCheckpoints
from xlora_engine.head_training.warm_start import StageStep, WarmStart, warm_start
from xlora_engine.measuring.probe import effect_of
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import context_length, load_base, load_tokenizer

#: Tokens in one forward without gradients: enough to keep two cores busy, little enough for a laptop.
TOKENS_PER_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a composition is made of, as the registry holds it."""

    base: BaseModel
    adapters: tuple[AdapterVersion, ...]
    #: domain -> position of the expert trained for it
    domains: Mapping[str, int]


@dataclass
class Stopwatch:
    """Seconds spent in each phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside under this name."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


def run(context: JobContext) -> Mapping[str, Any]:
    """Carry out one compose job; its outcome names the composition registered."""
    spec = ComposeSpec.from_json(context.job.spec)
    watch = Stopwatch()
    with watch.phase("load"):
        parts = resolve(context, spec)
        model, tokenizer = _load(context, spec, parts)
    pad_id = _pad_id(tokenizer)
    rows = _draw(context, spec, parts, tokenizer, model)
    _train(context, spec, parts, model, rows, pad_id=pad_id, watch=watch)
    held_out = _held_out_rows(context, spec, tokenizer, model)
    report = _report(context, spec, parts, model, tokenizer, held_out, pad_id=pad_id, watch=watch)
    return _register(context, spec, parts, model, report)


def resolve(context: JobContext, spec: ComposeSpec) -> Parts:
    """Look up what the spec names, as it was when the spec was made."""
    adapters = tuple(context.registry.adapters.get(reference) for reference in spec.adapters)
    base = context.registry.bases.get(adapters[0].base_digest)
    return Parts(base=base, adapters=adapters, domains=expert_of_domain(spec.data, adapters))


def expert_of_domain(data: Mapping[str, str], adapters: tuple[AdapterVersion, ...]) -> dict[str, int]:
    """Position of the expert each domain belongs to: the adapter of that name, or the one made for it."""
    return {
        domain: next(
            place
            for place, adapter in enumerate(adapters)
            if domain == adapter.name or domain in adapter.domains
        )
        for domain in data
    }


def _load(context: JobContext, spec: ComposeSpec, parts: Parts) -> tuple[XLoraModel, ChatTokenizer]:
    context.report("loading", 0, 1)
    folder = context.registry.materialise(parts.base)
    device = device_here()
    base = load_base(folder, dtype=compute_dtype(device), device=device)
    model = XLoraModel.from_adapters(
        base,
        {adapter.name: context.registry.materialise(adapter) for adapter in parts.adapters},
        XLoraConfig.from_json(spec.head),
        seed=spec.seed,
    )
    for place, name in enumerate(model.config.adapters):
        one_hot = [float(i == place) for i in range(len(model.config.adapters))]
        effect_of(model, model.constant_scalings(one_hot), name=name)
    context.report("loading", 1, 1)
    return model, load_tokenizer(folder)


def _draw(
    context: JobContext, spec: ComposeSpec, parts: Parts, tokenizer: ChatTokenizer, model: XLoraModel
) -> DrawnRows:
    files = {
        parts.domains[domain]: dataset_file(context.registry, reference)
        for domain, reference in spec.data.items()
    }
    return draw_rows(
        files,
        tokenizer,
        rows_per_domain=spec.samples_per_domain,
        max_tokens=context_length(model.base.config),
        seed=spec.seed,
    )


def _train(
    context: JobContext,
    spec: ComposeSpec,
    parts: Parts,
    model: XLoraModel,
    rows: DrawnRows,
    *,
    pad_id: int,
    watch: Stopwatch,
) -> None:
    done = 0

    def on_rows(count: int) -> None:
        nonlocal done
        done += count
        context.report("hidden states", done, len(rows.encoded))
        context.raise_if_stopped()

    with watch.phase("hidden states"):
        hidden = cached_hidden_states(
            rows,
            model,
            folder=context.registry.settings.home / "cache" / "hidden-states",
            pass_digest=scaling_pass_digest(parts.base, parts.adapters, spec.head),
            pad_id=pad_id,
            tokens_per_batch=context.micro_batch(TOKENS_PER_BATCH),
            on_rows=on_rows,
        )
    routed = rows.routed(hidden)
    checkpoints = StageCheckpoints(
        context.folder / "training" / "mixture",
        run=f"{context.job.spec_digest} {model.base.dtype}",
        every_s=spec.checkpoint_every_s,
    )
    # A checkpoint of the second stage holds all that the first one did.
    if checkpoints.last() is None:
        with watch.phase("routing warm start"):
            _warm_start(context, spec, model, routed)
    with watch.phase("mixture training"):
        _train_mixture(context, spec, model, rows, routed, checkpoints, pad_id=pad_id)


def _warm_start(context: JobContext, spec: ComposeSpec, model: XLoraModel, rows: RoutedRows) -> None:
    warm_start(
        model.head,
        rows,
        WarmStart(steps=spec.warm_start_steps, learning_rate=spec.warm_start_learning_rate, seed=spec.seed),
        on_step=_recorder(context, "routing warm start", "warm_start", spec.warm_start_steps),
        stop=context.stop_requested,
    )


def _train_mixture(
    context: JobContext,
    spec: ComposeSpec,
    model: XLoraModel,
    rows: DrawnRows,
    routed: RoutedRows,
    checkpoints: StageCheckpoints,
    *,
    pad_id: int,
) -> None:
    mixture_training = MixtureTraining(
        steps=spec.mixture_steps, learning_rate=spec.mixture_learning_rate, seed=spec.seed
    )
    micro_batch_rows = context.micro_batch(mixture_training.rows_per_step)
    context.run.tags({"zoo.micro_batch_size": micro_batch_rows})
    train_mixture(
        model,
        rows.encoded,
        routed,
        replace(mixture_training, micro_batch_rows=micro_batch_rows),
        pad_id=pad_id,
        checkpoints=checkpoints,
        on_step=_recorder(context, "mixture training", "mixture", spec.mixture_steps),
        stop=context.stop_requested,
    )


def _recorder(context: JobContext, phase: str, metric: str, total: int) -> Any:
    def on_step(step: StageStep) -> None:
        context.report(phase, step.step, total, loss=step.loss)
        values = {f"{metric}/loss": step.loss}
        if step.held_out_loss is not None:
            values[f"{metric}/held_out_loss"] = step.held_out_loss
        context.run.metrics(values, step=step.step)

    return on_step


def _held_out_rows(
    context: JobContext, spec: ComposeSpec, tokenizer: ChatTokenizer, model: XLoraModel
) -> dict[str, list[EncodedRow]]:
    references = {**spec.eval_data, **{_task_name(ref): ref for ref in spec.mixed_datasets}}
    return {
        task: encode_sample(
            dataset_file(context.registry, reference),
            tokenizer,
            count=spec.eval_examples,
            max_tokens=context_length(model.base.config),
            seed=0,  # the same rows for every composition, so that their reports compare
        )
        for task, reference in references.items()
    }


def _report(
    context: JobContext,
    spec: ComposeSpec,
    parts: Parts,
    model: XLoraModel,
    tokenizer: ChatTokenizer,
    held_out: dict[str, list[EncodedRow]],
    *,
    pad_id: int,
    watch: Stopwatch,
) -> dict[str, Any]:
    done, total = 0, (len(parts.adapters) + 3) * len(held_out)

    def on_scored(loss: float) -> None:
        nonlocal done
        done += 1
        context.report("report", done, total, loss=loss)
        context.raise_if_stopped()

    with watch.phase("report"):
        scores = score_subjects(
            model,
            tokenizer,
            held_out,
            tokens_per_batch=context.micro_batch(TOKENS_PER_BATCH),
            on_scored=on_scored,
        )
        routing, maps = record_routing(
            model, tokenizer, held_out, tokens_per_batch=context.micro_batch(TOKENS_PER_BATCH), pad_id=pad_id
        )
    names = model.config.adapters
    tasks = Tasks(
        own_expert={domain: names[parts.domains[domain]] for domain in spec.eval_data},
        mixed=tuple(_task_name(reference) for reference in spec.mixed_datasets),
    )
    report = build_report(scores, tasks, routing=routing, seconds=watch.seconds, seed=spec.seed)
    pictures = context.folder / "pictures"
    draw_scores(report, pictures / "scores.png")
    draw_layer_map(report, pictures / "layers.png")
    draw_token_maps(maps, pictures / "tokens.png")
    return report


def _register(
    context: JobContext, spec: ComposeSpec, parts: Parts, model: XLoraModel, report: dict[str, Any]
) -> Mapping[str, Any]:
    context.report("registering", 0, 1)
    folder = context.folder / "composition"
    model.save_pretrained(folder)
    composition = context.registry.compositions.register(
        folder,
        name=spec.name,
        base_digest=parts.base.digest,
        experts=tuple(
            ExpertRecord(
                position=place,
                name=adapter.name,
                adapter_reference=adapter.reference,
                weights_digest=adapter.weights_digest,
            )
            for place, adapter in enumerate(parts.adapters)
        ),
        method=StoredMethod(
            name="xlora",
            files=(HEAD_FILE, RELOAD_CHECK_FILE, MANIFEST_FILE),
            details={"config": model.config.to_json()},
            weights={"head": HEAD_FILE},
        ),
        report=report,
        job_id=context.job.id,
        fence=context.fence,
    )
    subject = f"composition:{composition.reference}"
    context.registry.evaluations.record(_evaluations(context, spec, report, subject), fence=context.fence)
    for picture in sorted((context.folder / "pictures").glob("*.png")):
        context.run.artifact(picture, folder="pictures")
    context.run.tags({"zoo.composition": composition.reference, "zoo.worth_it": report["worth_it"]})
    context.report("registering", 1, 1)
    return {
        "composition": composition.reference,
        "worth_it": report["worth_it"],
        # As logs are: the zoo's folder may be moved.
        "pictures": str((context.folder / "pictures").relative_to(context.registry.settings.home)),
    }


def _evaluations(
    context: JobContext, spec: ComposeSpec, report: dict[str, Any], subject: str
) -> list[NewEvaluation]:
    references = {**spec.eval_data, **{_task_name(ref): ref for ref in spec.mixed_datasets}}
    return [
        NewEvaluation(
            subject=subject,
            task=task,
            metric=metric,
            value=report["scores"][COMPOSED][task][metric],
            standard_error=report["scores"][COMPOSED][task][f"{metric}_standard_error"],
            n=report["scores"][COMPOSED][task]["n"],
            dataset_digest=context.registry.datasets.get(reference).digest,
            settings={"rows": spec.eval_examples},
            job_id=context.job.id,
        )
        for task, reference in references.items()
        for metric in ("loss", "exact_match")
    ]


def _task_name(reference: str) -> str:
    """`mixed.eval@1` is the task `mixed`."""
    return reference.partition("@")[0].removesuffix(".eval")


def _pad_id(tokenizer: ChatTokenizer) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
