"""The report of a composition, measured: held-out examples, scores, routing, page and pictures."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from formats.names import COMPOSED, UNIFORM, of_method
from registry.reports.page import report_page
from workers.jobs.example_tables import log_examples
from workers.jobs.reports.composition_scores import (
    HALVED,
    Compared,
    Examples,
    Listening,
    Scores,
    Scoring,
    changed,
    composition_itself,
    merged_beside,
    parts_of,
    without,
)
from workers.jobs.reports.contamination import SeenExample, seen_examples
from workers.jobs.reports.figures import draw_layer_map, draw_scores, draw_token_maps
from workers.jobs.reports.report import Measured, build_report, report_metrics
from workers.jobs.reports.routing_record import RoutingRecord
from workers.jobs.reports.verdicts import Tasks
from workers.methods.mixing import TOKENS_PER_BATCH, ComposedModel, Making, static_method
from workers.methods.training_examples import dataset_file, encode_sample, left_for_the_report
from workers.requests.methods import METHODS
from xlora_engine.config import XLoraConfig
from xlora_engine.data.chat import read_examples
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import read_limits
from xlora_engine.sources.own_generation_config import stops_of


def held_out_examples(making: Making) -> Examples:
    """The examples of the report, by task, in an order of their own: the first few are a sample of all.

    Where nothing was held out, they are a part of each training corpus, which is not trained on.

    Raises:
        ChatInvalid: one cannot be encoded, or is longer than the base model reads.
    """
    spec, limits = making.spec, read_limits(making.base_model.config)
    found = {}
    for task, reference in (spec.report_datasets or spec.reported_corpora).items():
        file = dataset_file(making.context.registry, reference)
        if spec.report_datasets:
            # The same examples for every composition, so that their reports compare.
            drawn = encode_sample(file, making.tokenizer, count=spec.eval_examples, limits=limits, seed=0)
        else:
            drawn = left_for_the_report(
                file,
                making.tokenizer,
                experts=len(making.parts.domains),
                count_per_domain=spec.samples_per_domain,
                reported=spec.eval_examples,
                limits=limits,
                seed=spec.seed,
            )
        found[task] = random.Random(0).sample(drawn, len(drawn))  # noqa: S311 - an order, not a secret
    return found


def new_scoring(
    making: Making, examples: Examples, *, on_task: Callable[[], None], listening: Listening | None = None
) -> Scoring:
    """What scores subjects on the base model of a composition in the making."""
    return Scoring(
        examples,
        making.tokenizer,
        tokens_per_batch=making.context.micro_batch(TOKENS_PER_BATCH),
        stops=stops_of(making.base_model.generation_config),
        on_task=on_task,
        listening=listening,
    )


class CompositionReport:
    """Whether it was worth it, on data that nothing was trained on."""

    def __init__(
        self,
        making: Making,
        composed: ComposedModel,
        held_out: Examples,
        *,
        method: str | None = None,
        others: Scores | None = None,
    ) -> None:
        """`method` is the composition's, the request's if left out; `others` are scores of other methods.

        Without these, the static methods that cost seconds are made and scored.
        """
        self._making = making
        self._composed = composed
        self._examples = held_out
        self._method = method or making.spec.method
        self._others = others
        #: How often all tasks are scored: the static methods apart from the rest.
        self._rounds = 2 if others is None else 1
        self._done = 0
        self._total = 0

    def build(self) -> dict[str, Any]:
        """The report as JSON types; its page and pictures lie in the job's folder and go to the run."""
        making = self._making
        with making.watch.phase("report"):
            measured = self._measured()
        report = build_report(measured, seed=making.spec.seed)
        self._write(report)
        return report

    def _measured(self) -> Measured:
        making, tasks = self._making, self._tasks()
        model = self._composed.model
        record = RoutingRecord(model.config.adapters, making.tokenizer, self._examples)
        # A head alone says how it routes.
        listening = record.listener if self._composed.reads_head else None
        scoring = new_scoring(making, self._examples, on_task=self._on_task, listening=listening)
        experts = tuple(adapter.name for adapter in making.parts.adapters)
        scores = self._scores(scoring, tasks, experts)
        scores |= self._static() if self._others is None else self._others
        scores[COMPOSED] = scores.pop(COMPOSED)  # the last, after what it is compared with
        for task, examples in self._examples.items():
            of_task = {
                name: by_task[task] for name, by_task in scores.items() if name not in _changes(experts)
            }
            log_examples(making.context.run, task, making.tokenizer, examples, of_task)
        seen, unknown = self._seen()
        return Measured(
            scores={name: scores[name] for name in scores if name not in _changes(experts)},
            tasks=tasks,
            without={name: scores[without(name)] for name in experts if without(name) in scores},
            halved=scores.get(HALVED, {}),
            routing=record.routing,
            samples=record.samples,
            seen=seen,
            unknown_training=unknown,
            seconds=making.watch.seconds,
        )

    def _scores(self, scoring: Scoring, tasks: Tasks, experts: tuple[str, ...]) -> Scores:
        """Of the parts, then of the composition, then of the composition changed."""
        model, own = self._composed.model, composition_itself(self._composed)
        changes = own.router is None and len(model.config.adapters) > 1
        itself = (own, *changed(own, model)) if changes else (own,)
        whole = {
            task: {COMPOSED, UNIFORM, *filter(None, (tasks.own_expert.get(task),))} for task in tasks.names
        }
        parts = tuple(parts_of(experts))
        if model.config.adapters == experts:
            self._total = self._rounds * len(tasks.names)
            return scoring.run(
                Compared(model=model, subjects=(*parts, *itself), whole=whole, experts=experts)
            )
        # The method made one model of its own of the experts: they are asked in another one.
        self._total = (self._rounds + 1) * len(tasks.names)
        with self._experts_alone(model) as apart:
            scores = scoring.run(Compared(model=apart, subjects=parts, whole=whole, experts=experts))
        return scores | scoring.run(Compared(model=model, subjects=(own,), whole=whole))

    def _static(self) -> Scores:
        """Scores of the merges that every report has; the composed model is as it was afterwards."""
        making, model = self._making, self._composed.model
        adapters = {
            of_method(name): static_method(name).merge(making, making.read)
            for name, row in METHODS.items()
            if row.in_every_report and name != self._method and len(making.read) > 1
        }
        if not adapters:
            return {}
        base = model.unload()
        try:
            with merged_beside(base, adapters, self._examples, whole=False) as compared:
                return new_scoring(making, self._examples, on_task=self._on_task).run(compared)
        finally:
            model.rewrap()

    @contextmanager
    def _experts_alone(self, composed: XLoraModel) -> Iterator[Mixture]:
        """The experts on the base model, which the composed model leaves to them inside."""
        composed.unload()
        try:
            experts = self._making.with_experts(XLoraConfig())
            try:
                yield experts
            finally:
                experts.unload()
        finally:
            composed.rewrap()

    def _tasks(self) -> Tasks:
        spec, parts = self._making.spec, self._making.parts
        own_expert = {domain: parts.adapters[parts.domains[domain]].name for domain in spec.eval_data}
        return Tasks(
            own_expert=own_expert,
            mixed=tuple(task for task in self._examples if task not in own_expert),
        )

    def _seen(self) -> tuple[list[SeenExample], list[str]]:
        """Held-out examples that were trained on, and the experts of which no training data is on record."""
        making = self._making
        registry, spec = making.context.registry, making.spec
        trained_on = {
            adapter.name: adapter.parameters.get("train_dataset") for adapter in making.parts.adapters
        }
        references = [*filter(None, trained_on.values()), *spec.data.values(), *spec.corpora]
        return (
            seen_examples(
                {
                    task: read_examples(dataset_file(registry, reference))
                    for task, reference in spec.report_datasets.items()
                },
                {name: read_examples(dataset_file(registry, name)) for name in dict.fromkeys(references)},
            ),
            [name for name, reference in trained_on.items() if not reference],
        )

    def _write(self, report: dict[str, Any]) -> None:
        context = self._making.context
        pages = context.folder / "report"
        pages.mkdir(exist_ok=True)
        page = report_page(report, title=self._making.spec.name)
        (pages / "report.html").write_text(page, encoding="utf-8")
        (pages / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        for path in sorted(pages.iterdir()):
            context.run.artifact(path)
        context.run.metrics(report_metrics(report))
        _draw(report, context.folder / "pictures")

    def _on_task(self) -> None:
        self._done += 1
        self._making.context.report("report", self._done, self._total)
        self._making.context.raise_if_stopped()


def _changes(experts: tuple[str, ...]) -> set[str]:
    return {HALVED, *map(without, experts)}


def _draw(report: dict[str, Any], folder: Path) -> None:
    draw_scores(report, folder / "scores.png")
    if report["routing"]:
        draw_layer_map(report, folder / "layers.png")
        draw_token_maps(report["samples"], folder / "tokens.png")
