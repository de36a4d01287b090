"""Scores of everything a composition is compared with, in shared passes of one mixture where it is one.

Constant weights make a mixture each of its parts: all zero is the base, one-hot is one adapter alone,
1/n is the uniform mixture. So every figure of a report comes from the same code and the same examples.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from formats.names import BASE, COMPOSED, UNIFORM
from workers.methods.mixing import ComposedModel, alone, uniform
from xlora_engine.config import XLoraConfig
from xlora_engine.data.answer_scores import AnswerScores
from xlora_engine.data.chat import ChatTokenizer, EncodedExample
from xlora_engine.measuring.joint_scores import ScalingsListener, score_jointly
from xlora_engine.measuring.subjects import Subject
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.sources.adapter_weights import Expert

#: Examples of a task on which a subject is scored whose difference from the composition is large as a rule:
#: the base, adapters of other domains, the composition without an expert or with halved gates.
FEW_EXAMPLES = 8

#: What the composition with half of every scaling is called among the subjects.
HALVED = "halved gates"

#: Encoded examples by task.
Examples = Mapping[str, Sequence[EncodedExample]]

#: Scores by subject, then by task.
Scores = dict[str, dict[str, AnswerScores]]

#: A listener to the head's scalings for each task.
Listening = Callable[[str], ScalingsListener]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The subjects of one mixture, and on which tasks each needs all examples."""

    model: Mixture
    subjects: tuple[Subject, ...]
    #: Names of subjects that are scored on all examples, by task; on the first few elsewhere.
    whole: Mapping[str, Collection[str]]
    #: Names of single experts, of which the best of each task is scored on all its examples.
    experts: tuple[str, ...] = ()


def parts_of(experts: Sequence[str]) -> list[Subject]:
    """What a composition is made from: the base, every expert alone, the uniform mixture."""
    count = len(experts)
    return [
        Subject(name=BASE, weights=(0.0,) * count),
        *(Subject(name=name, weights=alone(position, of=count)) for position, name in enumerate(experts)),
        Subject(name=UNIFORM, weights=uniform(count)),
    ]


def composition_itself(composed: ComposedModel) -> Subject:
    """The composition, by its constant weights, its router or its head."""
    return Subject(
        name=COMPOSED,
        weights=composed.weights or (1.0,) * len(composed.model.config.adapters),
        reads_head=composed.reads_head,
        router=composed.router,
    )


@contextmanager
def merged_beside(
    base: PreTrainedModel, adapters: Mapping[str, Expert], tasks: Collection[str], *, whole: bool
) -> Iterator[Compared]:
    """Inside, merged adapters are beside each other on the base model, to be scored in shared passes.

    Each is a subject, by its key; with `whole` all examples are asked of all, else of the best of each task.
    """
    # A subject's name may have a space.
    experts = [replace(adapter, name=str(position)) for position, adapter in enumerate(adapters.values())]
    model = Mixture(base, experts, XLoraConfig())
    try:
        yield Compared(
            model=model,
            subjects=tuple(
                Subject(name=name, weights=alone(position, of=len(experts)))
                for position, name in enumerate(adapters)
            ),
            whole={task: set(adapters) if whole else set() for task in tasks},
            experts=() if whole else tuple(adapters),
        )
    finally:
        model.unload()


def changed(composed: Subject, model: Mixture) -> list[Subject]:
    """The composition without each of its experts, and with half of every scaling."""
    config = model.config
    divides = (config.enable_softmax or config.enable_softmax_topk) and not config.unit_top_1
    return [
        *(
            composed.without(position, name=without(name), divides_share=divides)
            for position, name in enumerate(config.adapters)
        ),
        composed.scaled(0.5, name=HALVED),
    ]


def without(expert: str) -> str:
    """The name of the composition without an expert; no adapter's name has a space."""
    return f"without {expert}"


class Scoring:
    """Scores subjects on tasks: few examples first, all of them where the comparison needs them."""

    def __init__(
        self,
        examples: Examples,
        tokenizer: ChatTokenizer,
        *,
        tokens_per_batch: int,
        stops: Collection[int],
        on_task: Callable[[], None],
        listening: Listening | None = None,
    ) -> None:
        self._examples = examples
        self._tokenizer = tokenizer
        self._tokens_per_batch = tokens_per_batch
        self._stops = stops
        self._on_task = on_task
        self._listening = listening

    def run(self, compared: Compared) -> Scores:
        """The scores of all subjects of one mixture; `on_task` is called after each task."""
        scores: Scores = {subject.name: {} for subject in compared.subjects}
        for task in self._examples:
            for name, score in self._on(task, compared).items():
                scores[name][task] = score
            self._on_task()
        return scores

    def _on(self, task: str, compared: Compared) -> dict[str, AnswerScores]:
        count = len(self._examples[task])
        few = range(min(FEW_EXAMPLES, count))
        distinct = {_computes(subject): subject for subject in reversed(compared.subjects)}
        requests = dict.fromkeys(distinct.values(), few)
        for subject in compared.subjects:
            if subject.name in compared.whole[task]:
                requests[distinct[_computes(subject)]] = range(count)
        found = self._score(task, compared.model, requests)
        best = min(compared.experts, key=lambda name: found[name].first(len(few)).loss, default=None)
        if best is not None and found[best].n < count:
            (subject,) = (each for each in compared.subjects if each.name == best)
            rest = self._score(task, compared.model, {subject: range(len(few), count)})
            found[best] = found[best].followed_by(rest[best])
        return {each.name: found[distinct[_computes(each)].name] for each in compared.subjects}

    def _score(
        self, task: str, model: Mixture, requests: Mapping[Subject, Sequence[int]]
    ) -> dict[str, AnswerScores]:
        return score_jointly(
            model,
            self._tokenizer,
            self._examples[task],
            requests,
            tokens_per_batch=self._tokens_per_batch,
            stops=self._stops,
            on_scalings=None if self._listening is None else self._listening(task),
        )


def _computes(subject: Subject) -> tuple[object, ...]:
    """Equal for subjects that compute the same, whatever they are called."""
    return (subject.weights, subject.reads_head, subject.keeps_sum, subject.router)
