"""How a head routes: the figures of each task, and some sample answers token by token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlora_engine.data.chat import ChatTokenizer, EncodedExample
from xlora_engine.measuring.joint_scores import ScalingsListener
from xlora_engine.measuring.routing import Routing, RoutingRecorder

#: Sample answers of each task that are shown token by token.
SAMPLES_SHOWN = 2
#: The last tokens of a longer sample.
MOST_TOKENS = 96
#: Wrapped layers are shown in this many groups of neighbours.
DEPTHS = 10


@dataclass(frozen=True, kw_only=True)
class TokenMap:
    """One answer's tokens, and what share of the gates each expert has at them."""

    task: str
    tokens: tuple[str, ...]
    #: Index of the answer's first token.
    answer_from: int
    experts: tuple[str, ...]
    #: For each token a value for each expert, averaged over layers.
    shares: tuple[tuple[float, ...], ...]
    #: For each token, for each group of layers from the first to the last, a value for each expert.
    by_depth: tuple[tuple[tuple[float, ...], ...], ...]


class RoutingRecord:
    """Listens to the scoring of each task."""

    def __init__(
        self,
        experts: tuple[str, ...],
        tokenizer: ChatTokenizer,
        examples: Mapping[str, Sequence[EncodedExample]],
    ) -> None:
        self._examples = examples
        self._experts = experts
        self._tokenizer = tokenizer
        self._recorders: dict[str, RoutingRecorder] = {}
        self._samples: dict[tuple[str, int], TokenMap] = {}

    def listener(self, task: str) -> ScalingsListener:
        """What receives the scalings of one task."""
        recorder = self._recorders.setdefault(task, RoutingRecorder(self._experts))

        def listen(
            indices: Sequence[int],
            scalings: Float[Tensor, "batch seq layer expert"],
            mask: Int[Tensor, "batch seq"],
        ) -> None:
            recorder.add(scalings, mask)
            for sequence, index in enumerate(indices):
                if index < SAMPLES_SHOWN:
                    shown = scalings[sequence][mask[sequence].bool()].float().cpu()
                    self._samples[task, index] = self._map(task, self._examples[task][index], shown)

        return listen

    @property
    def routing(self) -> dict[str, Routing]:
        """The figures by task."""
        return {task: recorder.result() for task, recorder in self._recorders.items()}

    @property
    def samples(self) -> list[TokenMap]:
        """The samples of each task, in order."""
        tasks = list(self._recorders)
        in_order = sorted(self._samples, key=lambda key: (tasks.index(key[0]), key[1]))
        return [self._samples[key] for key in in_order]

    def _map(
        self, task: str, example: EncodedExample, scalings: Float[Tensor, "seq layer expert"]
    ) -> TokenMap:
        left_out = max(0, len(scalings) - MOST_TOKENS)
        shown = scalings[left_out:]
        groups = shown.tensor_split(min(DEPTHS, shown.shape[1]), dim=1)
        by_depth = torch.stack([group.mean(1) for group in groups], 1)
        ids = example.token_ids[left_out : left_out + len(shown)]
        return TokenMap(
            task=task,
            tokens=tuple(self._tokenizer.decode([token]) for token in ids),
            answer_from=max(0, example.prompt_length - left_out),
            experts=self._experts,
            shares=tuple(tuple(_rounded(each)) for each in shown.mean(1)),
            by_depth=tuple(tuple(tuple(_rounded(depth)) for depth in token) for token in by_depth),
        )


def _rounded(values: Float[Tensor, " expert"]) -> list[float]:
    return [round(value, 3) for value in values.tolist()]
