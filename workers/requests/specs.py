"""What a user asks for: train an adapter, evaluate subjects, compose a mixture. Frozen, stored as JSON.

References are resolved before a spec is made, so that it means the same tomorrow. Knows no registry and no
tensors: a spec that exists is in range, though what it names may not fit together.

Every field is in the JSON, defaults included, and values have one form (a list for a tuple, 16.0 for 16): two
requests for the same thing have the same canonical JSON (keys sorted, no spaces), whose SHA-256 finds the job
that answered it before. So a field that is added, renamed or given another default makes other requests.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import AfterValidator, Field, JsonValue
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked, Distinct, Text
from formats.errors import InvalidField
from formats.names import NAME_RULE
from registry.references import checked_name
from workers.errors import SpecInvalid
from workers.requests.methods import ASKED_METHODS, DEFAULT_METHOD, METHODS_HELP, method_row
from xlora_engine.adapter_training.settings import TrainingSettings
from xlora_engine.data.learnt_answers import LearntAnswers, LongExamples
from xlora_engine.gate_training.settings import GateTraining
from xlora_engine.head_training.settings import MixtureTraining, WarmStart
from xlora_engine.metrics.names import ALL, METRIC_NAMES

#: What one machine may have of GPUs.
MOST_PROCESSES = 64

#: What base models call their embeddings; others are found out when the model is there.
_EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in"})

#: A domain has an example to train the scaling head on, and one held out to stop it in time.
LEAST_EXAMPLES = 2

_MANY = 10_000_000
#: How often an example of a further dataset is met at most, for one time of the first's.
_MOST_OFTEN = 1000

#: Name of the record that a job makes; `checked_name` refuses in its own words, the schema says the rule.
Name: TypeAlias = Annotated[str, Field(json_schema_extra={"pattern": f"^{NAME_RULE}$"})]


def _by_name(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(sorted(given.items()))


#: Name -> reference, by name: equal requests draw the same examples, in whatever order they were written.
References: TypeAlias = Annotated[Mapping[Text, Text], AfterValidator(_by_name)]


#: Reference -> weight, by name: equal requests draw the same examples, in whatever order they were written.
Weights: TypeAlias = Annotated[
    Mapping[Text, Annotated[float, Field(gt=0, le=_MOST_OFTEN)]], AfterValidator(_by_name)
]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class TrainSpec(TrainingSettings):
    """Train one LoRA adapter on one base model and one dataset."""

    kind: ClassVar[str] = "train"
    what: ClassVar[str] = "a train request"
    refusal: ClassVar[type[InvalidField]] = SpecInvalid

    name: Name = Field(description="Name of the adapter; a taken name gets its next version.")
    base: Text = Field(description="Base model.")
    train_dataset: Text = Field(description="Dataset to train on.")
    eval_dataset: Text | None = Field(default=None, description="Held-out dataset to score the adapter on.")
    initial_adapter: Text | None = Field(
        default=None,
        description="Adapter to continue from, whose rank, alpha and modules are kept.",
    )
    domains: Distinct[Text] = Field(default=(), description="What the adapter is for.")
    processes: int = Field(
        default=1,
        ge=1,
        le=MOST_PROCESSES,
        description="Share each step's examples: one GPU each where there are any.",
    )
    further_data: Weights = Field(
        default_factory=dict,
        description="Further dataset -> how often each of its examples is met, for one of the first's.",
    )
    max_tokens: int = Field(default=512, ge=8, le=2**20, description="Longest sequence.")
    long_examples: LongExamples = Field(
        default="refuse",
        description="What becomes of an example that is longer: `refuse`, `cut` off its end, or `leave-out`.",
    )
    answers: LearntAnswers = Field(
        default="every", description="Which answers of a conversation are learnt: `every` or the `last`."
    )
    description: str = Field(default="", max_length=10_000, description="What others should know.")
    licence: Text | None = Field(default=None, max_length=128, description="Licence of the adapter.")

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_name(self.name, kind="adapter")
        if self.batch_size % self.processes:
            allowed = f"a divisor of the {self.batch_size} examples of a batch, which they share evenly"
            raise SpecInvalid("processes", allowed, self.processes)
        if self.train_dataset in self.further_data:
            raise SpecInvalid("further_data", "datasets other than the first", self.train_dataset)
        embeddings = sorted(_EMBEDDINGS.intersection(self.target_modules))
        if self.inactive_prefix and embeddings:
            allowed = (
                f"without embeddings ({embeddings[0]}) unless inactive_prefix is off (--no-inactive-prefix)"
            )
            raise SpecInvalid("target_modules", allowed, self.target_modules)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class EvalSpec(Checked):
    """Measure subjects (adapters, bases, compositions) on datasets, one per task."""

    kind: ClassVar[str] = "eval"
    what: ClassVar[str] = "an eval request"
    refusal: ClassVar[type[InvalidField]] = SpecInvalid

    subjects: Distinct[Text] = Field(
        min_length=1, description="Adapters, base models, compositions to score."
    )
    datasets: References = Field(default_factory=dict, description="Task -> dataset.")
    batch_tokens: int = Field(default=1024, ge=1, le=2**24, description="Tokens in one forward.")
    limit: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="Examples of each dataset to use; all if left out."
    )
    metrics: Distinct[Text] = Field(
        default=(),
        description=f"What to measure: `{ALL}`, or some of {', '.join(METRIC_NAMES)}; if left out, what suits"
        " each dataset.",
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=2**20,
        description="Longest generated answer; if left out, twice the longest expected one.",
    )
    tolerance: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="How far a quantity may be off and still be right, as a share of the expected one.",
    )
    baseline: Text | None = Field(
        default=None, description="The subject that the others are compared with, example by example."
    )
    lm_eval: Distinct[Text] = Field(
        default=(), description="Tasks of lm-evaluation-harness, instead of datasets or beside them."
    )
    include_path: Text | None = Field(
        default=None, description="Folder with YAML tasks of your own for lm-evaluation-harness."
    )
    fewshot: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Examples before each question of lm-evaluation-harness; the task's own if left out.",
    )
    chat_template: bool = Field(
        default=False, description="Ask the questions of lm-evaluation-harness in the chat template."
    )

    def __post_init__(self) -> None:
        if not self.datasets and not self.lm_eval:
            raise SpecInvalid("datasets", "at least one, or a task of lm-evaluation-harness", {})
        unknown = [name for name in self.metrics if name not in (*METRIC_NAMES, ALL)]
        if unknown:
            raise SpecInvalid("metrics", f"{ALL} or some of {', '.join(METRIC_NAMES)}", unknown[0])
        if self.baseline is not None and self.baseline not in self.subjects:
            raise SpecInvalid("baseline", "one of the subjects", self.baseline)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ComposeSpec(Checked):
    """Mix chosen adapters by a method and report whether it was worth it."""

    kind: ClassVar[str] = "compose"
    what: ClassVar[str] = "a compose request"
    refusal: ClassVar[type[InvalidField]] = SpecInvalid

    name: Name = Field(description="Name of the composition; a taken name gets its next version.")
    adapters: Distinct[Text] = Field(
        min_length=1, description="Experts as name@version; their order is kept."
    )
    method: Text = Field(
        default=DEFAULT_METHOD, description=METHODS_HELP, json_schema_extra={"enum": list(ASKED_METHODS)}
    )
    data: References = Field(
        default_factory=dict, description="Domain -> dataset to train on, for a method that learns from data."
    )
    corpora: Distinct[Text] = Field(
        default=(),
        description="Datasets of no one domain to train on: an example that names an expert's domain belongs"
        " to it; which experts the others need is found from the experts' losses.",
    )
    choose: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Compose only so many of the adapters: those that add most on a sample of the data.",
    )
    eval_data: References = Field(default_factory=dict, description="Domain -> held-out dataset.")
    mixed_datasets: Distinct[Text] = Field(
        default=(), description="Held-out datasets whose questions join several domains."
    )
    head: Mapping[str, JsonValue] = Field(
        default_factory=dict, description="Scaling head, as fields of XLoraConfig."
    )
    warm_start_steps: int = Field(
        default=WarmStart().steps, ge=0, le=_MANY, description="Budget of the warm start."
    )
    mixture_steps: int | None = Field(
        default=None,
        ge=0,
        le=_MANY,
        description=f"Budget of mixture training; if left out {MixtureTraining().steps} where examples need"
        " several experts, none where each belongs to one.",
    )
    budget_s: float | None = Field(
        default=None, gt=0, le=31_536_000, description="Seconds of mixture training, instead of steps."
    )
    without_help: bool = Field(
        default=False, description="Train even on data on which no expert is better than the base model."
    )
    samples_per_domain: int = Field(
        default=768, ge=LEAST_EXAMPLES, le=_MANY, description="Training examples drawn from each domain."
    )
    eval_examples: int = Field(
        default=128, ge=1, le=_MANY, description="Examples of each held-out dataset in the report."
    )
    warm_start_learning_rate: float = Field(
        default=WarmStart().learning_rate, gt=0, le=1, description="Of the warm start."
    )
    mixture_learning_rate: float = Field(
        default=MixtureTraining().learning_rate, gt=0, le=1, description="Of mixture training."
    )
    load_penalty: float = Field(
        default=MixtureTraining().load_penalty,
        ge=0,
        le=1000,
        description="How much uneven use of the experts counts in mixture training.",
    )
    checkpoint_every_s: float = Field(
        default=60.0, gt=0, le=86_400, description="Seconds between checkpoints of mixture training."
    )
    merged_rank: int | None = Field(
        default=None,
        ge=1,
        le=2**16,
        description="Largest rank of a merged adapter; the sum of the experts' if left out.",
    )
    density: float = Field(
        default=0.2, gt=0, lt=1, description="Share of an expert's entries that a merge keeps."
    )
    merge_scale: float = Field(
        default=1.0, gt=0, le=1000, description="What a merged adapter is multiplied by."
    )
    cat_learning_rate: float = Field(
        default=0.05, gt=0, le=1, description="Of the weights of the method cat, in logits."
    )
    gate_steps: int = Field(
        default=GateTraining().steps,
        ge=1,
        le=_MANY,
        description="Budget of an adapter's gate, for the method phatgoose, where none is kept yet.",
    )
    router_top_k: int | None = Field(
        default=None,
        ge=1,
        le=2**16,
        description="Experts that a router gives a token in a layer; if left out as many as its authors do.",
    )
    router_temperature: float = Field(
        default=1.0, gt=0, le=1000, description="Divides a router's scores before their softmax."
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Decides initial values and samples.")

    def __post_init__(self) -> None:
        checked_name(self.name, kind="composition")
        for reference in self.adapters:
            _, separator, version = reference.partition("@")
            if not separator or not version.isdecimal():
                raise SpecInvalid("adapters", "resolved references like 'bio@3'", reference)
        needs_data = method_row(self.method).needs_data
        if self.choose is not None and not (self.data or self.corpora):
            raise SpecInvalid("choose", "left out where no data are given to choose by", self.choose)
        if self.choose is not None and self.choose > len(self.adapters):
            raise SpecInvalid("choose", f"at most {len(self.adapters)}, the adapters", self.choose)
        if needs_data and not (self.data or self.corpora):
            raise SpecInvalid("data", f"given: the method {self.method} learns from it", {})
        strangers = sorted(set(self.eval_data) - set(self.data))
        if needs_data and not self.corpora and strangers:
            raise SpecInvalid("eval_data", f"for the domains {sorted(self.data)}", strangers)
        if self.warm_start_steps == self.mixture_steps == 0 and self.budget_s is None:
            raise SpecInvalid("mixture_steps", "above 0 when there is no warm start", 0)
        if self.budget_s is not None and self.mixture_steps is not None:
            raise SpecInvalid("mixture_steps", "left out with a budget of time", self.mixture_steps)

    @property
    def report_datasets(self) -> dict[str, str]:
        """Task -> held-out dataset of the report: the domains, then `mixed` for `mixed.eval@1`."""
        return {**self.eval_data, **{task_of(reference): reference for reference in self.mixed_datasets}}

    @property
    def reported_corpora(self) -> dict[str, str]:
        """Task -> training corpus of which a part is left for the report, where nothing else is held out."""
        return {} if self.report_datasets else {task_of(reference): reference for reference in self.corpora}


def task_of(reference: str) -> str:
    """The task that a dataset of no one domain is in a report: `mixed` for `mixed.eval@1`."""
    return reference.partition("@")[0].removesuffix(".eval")


Spec: TypeAlias = TrainSpec | EvalSpec | ComposeSpec

#: every kind of job and what it is asked with
SPECS: dict[str, type[TrainSpec] | type[EvalSpec] | type[ComposeSpec]] = {
    spec.kind: spec for spec in (TrainSpec, EvalSpec, ComposeSpec)
}


def schema_of(kind: str) -> dict[str, Any]:
    """JSON Schema of a kind of request; rules about two fields are checked when the request is made.

    Raises:
        SpecInvalid: there is no such kind.
    """
    if kind not in SPECS:
        raise SpecInvalid("kind", f"one of {', '.join(SPECS)}", kind)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **SPECS[kind].json_schema()}


def file_schema_of(kind: str) -> dict[str, Any]:
    """JSON Schema of a file that asks for this: as `schema_of`, and a training may say `epochs` for `steps`.

    Raises:
        SpecInvalid: there is no such kind.
    """
    schema = schema_of(kind)
    if kind != TrainSpec.kind:
        return schema
    epochs = {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "Instead of steps: how often each example is trained on.",
    }
    return {
        **schema,
        "properties": {**schema["properties"], "epochs": epochs},
        "not": {"required": ["steps", "epochs"]},
    }


def processes_of(stored: Mapping[str, Any]) -> int:
    """How many processes a stored request wants; only training may want more than one."""
    return int(stored.get("processes", 1))
