"""Decoding one sequence with several guesses verified at once.

Guesses pass two stages, both in one forward pass. The scaling pass sees them first, which gives their
scalings and the scaling pass's own next token after each. The mixture pass then sees those that are still
plausible, after the newest token, and chooses; meanwhile the scaling pass is on the guesses after them. Each
forward pass yields one token more than were guessed right. After a wrong guess both passes drop what
followed it, and the scaling pass is run for the right token, with new guesses after it. The output does not
depend on the guesses.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from xlora_engine.decoding.coupled_sampling import CoupledSampling
from xlora_engine.decoding.draft_plan import DraftPlanner, Plan
from xlora_engine.decoding.host import DecodingHost
from xlora_engine.decoding.joint_forward import joint_forward
from xlora_engine.decoding.kept_scores import KeptScores
from xlora_engine.decoding.lookup_drafts import MakeDrafts
from xlora_engine.decoding.prefetched import processed, stateless
from xlora_engine.decoding.ragged_cache import MIXTURE, SCALING, RaggedCache, can_be_ragged
from xlora_engine.devices.host_copy import upload
from xlora_engine.mixture.mixture import Mixture

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer


def can_draft(input_ids: Int[Tensor, "batch seq"], inputs: dict[str, Any]) -> bool:
    """Whether a call that can be decoded with one guess per sequence can be with several."""
    return len(input_ids) == 1 and can_be_ragged(inputs.get("cache"))


class DraftedForwards:
    """The two kinds of forward pass, their cache, and the hidden states that scalings are computed from."""

    def __init__(self, mixture: Mixture, cache: RaggedCache, first: Int[Tensor, "1 1"]) -> None:
        """`first` is the position of the first token that is generated."""
        self._mixture = mixture
        self._cache = cache
        self._first = first
        self._prompt = self._known = cache.tokens(MIXTURE)
        #: Hidden states of the newest token, and of the guesses after it.
        self._hidden: Tensor | None = None

    def accept(self) -> None:
        """Count one more known token; the mixture pass is still to run on the newest."""
        self._known += 1

    def scale(self, tokens: Sequence[int]) -> Float[Tensor, "1 seq vocab"]:
        """Scaling pass on the newest token and guesses after it; the logits after each."""
        self._cache.keep(mixture=self._known - 1, scaling=self._known - 1)
        positions = self._positions(self._known - 1, len(tokens))
        mask = self._cache.begin_scaling(len(tokens))
        logits, self._hidden = self._forward(
            [tokens], mask, positions, scalings=self._mixture.scaling_pass_scalings
        )
        return logits

    def step(
        self, tokens: Sequence[int], guesses: Sequence[int]
    ) -> tuple[Float[Tensor, "1 mixture vocab"], Float[Tensor, "1 scaling vocab"]]:
        """Mixture pass on the newest token and guesses already seen, scaling pass on later guesses."""
        if self._hidden is None:
            raise LookupError("no scaling pass was run for the tokens")
        width = max(len(tokens), len(guesses))
        scalings = self._mixture.head(self._hidden[:, : len(tokens)])
        # A zero is exact: the experts add 0 to the scaling pass's sequence.
        constant = self._mixture.config.scaling_pass_value
        both = scalings.new_full((2, width, *scalings.shape[2:]), constant)
        both[MIXTURE, : len(tokens)] = scalings[0]
        start = self._known - 1
        self._cache.keep(mixture=start, scaling=start + len(tokens))
        positions = torch.cat([self._positions(start, width), self._positions(start + len(tokens), width)])
        mask = self._cache.begin_joint(len(tokens), len(guesses))
        filled = [[*sequence, *[sequence[-1]] * (width - len(sequence))] for sequence in (tokens, guesses)]
        logits, hidden = self._forward(filled, mask, positions, scalings=both)
        self._hidden = hidden[SCALING:, : len(guesses)]
        return logits[:SCALING, : len(tokens)], logits[SCALING:, : len(guesses)]

    def close(self) -> None:
        """Write back the tokens that both passes have computed to the original cache."""
        self._cache.keep(mixture=self._known - 1, scaling=self._known - 1)
        self._cache.give_back()

    def _positions(self, token: int, tokens: int) -> Int[Tensor, "1 seq"]:
        start = token - self._prompt
        return self._first + torch.arange(start, start + tokens, device=self._first.device)

    def _forward(
        self,
        sequences: Sequence[Sequence[int]],
        mask: Int[Tensor, "sequence columns"],
        positions: Int[Tensor, "sequence seq"],
        *,
        scalings: Float[Tensor, "sequence seq layer expert"] | None,
    ) -> tuple[Float[Tensor, "sequence seq vocab"], Float[Tensor, "sequence seq hidden"]]:
        ids = upload(sequences, positions.device)
        return joint_forward(
            self._mixture, ids, mask=mask, positions=positions, cache=self._cache, scalings=scalings
        )


class _Choosing:
    """Chooses tokens as plain decoding does: in order, with one call of each stateful processor per token."""

    def __init__(
        self,
        input_ids: Int[Tensor, "1 seq"],
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        config: GenerationConfig,
        streamer: "BaseStreamer | None",
    ) -> None:
        self.input_ids = input_ids
        self.kept = KeptScores(config)
        self.choose = CoupledSampling(samples=bool(config.do_sample))
        self.newest = -1
        self.ended = False
        self._processors, self._of_guesses = processors, stateless(processors)
        self._criteria, self._streamer = criteria, streamer

    def next(self, logits: Float[Tensor, "1 vocab"]) -> int:
        """Choose the next token, `newest` from now on; `ended` says whether it is the last."""
        raw = logits.to(torch.float32, copy=True)
        scores = processed(self._processors, self.input_ids, raw)
        self.kept.add(scores, raw)
        chosen = self.choose(scores)
        self.choose.next_step()
        self.input_ids = torch.cat([self.input_ids, chosen[:, None]], 1)
        ends = self._criteria(self.input_ids, self.kept.scores)
        token, ended = torch.stack([chosen[0], ends[0]]).tolist()
        if self._streamer is not None:
            self._streamer.put(torch.tensor([token]))
        self.newest, self.ended = int(token), bool(ended)
        return self.newest

    def guesses(self, seen: Sequence[int], logits: Float[Tensor, "1 seq vocab"]) -> Int[Tensor, " seq"]:
        """The tokens that would be chosen from the logits, the last of which follow all of `seen`."""
        more = upload([seen], logits.device, dtype=self.input_ids.dtype)
        ids = torch.cat([self.input_ids, more], 1)
        known, first = self.input_ids.shape[1], len(seen) + 1 - logits.shape[1]
        found = []
        for ahead in range(first, len(seen) + 1):
            raw = logits[:, ahead - first].to(torch.float32, copy=True)
            scores = processed(self._of_guesses, ids[:, : known + ahead], raw)
            found.append(self.choose(scores, ahead=ahead))
        return torch.cat(found)


@torch.no_grad()
def drafted_sample(
    decoder: DecodingHost,
    input_ids: Int[Tensor, "1 seq"],
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    streamer: "BaseStreamer | None",
    inputs: dict[str, Any],
    make_drafts: MakeDrafts,
) -> GenerateDecoderOnlyOutput | Tensor:
    """The result of `GenerationMixin._sample` for one sequence, in fewer forward passes."""
    mask: Tensor | None = inputs.get("attention_mask")
    prompt = input_ids[0] if mask is None else input_ids[0][mask[0, : input_ids.shape[1]] != 0]
    planner = DraftPlanner(make_drafts(prompt.tolist()))
    choosing = _Choosing(input_ids, logits_processor, stopping_criteria, generation_config, streamer)
    out = decoder._prefill(cast("torch.LongTensor", input_ids), generation_config, inputs)
    cache = RaggedCache(inputs["cache"], mask, input_ids.device)
    forwards = DraftedForwards(decoder.mixture, cache, inputs["position_ids"][:, -1:] + 1)
    with decoder._optimize_model_for_decode():
        _run(choosing, planner, forwards, out.logits[:, -1:], generation_config.max_length)
    if streamer is not None:
        streamer.end()
    choosing.choose.close()
    forwards.close()
    if not generation_config.return_dict_in_generate:
        return choosing.input_ids
    kept = choosing.kept
    everything: dict[str, Any] = {"scores": kept.scores, "logits": kept.logits, "cache": inputs["cache"]}
    return GenerateDecoderOnlyOutput(sequences=cast("torch.LongTensor", choosing.input_ids), **everything)


def _run(
    choosing: _Choosing,
    planner: DraftPlanner,
    forwards: DraftedForwards,
    logits: Float[Tensor, "1 seq vocab"],
    max_length: int,
) -> None:
    """Choose tokens, the first from these logits, until the last."""
    plan, guesses = Plan(ready=(), next=()), logits.new_empty(0, dtype=torch.long)
    while True:
        right = _verified(choosing, planner, forwards, logits, (*plan.ready, *plan.next[:1]))
        if choosing.ended:
            return
        newest, room = choosing.newest, max(max_length - choosing.input_ids.shape[1], 1)
        if right:
            seen = plan.next[1:]
        else:
            planner.miss()
            seen = planner.drafts(room=room)
            guesses = choosing.guesses(seen, forwards.scale([newest, *seen]))
        plan = planner.plan(seen, guesses.tolist(), room=room)
        logits, guess_logits = forwards.step([newest, *plan.ready], plan.next)
        # Copied before the first token is waited for, so that it needs no wait of its own.
        guesses = choosing.guesses([*plan.ready, *plan.next], guess_logits).to("cpu", non_blocking=True)


def _verified(
    choosing: _Choosing,
    planner: DraftPlanner,
    forwards: DraftedForwards,
    logits: Float[Tensor, "1 seq vocab"],
    guessed: Sequence[int],
) -> bool:
    """Choose from the logits until one token differs from its guess; whether none did."""
    for column in range(logits.shape[1]):
        token = choosing.next(logits[:, column])
        planner.learn(token)
        forwards.accept()
        if choosing.ended or tuple(guessed[column : column + 1]) != (token,):
            return False
    return True
