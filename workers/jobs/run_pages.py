"""What a person reads first on the page of a run: what it made, from what, how good it is, how to use it.

Markdown, for MLflow's pages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from registry.commands.report_table import score_rows, verdict_lines
from registry.service import Registry
from workers.requests.specs import ComposeSpec, EvalSpec, TrainSpec
from workers.tracking.dataset_inputs import DatasetInput
from workers.tracking.spool import Run


def train_page(spec: TrainSpec, adapter: str | None = None, outcome: Mapping[str, Any] | None = None) -> str:
    """Of a training; `adapter` is the version that it made, once it has."""
    data = ", ".join(f"`{name}`" for name in (spec.train_dataset, *spec.further_data))
    begun_with = f", continued from `{spec.initial_adapter}`" if spec.initial_adapter else ""
    what = (
        f"Adapter **{adapter or spec.name}** on the base model `{spec.base}`: LoRA of rank {spec.rank},"
        f" trained on {data} for {spec.steps} steps{begun_with}."
    )
    if adapter is None or outcome is None:
        return what
    scores = outcome.get("scores", {})
    held_out = [f"On held-out `{spec.eval_dataset}`: {_values(scores)}."] if scores else []
    warnings = [f"- {warning}" for warning in outcome.get("warnings", ())]
    use = (f"zoo generate {adapter} 'A question'", f"zoo adapters show {adapter}")
    return _paragraphs(what, *held_out, "\n".join(warnings), _use(use))


def compose_page(
    spec: ComposeSpec, composition: str | None = None, report: Mapping[str, Any] | None = None
) -> str:
    """Of a composition; `composition` is the version that it made, once it has."""
    experts = ", ".join(f"`{reference}`" for reference in spec.adapters)
    what = f"Composition **{composition or spec.name}** of {experts} by the method `{spec.method}`."
    if composition is None or report is None:
        return what
    lines = [line.strip() for line in verdict_lines(report)]
    verdict = [f"**Verdict: {line}**" for line in lines[-1:]]
    reasons = "\n".join(f"- {line}" for line in lines[:-1])
    scores = ["Loss / exact match on held-out data:", _table(score_rows(report))]
    use = (f"zoo generate {composition} 'A question'", f"zoo compositions report {composition}")
    return _paragraphs(what, *verdict, reasons, *scores, _use(use))


def eval_page(spec: EvalSpec, scores: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None) -> str:
    """Of an evaluation; `scores` by subject, then by task, once they are there."""
    subjects = ", ".join(f"`{subject}`" for subject in spec.subjects)
    on = ", ".join(f"`{reference}`" for reference in (*spec.datasets.values(), *spec.lm_eval))
    what = f"Scores of {subjects} on {on}."
    if scores is None:
        return what
    rows = [
        {"subject": subject, **{task: _values(score) for task, score in by_task.items()}}
        for subject, by_task in scores.items()
    ]
    return _paragraphs(what, _table(rows), _use(("zoo evals ls",)))


def log_inputs(registry: Registry, run: Run, references: Sequence[str], *, context: str) -> None:
    """The datasets that a job reads for `context`, each once."""
    for reference in dict.fromkeys(references):
        run.dataset(DatasetInput.of(registry.datasets.get(reference), context=context))


def _values(scores: Mapping[str, Any]) -> str:
    """`loss 0.512, exact_match 0.750 (8 examples)`, of whatever was measured."""
    values = [f"{name} {value:.3f}" for name, value in scores.items() if isinstance(value, float)]
    counted = f" ({scores['n']} examples)" if "n" in scores else ""
    return ", ".join(values) + counted


def _use(commands: Sequence[str]) -> str:
    return "\n".join(["Use it:", "", "```", *commands, "```"])


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
