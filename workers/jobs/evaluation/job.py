"""The eval job: score adapters, base models and compositions on datasets, each base model loaded once."""

from collections.abc import Mapping
from typing import Any

from workers.attempts.context import JobContext
from workers.errors import HarnessMissing
from workers.jobs.answering import Answerer, load_answerers
from workers.jobs.evaluation.comparison import differences
from workers.jobs.evaluation.measuring import Asking, Measurement, as_row, chosen_metrics, measure
from workers.jobs.evaluation.questions import drawn_questions
from workers.jobs.evaluation.recording import computed_with, record, settings_of, summary_of
from workers.jobs.loading import LoadedBase
from workers.jobs.run_pages import eval_page, log_inputs
from workers.methods.training_examples import dataset_file
from workers.requests.specs import EvalSpec
from workers.training_data.seen_in_training import seen_in_training
from xlora_engine.metrics.metric import Measured


def run(context: JobContext) -> Mapping[str, Any]:
    """Carry out one eval job; its outcome holds every score."""
    spec = EvalSpec.from_json(context.job.spec)
    context.run.describe(eval_page(spec))
    log_inputs(context.registry, context.run, tuple(spec.datasets.values()), context="evaluation")
    evaluation = _Evaluation(context, spec)
    for base, answerer in load_answerers(context.registry, spec.subjects):
        context.computes_in(base.compute_dtype)
        evaluation.ask(base, answerer)
    outcome = evaluation.outcome()
    context.run.describe(eval_page(spec, outcome["scores"]))
    return outcome


class _Evaluation:
    """What came of an eval job so far."""

    def __init__(self, context: JobContext, spec: EvalSpec) -> None:
        self._context = context
        self._spec = spec
        self._measured: dict[str, dict[str, Measurement]] = {}
        self._scores: dict[str, dict[str, Any]] = {}
        self._warnings: list[str] = []
        self._done = 0
        self._total = len(spec.subjects) * (len(spec.datasets) + len(spec.lm_eval))
        context.report("loading", 0, self._total)

    def ask(self, base: LoadedBase, answerer: Answerer) -> None:
        """Measure one subject on everything."""
        context, spec, subject = self._context, self._spec, answerer.subject
        found = seen_in_training(context.registry, subject, tuple(spec.datasets.values()))
        self._warnings += [f"{subject} on {sentence}" for sentence in found]
        self._measured[subject], self._scores[subject] = {}, {}
        for task, reference in spec.datasets.items():
            context.raise_if_stopped()
            scored = score(context, base, answerer, task, reference, asking_of(context, spec), spec.limit)
            self._measured[subject][task] = scored
            self._warnings += [f"{subject} on {task}: {sentence}" for sentence in scored.undefined]
            self._add(subject, task, scored.values, n=len(scored.examples))
        if spec.lm_eval:
            self._ask_harness(base, answerer)

    def outcome(self) -> dict[str, Any]:
        """Scores, what there is to say of them, and how they differ from the baseline's."""
        outcome: dict[str, Any] = {"scores": self._scores, "warnings": self._warnings}
        if self._spec.baseline is not None:
            outcome["differences"] = differences(self._measured, baseline=self._spec.baseline)
        return outcome

    def _ask_harness(self, base: LoadedBase, answerer: Answerer) -> None:
        try:
            from workers.jobs.evaluation.harness import harness_scores, task_manager
        except ImportError as error:
            raise HarnessMissing(str(error)) from error
        context, spec = self._context, self._spec
        context.raise_if_stopped()
        tokens = context.micro_batch(spec.batch_tokens)
        for found in harness_scores(answerer, spec, task_manager(spec), batch_tokens=tokens):
            record(
                context,
                subject=answerer.subject,
                task=found.task,
                values=found.values,
                rows=found.rows,
                dataset_digest=found.data_digest,
                settings={**found.settings, **computed_with(base)},
            )
            self._add(answerer.subject, found.task, found.values, n=len(found.rows))

    def _add(self, subject: str, task: str, values: Mapping[str, Measured], *, n: int) -> None:
        self._scores[subject][task] = summary_of(values, n=n)
        self._done += 1
        loss = values.get("loss")
        figures = {} if loss is None else {"loss": loss.value}
        # A group of the harness has more tasks than were counted.
        self._context.report(f"{subject} on {task}", min(self._done, self._total), self._total, **figures)


def asking_of(context: JobContext, spec: EvalSpec) -> Asking:
    """How this attempt of the job asks."""
    return Asking(
        metrics=spec.metrics,
        tokens_per_batch=context.micro_batch(spec.batch_tokens),
        max_new_tokens=spec.max_new_tokens,
        tolerance=spec.tolerance,
    )


def score(
    context: JobContext,
    base: LoadedBase,
    answerer: Answerer,
    task: str,
    reference: str,
    asking: Asking,
    limit: int | None,
) -> Measurement:
    """Measure one subject on one dataset and put it on record.

    Raises:
        ChatInvalid: an example cannot be encoded or read within the limits; the first such line is named.
        SpecInvalid: the data lack what a metric needs that was asked for.
    """
    path = dataset_file(context.registry, reference)
    questions = drawn_questions(path, base.tokenizer, limit=limit, limits=base.limits)
    metrics = chosen_metrics(questions, asking.metrics, task=task)
    measurement = measure(answerer, questions, metrics, asking)
    record(
        context,
        subject=answerer.subject,
        task=task,
        values=measurement.values,
        rows=[as_row(example, metrics) for example in measurement.examples],
        dataset_digest=context.registry.datasets.get(reference).digest,
        settings=settings_of(base, measurement, asking, limit=limit),
    )
    return measurement
