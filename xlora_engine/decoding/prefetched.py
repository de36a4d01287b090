"""Decoding with a prefetched scaling pass: one forward a token, where the scaling pass guesses well.

The scaling pass is a language model too (the base model, or with audible experts a constant mixture), so
it also says what it would write next. One batched forward carries the mixture on token t and the scaling
pass on its guess of token t+1. If the mixture then chooses that token, its scalings are ready; if not, the
scaling pass is run for the right one. The output does not depend on the guesses: it is branch prediction.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import logits_process
from transformers.generation.utils import GenerateDecoderOnlyOutput

from xlora_engine.decoding.coupled_sampling import CoupledChoice
from xlora_engine.decoding.host import DecodingHost
from xlora_engine.decoding.joint_cache import JointCache, can_be_joined
from xlora_engine.decoding.joint_forward import joint_forward
from xlora_engine.decoding.kept_scores import KeptScores
from xlora_engine.mixture.mixture import Mixture

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

#: Model inputs that the joint forward knows how to carry on; any other is left to the plain loop.
_CARRIED = {
    "attention_mask", "position_ids", "inputs_embeds", "cache", "use_cache", "logits_to_keep",
}  # fmt: skip

#: Rotary embeddings whose frequencies depend on the longest row of a batch.
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}

#: On a CPU each row costs, and the more rows, the seldomer all are guessed right. Measured: eight rows take
#: four fifths to nineteen twentieths of the time of two plain passes; more were not measured.
MOST_ROWS_ON_CPU = 8

#: Logits processors without a state: they may also be asked what they would do to a guess.
_STATELESS: tuple[type[logits_process.LogitsProcessor], ...] = (
    logits_process.TemperatureLogitsWarper,
    logits_process.TopKLogitsWarper,
    logits_process.TopPLogitsWarper,
    logits_process.MinPLogitsWarper,
    logits_process.TypicalLogitsWarper,
    logits_process.EpsilonLogitsWarper,
    logits_process.EtaLogitsWarper,
    logits_process.RepetitionPenaltyLogitsProcessor,
    logits_process.NoRepeatNGramLogitsProcessor,
    logits_process.NoBadWordsLogitsProcessor,
    logits_process.SuppressTokensLogitsProcessor,
    logits_process.MinLengthLogitsProcessor,
    logits_process.MinNewTokensLengthLogitsProcessor,
    logits_process.ForcedEOSTokenLogitsProcessor,
)


def can_prefetch(mixture: Mixture, config: GenerationConfig, inputs: dict[str, Any]) -> bool:
    """Whether this call can be decoded so; each condition names what the joint forward cannot carry."""
    base = mixture.base.config.get_text_config(decoder=True)
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    return (
        bool(config.use_cache)
        and can_be_joined(inputs.get("cache"))
        and not mixture._forward_hooks  # who listens to every call must hear every token
        and not config.is_assistant
        and not config.output_attentions
        and not config.output_hidden_states
        and {name for name, value in inputs.items() if value is not None} <= _CARRIED
        and (mask is None or mask.dim() == 2)
        and positions is not None
        and positions.dim() == 2
        and (positions.device.type != "cpu" or len(positions) <= MOST_ROWS_ON_CPU)
        and _positions_needed(config, inputs) <= _positions_had(base)
        and not _rope_types(base) & _LENGTH_DEPENDENT_ROPE
        and not getattr(base, "num_kv_shared_layers", 0)
    )


def _rope_types(config: Any) -> set[str]:
    """Of the whole model, or of each kind of its layers."""
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in parameters.values() if isinstance(kind, Mapping)] or [parameters]
    return {str(kind.get("rope_type", "default")) for kind in kinds}


def _positions_needed(config: GenerationConfig, inputs: dict[str, Any]) -> int:
    """At most; the last token is guessed at its place, where plain decoding never looks."""
    embeddings = inputs.get("inputs_embeds")
    return int(config.max_length) + (0 if embeddings is None else int(embeddings.shape[1]))


def _positions_had(base: Any) -> float:
    """Some models keep a table of positions, and plain decoding may end one token beyond it."""
    return float(getattr(base, "max_position_embeddings", None) or math.inf)


class PrefetchedDecoding:
    """One call's decoding state: the joint cache, its mask and positions, what is known of the next token."""

    def __init__(
        self,
        mixture: Mixture,
        joint: JointCache,
        mask: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"],
    ) -> None:
        self._mixture = mixture
        self._joint = joint
        batch = positions.shape[0]
        self._batch = batch
        self._mask = _joint_mask(mask, batch, joint.length, positions.device)
        #: Of the token that the mixture sees next.
        self._position = positions[:, -1:] + 1
        self._hidden: Tensor | None = None
        self._scaling_pass_value = mixture.config.scaling_pass_value

    def look_again(
        self,
        tokens: Int[Tensor, " batch"],
        wrong: Bool[Tensor, " batch"],
        logits: Float[Tensor, "batch vocab"],
    ) -> Float[Tensor, "batch vocab"]:
        """Scaling pass on the right tokens of the rows guessed wrong; `logits` with theirs replaced."""
        ids, position = tokens[:, None], self._position
        # Picking rows waits for a GPU, where a whole batch costs little more than its wrong rows.
        some = wrong.nonzero()[:, 0] if tokens.device.type == "cpu" else None
        if self._hidden is None or some is None or len(some) == self._batch:
            rows = slice(self._batch, None)
            self._joint.begin_again(rows)
            logits, self._hidden = self._forward(
                ids, self._mask[rows], position, scalings=self._mixture.scaling_pass_scalings
            )
            return logits
        self._joint.begin_again(some + self._batch)
        found, hidden = self._forward(
            ids[some],
            self._mask[some + self._batch],
            position[some],
            scalings=self._mixture.scaling_pass_scalings,
        )
        self._hidden = self._hidden.index_copy(0, some, hidden)
        return logits.index_copy(0, some, found)

    def step(
        self, tokens: Int[Tensor, " batch"], guess: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch vocab"], Float[Tensor, "batch vocab"]]:
        """Mixture pass on the tokens and scaling pass on the guess of the next ones; the logits of both."""
        if self._hidden is None:
            raise LookupError("no scaling pass was run for the tokens")
        scalings = self._mixture.head(self._hidden)
        self._mask = torch.cat([self._mask, self._mask.new_ones(2 * self._batch, 1)], 1)
        self._joint.begin_append()
        logits, hidden = self._forward(
            torch.cat([tokens, guess])[:, None],
            self._mask,
            torch.cat([self._position, self._position + 1]),
            # A zero is exact: what the experts add to the scaling pass's rows is 0.
            scalings=torch.cat([scalings, torch.full_like(scalings, self._scaling_pass_value)]),
        )
        self._position = self._position + 1
        self._hidden = hidden[self._batch :]
        return logits[: self._batch], logits[self._batch :]

    def _forward(
        self,
        ids: Int[Tensor, "row 1"],
        mask: Int[Tensor, "row seq"],
        position: Int[Tensor, "row 1"],
        *,
        scalings: Float[Tensor, "row 1 layer expert"] | None,
    ) -> tuple[Float[Tensor, "row vocab"], Float[Tensor, "row 1 hidden"]]:
        logits, hidden = joint_forward(
            self._mixture, ids, mask=mask, positions=position, cache=self._joint, scalings=scalings
        )
        return logits[:, -1], hidden


def _joint_mask(
    mask: Int[Tensor, "batch seq"] | None, batch: int, columns: int, device: torch.device
) -> Int[Tensor, "rows columns"]:
    joint = torch.ones(2 * batch, columns, dtype=torch.long, device=device)
    joint[:batch, 0] = 0
    if mask is not None:
        joint[:batch, 1 : 1 + mask.shape[1]] = mask
        joint[batch:, : mask.shape[1]] = mask
    return joint


@torch.no_grad()
def prefetched_sample(
    decoder: DecodingHost,
    input_ids: Int[Tensor, "batch seq"],
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    streamer: "BaseStreamer | None",
    inputs: dict[str, Any],
) -> GenerateDecoderOnlyOutput | Tensor:
    """What `GenerationMixin._sample` gives, greedy or sampling, in about half its forwards."""
    config = generation_config
    of_guess = stateless(logits_processor)
    choose = CoupledChoice(samples=bool(config.do_sample))
    ends = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    pad = config._pad_token_tensor if ends else None
    unfinished = torch.ones(len(input_ids), dtype=torch.long, device=input_ids.device)
    kept = KeptScores(config)

    logits = decoder._prefill(cast("torch.LongTensor", input_ids), config, inputs).logits[:, -1]
    joint = JointCache(inputs["cache"], most_steps=max(config.max_length - input_ids.shape[1], 0))
    state = PrefetchedDecoding(decoder.mixture, joint, inputs.get("attention_mask"), inputs["position_ids"])
    guess, guess_logits = torch.full_like(unfinished, -1), logits
    with decoder._optimize_model_for_decode():
        while True:
            raw = logits.to(torch.float32, copy=True)
            scores = processed(logits_processor, input_ids, raw)
            kept.add(scores, raw)
            tokens = _padded(choose(scores), unfinished, pad)
            choose.next_step()
            input_ids = torch.cat([input_ids, tokens[:, None]], 1)
            unfinished = unfinished & ~stopping_criteria(input_ids, kept.scores)
            if streamer is not None:
                streamer.put(tokens.cpu())
            wrong = guess != tokens
            going, missed = torch.stack([unfinished.any(), wrong.any()]).tolist()
            if not going:
                break
            if missed:
                guess_logits = state.look_again(tokens, wrong, guess_logits)
            guess_scores = processed(of_guess, input_ids, guess_logits.to(torch.float32, copy=True))
            guess = _padded(choose(guess_scores), unfinished, pad)
            logits, guess_logits = state.step(tokens, guess)
    if streamer is not None:
        streamer.end()
    joint.give_back()
    if not config.return_dict_in_generate:
        return input_ids
    everything: dict[str, Any] = {"scores": kept.scores, "logits": kept.logits, "cache": inputs["cache"]}
    return GenerateDecoderOnlyOutput(sequences=cast("torch.LongTensor", input_ids), **everything)


def processed(
    processors: LogitsProcessorList, input_ids: Int[Tensor, "batch seq"], logits: Float[Tensor, "batch vocab"]
) -> Float[Tensor, "batch vocab"]:
    """What logits processors make of the logits."""
    return processors(cast("torch.LongTensor", input_ids), cast("torch.FloatTensor", logits))


def stateless(processors: LogitsProcessorList) -> LogitsProcessorList:
    """Those that may also be asked about a guess."""
    return LogitsProcessorList([p for p in processors if type(p) in _STATELESS])


def _padded(
    tokens: Int[Tensor, " batch"], unfinished: Int[Tensor, " batch"], pad: Int[Tensor, ""] | None
) -> Int[Tensor, " batch"]:
    """Rows that have ended go on with padding, as do the guesses of them, which so are right."""
    return tokens if pad is None else tokens * unfinished + pad.to(tokens.device) * (1 - unfinished)
