"""Tasks of lm-evaluation-harness measured on a subject, and its scores in the zoo's terms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval import __version__ as harness_version
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from registry.files.json_text import digest_of
from registry.references import nearest
from workers.errors import NothingMeasured, SpecInvalid
from workers.jobs.answering import Answerer
from workers.jobs.evaluation.harness_model import ZooLM
from workers.requests.specs import EvalSpec
from xlora_engine.metrics.metric import Measured

#: Tokens of a usual question, by which a batch of tokens becomes one of sequences.
_TOKENS_A_SEQUENCE = 128
_STANDARD_ERROR = "_stderr"


@dataclass(frozen=True, kw_only=True)
class HarnessScore:
    """What one task of the harness gave."""

    task: str
    #: Metric, with its filter unless that is `none`, to value.
    values: Mapping[str, Measured]
    #: Over questions and answers as they were asked and expected.
    data_digest: str
    #: The examples, for the record.
    rows: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]


def task_manager(spec: EvalSpec) -> TaskManager:
    """What knows the tasks: those of the folder that is given alone, if they are all there.

    Raises:
        SpecInvalid: there is no such task.
    """
    if spec.include_path is not None:
        own = TaskManager(include_path=spec.include_path, include_defaults=False)
        if set(spec.lm_eval) <= set(own.all_tasks):
            return own
    manager = TaskManager(include_path=spec.include_path)
    unknown = [task for task in spec.lm_eval if task not in manager.all_tasks]
    if unknown:
        near = ", ".join(nearest(unknown[0], manager.all_tasks)) or "one that `zoo lm-eval ls tasks` lists"
        raise SpecInvalid("lm_eval", f"tasks of the harness, or of --include-path: {near}", unknown[0])
    return manager


def harness_scores(
    answerer: Answerer, spec: EvalSpec, manager: TaskManager, *, batch_tokens: int
) -> Iterator[HarnessScore]:
    """Every task's scores of one subject; a group gives those of its tasks.

    Raises:
        NothingMeasured: a task has no example.
    """
    batch_size = max(1, batch_tokens // _TOKENS_A_SEQUENCE)
    found = simple_evaluate(
        model=ZooLM(answerer, batch_size=batch_size),
        tasks=list(spec.lm_eval),
        num_fewshot=spec.fewshot,
        limit=spec.limit,
        apply_chat_template=spec.chat_template,
        task_manager=manager,
    )
    for task, samples in found["samples"].items():
        if not samples:
            raise NothingMeasured(f"task {task} of the harness has no example")
        yield HarnessScore(
            task=task,
            values=dict(_values(found["results"][task], n=found["n-samples"][task]["effective"])),
            data_digest=digest_of(
                [[one["doc_hash"], one["prompt_hash"], one["target_hash"]] for one in samples]
            ),
            rows=[_row(sample) for sample in samples],
            settings={
                "limit": spec.limit,
                "harness": harness_version,
                "task_version": found["versions"].get(task),
                "fewshot": found["n-shot"].get(task),
                "chat_template": spec.chat_template,
                "batch_size": batch_size,
            },
        )


def _values(results: Mapping[str, Any], *, n: int) -> Iterator[tuple[str, Measured]]:
    for key, value in results.items():
        metric, _, kept = key.partition(",")
        if not kept or metric.endswith(_STANDARD_ERROR) or not isinstance(value, int | float):
            continue
        error = results.get(f"{metric}{_STANDARD_ERROR},{kept}")
        name = metric if kept == "none" else f"{metric},{kept}"
        known = float(error) if isinstance(error, int | float) else None
        yield name, Measured(value=float(value), standard_error=known, n=n)


def _row(sample: Mapping[str, Any]) -> dict[str, Any]:
    """An example as the zoo keeps it; the harness's own samples hold much that is the same for all."""
    scores = {name: sample[name] for name in sample["metrics"] if isinstance(sample.get(name), int | float)}
    return {
        "line": sample["doc_id"] + 1,
        "question": str(sample["arguments"][0][0]),
        "expected": str(sample["target"]),
        "answer": str(
            sample["filtered_resps"][0] if len(sample["filtered_resps"]) == 1 else sample["filtered_resps"]
        ),
        **scores,
    }
