"""The report of a composition, measured: held-out examples, scores of all subjects, routing, pictures."""

from pathlib import Path
from typing import Any

from workers.jobs.composition_scores import Examples, compared, record_routing, score_all
from workers.jobs.figures import TokenMap, draw_layer_map, draw_scores, draw_token_maps
from workers.jobs.report import Tasks, build_report
from workers.methods.mixing import TOKENS_PER_BATCH, ComposedModel, Making
from workers.methods.training_examples import dataset_file, encode_sample
from xlora_engine.measuring.routing import Routing
from xlora_engine.sources.base_model import read_limits


def held_out_examples(making: Making) -> Examples:
    """The examples of the report, by task.

    Raises:
        ChatInvalid: one cannot be encoded, or is longer than the base model reads.
    """
    return {
        task: encode_sample(
            dataset_file(making.context.registry, reference),
            making.tokenizer,
            count=making.spec.eval_examples,
            limits=read_limits(making.base_model.config),
            seed=0,  # the same examples for every composition, so that their reports compare
        )
        for task, reference in making.spec.report_datasets.items()
    }


class CompositionReport:
    """Whether it was worth it, on data that nothing was trained on."""

    def __init__(self, making: Making, composed: ComposedModel, held_out: Examples) -> None:
        self._making = making
        self._composed = composed
        self._held_out = held_out
        self._tokens = making.context.micro_batch(TOKENS_PER_BATCH)
        self._done = 0
        self._total = 0

    def build(self) -> dict[str, Any]:
        """The report as JSON types; its pictures lie in the job's folder."""
        making = self._making
        examples = self._held_out
        answerers = compared(self._composed, making.tokenizer)
        self._total = len(answerers) * len(examples)
        with making.watch.phase("report"):
            scores = score_all(answerers, examples, tokens_per_batch=self._tokens, on_scored=self._on_scored)
            routing, maps = self._routing(examples)
        report = build_report(
            scores, self._tasks(), routing=routing, seconds=making.watch.seconds, seed=making.spec.seed
        )
        _draw(report, maps, making.context.folder / "pictures")
        return report

    def _routing(self, examples: Examples) -> tuple[dict[str, Routing], list[TokenMap]]:
        """How a head routes; nothing is routed where weights are constant."""
        if self._composed.weights is not None:
            return {}, []
        making = self._making
        return record_routing(self._composed.model, making.tokenizer, examples, tokens_per_batch=self._tokens)

    def _tasks(self) -> Tasks:
        spec, names = self._making.spec, self._composed.model.config.adapters
        own_expert = {domain: names[self._making.parts.domains[domain]] for domain in spec.eval_data}
        return Tasks(
            own_expert=own_expert,
            mixed=tuple(task for task in spec.report_datasets if task not in own_expert),
        )

    def _on_scored(self, loss: float) -> None:
        self._done += 1
        self._making.context.report("report", self._done, self._total, loss=loss)
        self._making.context.raise_if_stopped()


def _draw(report: dict[str, Any], maps: list[TokenMap], folder: Path) -> None:
    draw_scores(report, folder / "scores.png")
    if report["routing"]:
        draw_layer_map(report, folder / "layers.png")
        draw_token_maps(maps, folder / "tokens.png")
