"""The compose job: mix the experts by the method asked for, prove it was worth it, save and register."""

from collections.abc import Mapping
from typing import Any

from formats.names import COMPOSED
from registry.entities import AdapterVersion, ExpertRecord, NewEvaluation
from workers.attempts.context import JobContext
from workers.jobs.contest import hold_contest
from workers.jobs.loading import dates, dtype_of, loaded_base
from workers.jobs.reports.composition_report import CompositionReport, held_out_examples, new_scoring
from workers.jobs.reports.composition_scores import Examples
from workers.jobs.run_pages import compose_page, log_inputs
from workers.methods.expert_search import choose_experts, was_right
from workers.methods.mixing import ComposedModel, Making, Parts, Stopwatch, mixing_method
from workers.requests.composition_plan import domain_names
from workers.requests.methods import ALL_METHODS, method_row
from workers.requests.specs import ComposeSpec

#: What is recorded of a composition's scores.
METRICS = ("loss", "exact_match")


def run(context: JobContext) -> Mapping[str, Any]:
    """Carry out one compose job; its outcome names the composition registered."""
    spec = ComposeSpec.from_json(context.job.spec)
    _begin(context, spec)
    making, ranking = choose_experts(_loaded(context, spec))
    spec = making.spec
    held_out = held_out_examples(making)  # what cannot be read is refused before anything is trained
    if spec.method == ALL_METHODS:
        return _best_of_all(making, held_out, ranking)
    composed = mixing_method(spec.method).make(making)
    report = _searched(CompositionReport(making, composed, held_out).build(), ranking)
    return Registration(making, composed, report, method=spec.method).run()


def _searched(report: dict[str, Any], ranking: list[dict[str, Any]]) -> dict[str, Any]:
    """A report with the ranking that its experts were chosen by, and whether it was right."""
    if ranking:
        report["search"] = {"ranking": ranking, "sentences": was_right(ranking, report["without"])}
    return report


def _best_of_all(making: Making, held_out: Examples, ranking: list[dict[str, Any]]) -> Mapping[str, Any]:
    """Make every method, register the best: the composition, and an adapter too if it is one."""
    scoring = new_scoring(making, held_out, on_task=making.context.raise_if_stopped)
    contest = hold_contest(making, held_out, scoring)
    report = CompositionReport(
        making, contest.composed, held_out, method=contest.winner, others=contest.others
    ).build()
    report = {**_searched(report, ranking), "methods": contest.rows}
    registration = Registration(making, contest.composed, report, method=contest.winner)
    outcome = registration.run()
    if not method_row(contest.winner).is_adapter:
        return outcome
    return {**outcome, "adapter": registration.as_adapter().reference}


def _begin(context: JobContext, spec: ComposeSpec) -> None:
    """What the run shows while the composition is made."""
    context.run.describe(compose_page(spec))
    context.run.tags({"zoo.experts": ", ".join(spec.adapters)})
    log_inputs(context.registry, context.run, (*spec.data.values(), *spec.corpora), context="training")
    log_inputs(context.registry, context.run, tuple(spec.report_datasets.values()), context="evaluation")


def _loaded(context: JobContext, spec: ComposeSpec) -> Making:
    watch = Stopwatch()
    context.report("loading", 0, 1)
    with watch.phase("load"):
        parts = resolve(context, spec)
        base = loaded_base(context.registry, parts.base, dtype_on=dtype_of(context.job))
    context.computes_in(base.compute_dtype)
    return Making(
        context=context,
        spec=spec,
        parts=parts,
        base_model=base.model,
        tokenizer=base.tokenizer,
        watch=watch,
    )


def resolve(context: JobContext, spec: ComposeSpec) -> Parts:
    """Look up what the spec names, as it was when the spec was made."""
    adapters = tuple(context.registry.adapters.get(reference) for reference in spec.adapters)
    base = context.registry.bases.get(adapters[0].base_digest)
    domains = domain_names(adapters)
    positions = {domains[adapter.name]: position for position, adapter in enumerate(adapters)}
    return Parts(base=base, adapters=adapters, domains=positions)


class Registration:
    """A composition put on record: its folder and method, its report, its scores, its pictures."""

    def __init__(
        self, making: Making, composed: ComposedModel, report: Mapping[str, Any], *, method: str
    ) -> None:
        self._context = making.context
        self._method = method
        self._spec = making.spec
        self._parts = making.parts
        self._composed = composed
        self._dates = dates(making.tokenizer)
        training = {"training": dict(composed.training)} if composed.training else {}
        self._report = {**report, **training}

    def run(self) -> Mapping[str, Any]:
        """Save and register; the job's outcome."""
        context, worth_it = self._context, self._report["worth_it"]
        context.report("registering", 0, 1)
        reference = self._registered()
        context.registry.evaluations.record(
            self._evaluations(f"composition:{reference}"), fence=context.fence
        )
        pictures = context.folder / "pictures"
        for picture in sorted(pictures.glob("*.png")):
            context.run.artifact(picture, folder="pictures")
        context.run.tags({"zoo.composition": reference, "zoo.worth_it": worth_it})
        context.run.describe(compose_page(self._spec, reference, self._report))
        context.report("registering", 1, 1)
        # As logs are: the zoo's folder may be moved.
        shown = str(pictures.relative_to(context.registry.settings.home))
        return {"composition": reference, "worth_it": worth_it, "pictures": shown}

    def as_adapter(self) -> AdapterVersion:
        """The composition's one adapter, as a version of its own that names what it was merged from."""
        context, parts = self._context, self._parts
        return context.registry.adapters.register(
            context.folder / "merged" / self._method,
            name=self._spec.name,
            base=parts.base.name,
            domains=tuple(parts.domains),
            description=f"{', '.join(adapter.reference for adapter in parts.adapters)} by {self._method}",
            origin=f"job:{context.job.id}",
            job_id=context.job.id,
            fence=context.fence,
            parameters={**self._spec.to_json(), "method": self._method},
        )

    def _registered(self) -> str:
        context = self._context
        folder = context.folder / "composition"
        method = mixing_method(self._method).save(self._composed, folder)
        return context.registry.compositions.register(
            folder,
            name=self._spec.name,
            base_digest=self._parts.base.digest,
            experts=tuple(
                ExpertRecord(
                    position=position,
                    name=adapter.name,
                    adapter_reference=adapter.reference,
                    weights_digest=adapter.weights_digest,
                )
                for position, adapter in enumerate(self._parts.adapters)
            ),
            method=method,
            report=self._report,
            job_id=context.job.id,
            fence=context.fence,
        ).reference

    def _evaluations(self, subject: str) -> list[NewEvaluation]:
        scores = self._report["scores"][COMPOSED]
        return [
            NewEvaluation(
                subject=subject,
                task=task,
                metric=metric,
                value=scores[task][metric],
                standard_error=scores[task][f"{metric}_standard_error"],
                n=scores[task]["n"],
                dataset_digest=self._context.registry.datasets.get(reference).digest,
                settings={"examples": self._spec.eval_examples, **self._dates},
                job_id=self._context.job.id,
            )
            for task, reference in {**self._spec.report_datasets, **self._spec.reported_corpora}.items()
            for metric in METRICS
        ]
