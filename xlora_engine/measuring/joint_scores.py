"""Scores of several subjects of one mixture in shared passes: each equals what it scores when asked alone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlora_engine.data.answer_scores import AnswerScores, require_finite, teacher_forced
from xlora_engine.data.chat import Batch, ChatTokenizer, EncodedExample, collate, length_grouped, pad_token
from xlora_engine.data.exact_match import decide, greedy_beginning
from xlora_engine.data.shared_prefix import can_share, shared_prefix
from xlora_engine.errors import ConfigInvalid
from xlora_engine.measuring.greedy_answers import Asked, GreedyAnswers
from xlora_engine.measuring.joint_passes import JointPasses, Prefix
from xlora_engine.measuring.subjects import Subject
from xlora_engine.mixture.mixture import Mixture


class ScalingsListener(Protocol):
    """Receives what the head says of each example that is scored under it."""

    def __call__(
        self,
        indices: Sequence[int],
        scalings: Float[Tensor, "batch seq layer expert"],
        mask: Int[Tensor, "batch seq"],
    ) -> None:
        """Scalings of every token but the last, which nothing follows; padding has a mask of 0."""


def score_jointly(
    model: Mixture,
    tokenizer: ChatTokenizer,
    examples: Sequence[EncodedExample],
    requests: Mapping[Subject, Sequence[int]],
    *,
    tokens_per_batch: int,
    stops: Collection[int] = (),
    on_scalings: ScalingsListener | None = None,
) -> dict[str, AnswerScores]:
    """Loss and exact match of each subject, by its name, on the examples asked of it, in their order.

    The tokens that all examples begin with are run once. Every other forward takes as many sequences as fit,
    whichever subjects they are of. The scaling pass of an example serves all subjects that read the head, and
    is the forward of the subject that has its scalings. `stops` are further tokens that end an answer.

    Raises:
        ConfigInvalid: there is nothing to score.
        ScoreNotFinite: an answer's loss is NaN or infinite.
    """
    if not examples or not requests or not all(requests.values()):
        counts = {subject.name: len(indices) for subject, indices in requests.items()}
        raise ConfigInvalid("examples", "at least one for each subject", counts)
    shares = can_share(model.new_cache().mixture, left_padded=True)
    with torch.no_grad():
        passes = JointPasses(model, list(requests))
        prefix = passes.run_prefix(shared_prefix(examples) if shares else ())
        forced = _Forced(passes, prefix, tokenizer, examples, tokens_per_batch, stops, on_scalings)
        for number, indices in enumerate(requests.values()):
            forced.ask(number, indices)
        forced.run()
        greedy = GreedyAnswers(
            passes, prefix, tokenizer, examples, tokens_per_batch=tokens_per_batch, stops=stops
        )
        matches = forced.matches | greedy.matches(forced.undecided)
    return {
        subject.name: AnswerScores(
            example_losses=tuple(forced.losses[Asked(number, index)] for index in indices),
            example_matches=tuple(float(matches[Asked(number, index)]) for index in indices),
            example_tokens=tuple(len(examples[index].answer_ids) for index in indices),
        )
        for number, (subject, indices) in enumerate(requests.items())
    }


class _Answer(NamedTuple):
    """One sequence of a batch: what it is of, and where in the batch its tokens are."""

    asked: Asked
    sequence: int


class _Forced:
    """Teacher forcing: the loss of everything asked, and the match of most of it."""

    def __init__(
        self,
        passes: JointPasses,
        prefix: Prefix,
        tokenizer: ChatTokenizer,
        examples: Sequence[EncodedExample],
        tokens_per_batch: int,
        stops: Collection[int],
        on_scalings: ScalingsListener | None,
    ) -> None:
        self._passes = passes
        self._prefix = prefix
        self._tokenizer = tokenizer
        self._examples = examples
        # No token follows the last one, so it need not be read.
        self._read = [_without_last(example).after(prefix.length) for example in examples]
        self._tokens = tokens_per_batch
        self._stops = stops
        self._on_scalings = on_scalings
        self._asked: dict[int, frozenset[int]] = {}
        self.losses: dict[Asked, float] = {}
        self.matches: dict[Asked, bool] = {}
        #: What has no match yet, with the beginning of its greedy answer.
        self.undecided: dict[Asked, tuple[int, ...]] = {}

    def ask(self, subject: int, indices: Sequence[int]) -> None:
        """Have a subject score these examples."""
        self._asked[subject] = frozenset(indices)

    def run(self) -> None:
        """Score all that was asked."""
        subjects = self._passes.subjects
        reading = [number for number in self._asked if subjects[number].reads_head]
        read = sorted(frozenset().union(*(self._asked[number] for number in reading)))
        for positions in length_grouped([self._read[index] for index in read], tokens_per_batch=self._tokens):
            self._run_under_head([read[position] for position in positions], reading)
        done = self.losses.keys()
        constant = [
            asked
            for number in self._asked
            if number not in reading
            for index in sorted(self._asked[number])
            if (asked := Asked(number, index)) not in done
        ]
        sequences = [self._read[asked.example] for asked in constant]
        for positions in length_grouped(sequences, tokens_per_batch=self._tokens):
            group = [constant[position] for position in positions]
            batch = self._batch([asked.example for asked in group])
            logits = self._passes.logits(batch, self._prefix, [asked.subject for asked in group], None)
            self._take(group, logits)

    def _run_under_head(self, indices: Sequence[int], reading: Sequence[int]) -> None:
        """One scaling pass over these examples, then every subject that reads the head."""
        batch, twin = self._batch(indices), self._passes.twin
        of_twin = [] if twin is None else [index for index in indices if index in self._asked[twin]]
        of_head, logits = self._passes.read_batch(batch, self._prefix, keep=batch.keep if of_twin else None)
        self._tell(indices, of_head, batch)
        if logits is not None and twin is not None:
            rows = [indices.index(index) for index in of_twin]
            self._take([Asked(twin, index) for index in of_twin], logits[rows])
        answers = [
            _Answer(Asked(number, index), sequence)
            for number in reading
            for sequence, index in enumerate(indices)
            if index in self._asked[number]
        ]
        for start in range(0, len(answers), len(indices)):
            group = answers[start : start + len(indices)]
            rows = [answer.sequence for answer in group]
            subjects = [answer.asked.subject for answer in group]
            logits = self._passes.logits(_sequences(batch, rows), self._prefix, subjects, of_head[rows])
            self._take([answer.asked for answer in group], logits)

    def _batch(self, indices: Sequence[int]) -> Batch:
        read = [self._read[index] for index in indices]
        return collate(read, pad_id=pad_token(self._tokenizer)).to(self._passes.model.device)

    def _take(self, group: Sequence[Asked], logits: Float[Tensor, "batch kept vocabulary"]) -> None:
        """Losses and matches from the logits of these answers, which end at the last position."""
        for asked, ahead in zip(group, logits, strict=True):
            example = self._examples[asked.example]
            loss, predicted = teacher_forced(ahead[-len(example.answer_ids) :], example)
            require_finite(loss, asked.example, logits.dtype)
            self.losses[asked] = loss
            decided = decide(self._tokenizer, example, predicted, stops=self._stops)
            if decided is None:
                self.undecided[asked] = greedy_beginning(example, predicted)
            else:
                self.matches[asked] = decided

    def _tell(
        self, indices: Sequence[int], of_head: Float[Tensor, "batch seq layer expert"], batch: Batch
    ) -> None:
        if self._on_scalings is None:
            return
        before = self._prefix.scalings
        if before is not None:
            of_head = torch.cat([before.expand(len(of_head), -1, -1, -1), of_head], 1)
        self._on_scalings(indices, of_head, self._prefix.mask(batch.attention_mask))


def _without_last(example: EncodedExample) -> EncodedExample:
    return replace(example, token_ids=example.token_ids[:-1])


def _sequences(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some of a batch's sequences, as often as they are named."""
    chosen = list(rows)
    return Batch(
        input_ids=batch.input_ids[chosen],
        attention_mask=batch.attention_mask[chosen],
        position_ids=batch.position_ids[chosen],
        labels=batch.labels[chosen],
        keep=batch.keep,
    )
