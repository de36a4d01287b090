"""The eval job: score adapters, base models and compositions on datasets, each base model loaded once."""

from collections.abc import Mapping, Sequence
from typing import Any

from registry.entities import NewEvaluation
from workers.attempts.context import JobContext
from workers.jobs.answering import Answerer, load_answerers
from workers.jobs.loading import LoadedBase, dates
from workers.methods.training_examples import dataset_file, encode_sample
from workers.requests.specs import EvalSpec
from workers.training_data.seen_in_training import seen_in_training
from xlora_engine.data.answer_scores import AnswerScores

#: What is recorded of a score.
METRICS = ("loss", "exact_match")


def run(context: JobContext) -> Mapping[str, Any]:
    """Carry out one eval job; its outcome holds every score."""
    spec = EvalSpec.from_json(context.job.spec)
    total = len(spec.subjects) * len(spec.datasets)
    context.report("loading", 0, total)
    scores: dict[str, dict[str, AnswerScores]] = {}
    seen: list[str] = []
    done = 0
    for base, answerer in load_answerers(context.registry, spec.subjects):
        context.computes_in(base.compute_dtype)
        scores[answerer.subject] = {}
        found = seen_in_training(context.registry, answerer.subject, tuple(spec.datasets.values()))
        seen += [f"{answerer.subject} on {sentence}" for sentence in found]
        for task, reference in spec.datasets.items():
            context.raise_if_stopped()
            tokens = context.micro_batch(spec.batch_tokens)
            score = score_dataset(context, base, answerer, reference, limit=spec.limit, tokens=tokens)
            scores[answerer.subject][task] = score
            settings = {"limit": spec.limit, **dates(base.tokenizer)}
            record(context, answerer.subject, task, reference, score, settings=settings)
            done += 1
            context.report(f"{answerer.subject} on {task}", done, total, loss=score.loss)
            context.run.metrics({f"{answerer.subject}/{task}/{m}": getattr(score, m) for m in METRICS})
    return {"scores": _plain(scores), "warnings": seen}


def score_dataset(
    context: JobContext,
    base: LoadedBase,
    answerer: Answerer,
    reference: str,
    *,
    limit: int | None,
    tokens: int,
) -> AnswerScores:
    """One subject's scores on one dataset."""
    examples = encode_sample(
        dataset_file(context.registry, reference),
        answerer.tokenizer,
        count=limit,
        limits=base.limits,
        seed=0,  # the same examples for every subject, so that their scores compare
    )
    return answerer.score(examples, tokens_per_batch=tokens)


def record(
    context: JobContext,
    subject: str,
    task: str,
    reference: str,
    score: AnswerScores,
    *,
    settings: Mapping[str, Any],
) -> None:
    """Put one subject's scores on its record."""
    digest = context.registry.datasets.get(reference).digest
    measured = evaluations(context.job.id, subject, task, digest, score, settings)
    context.registry.evaluations.record(measured, fence=context.fence)


def evaluations(
    job_id: int,
    subject: str,
    task: str,
    dataset_digest: str,
    score: AnswerScores,
    settings: Mapping[str, Any],
) -> list[NewEvaluation]:
    """A score as the registry records it: one evaluation a metric."""
    return [
        NewEvaluation(
            subject=subject,
            task=task,
            metric=metric,
            value=getattr(score, metric),
            standard_error=getattr(score, f"{metric}_standard_error"),
            n=score.n,
            dataset_digest=dataset_digest,
            settings=settings,
            job_id=job_id,
        )
        for metric in METRICS
    ]


def _plain(scores: Mapping[str, Mapping[str, AnswerScores]]) -> dict[str, dict[str, dict[str, float]]]:
    names: Sequence[str] = (*METRICS, "n")
    return {
        subject: {task: {name: getattr(score, name) for name in names} for task, score in by_task.items()}
        for subject, by_task in scores.items()
    }
