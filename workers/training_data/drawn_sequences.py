"""The datasets of one training as sequences: encoded as was asked, each as often as its weight says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from formats.chat_examples import ChatExample
from formats.near_duplicates import Overlap, overlap
from workers.requests.specs import TrainSpec
from xlora_engine.data.chat import ChatTokenizer, EncodedExample, read_examples
from xlora_engine.data.training_sequences import TrainingSequences, training_sequences, weighted
from xlora_engine.sources.base_model import ReadLimits


@dataclass(frozen=True, kw_only=True)
class DrawnSequences:
    """What is trained on, and what it came from."""

    #: Dataset -> its sequences.
    parts: Mapping[str, TrainingSequences]
    #: Dataset -> how often each of its examples is met, for one time of the first's.
    weights: Mapping[str, float]
    #: Dataset -> what it shares with what is held out.
    overlaps: Mapping[str, Overlap]

    @property
    def sequences(self) -> tuple[EncodedExample, ...]:
        """All of them."""
        return weighted((part.sequences, self.weights[name]) for name, part in self.parts.items())

    @property
    def mean_tokens(self) -> float:
        """Tokens of a sequence, on average."""
        return fmean(len(each.token_ids) for each in self.sequences)

    @property
    def facts(self) -> dict[str, int]:
        """Numbers of all datasets together, as a run and an outcome hold them."""
        each = [part.facts for part in self.parts.values()]
        summed = {name: sum(facts[name] for facts in each) for name in each[0] if name != "longest"}
        shared = {"shared_with_held_out": sum(len(one.shared) for one in self.overlaps.values())}
        return {
            **summed,
            "longest": max(facts["longest"] for facts in each),
            **(shared if self.overlaps else {}),
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know of them."""
        facts = self.facts
        cut = f"{facts['cut']:,} of {facts['sequences']:,} sequences were cut off at the limit"
        left = f"{facts['left_out']:,} sequences were left out, for they are longer than the limit"
        return (
            *((cut,) if facts["cut"] else ()),
            *((left,) if facts["left_out"] else ()),
            *(found.said(name) for name, found in self.overlaps.items() if found.shared),
        )


def draw_sequences(
    files: Mapping[str, Path],
    tokenizer: ChatTokenizer,
    spec: TrainSpec,
    *,
    limits: ReadLimits,
    held_out: Path | None = None,
) -> DrawnSequences:
    """Read and encode the datasets of a training; `files` has the file of each, the first one's first.

    Raises:
        ChatInvalid: an example cannot be encoded; its file and line are named.
        AnswerTooLong: one is longer than the limit, and long ones are refused.
    """
    examples = {name: read_examples(path) for name, path in files.items()}
    parts = {
        name: training_sequences(
            tokenizer,
            read,
            max_tokens=min(spec.max_tokens, limits.tokens),
            embeddings=limits.embeddings,
            answers=spec.answers,
            long_examples=spec.long_examples,
        )
        for name, read in examples.items()
    }
    weights = {name: spec.further_data.get(name, 1.0) for name in files}
    return DrawnSequences(parts=parts, weights=weights, overlaps=_overlaps(examples, held_out))


def _overlaps(examples: Mapping[str, list[ChatExample]], held_out: Path | None) -> dict[str, Overlap]:
    if held_out is None:
        return {}
    asked = read_examples(held_out)
    return {name: overlap(read, asked) for name, read in examples.items()}
