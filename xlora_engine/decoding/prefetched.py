"""Decoding with a prefetched scaling pass: one forward pass a token if the scaling pass guesses well.

The scaling pass is a language model too (the base model, or with experts active in it a constant mixture), so
it predicts a next token. One batched forward pass carries the mixture on token t and the scaling pass on its
guess of token t+1. If the mixture then chooses that token, its scalings are ready; if not, the scaling pass
is run for the right one. The output does not depend on the guesses: it is branch prediction.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import logits_process
from transformers.generation.utils import GenerateDecoderOnlyOutput

from xlora_engine.decoding.coupled_sampling import CoupledSampling
from xlora_engine.decoding.host import DecodingHost
from xlora_engine.decoding.joint_cache import LEAST_GROWTH, JointCache, can_be_joined
from xlora_engine.decoding.joint_forward import joint_forward
from xlora_engine.decoding.kept_scores import KeptScores
from xlora_engine.mixture.mixture import Mixture

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

#: Model inputs that the joint forward pass supports; calls with others are left to the plain loop.
_CARRIED = {
    "attention_mask", "position_ids", "inputs_embeds", "cache", "use_cache", "logits_to_keep",
}  # fmt: skip

#: Rotary embeddings whose frequencies depend on the longest sequence of a batch.
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}

#: On a CPU each sequence costs time, and in a large batch all guesses are rarely right at once. Measured: a
#: batch of eight takes 80 % to 95 % of the time of two plain passes; larger ones were not measured.
CPU_BATCH_LIMIT = 8

#: Logits processors without a state, which may also be applied to the logits of a guess.
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
    """Whether this call can be decoded so; each condition names what the joint forward pass cannot carry."""
    base = mixture.base.config.get_text_config(decoder=True)
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    return (
        bool(config.use_cache)
        and can_be_joined(inputs.get("cache"))
        and not mixture._forward_hooks  # a hook expects to be called for every token
        and not config.is_assistant
        and not config.output_attentions
        and not config.output_hidden_states
        and {name for name, value in inputs.items() if value is not None} <= _CARRIED
        and (mask is None or mask.dim() == 2)
        and positions is not None
        and positions.dim() == 2
        and (positions.device.type != "cpu" or len(positions) <= CPU_BATCH_LIMIT)
        and _positions_needed(config, inputs) <= _positions_had(base)
        and not _rope_types(base) & _LENGTH_DEPENDENT_ROPE
        and not getattr(base, "num_kv_shared_layers", 0)
    )


def _rope_types(config: Any) -> set[str]:
    """Types of rotary embeddings, of the whole model or of each kind of its layers."""
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in parameters.values() if isinstance(kind, Mapping)] or [parameters]
    return {str(kind.get("rope_type", "default")) for kind in kinds}


def _positions_needed(config: GenerationConfig, inputs: dict[str, Any]) -> int:
    """The most positions needed; the last token gets a guess too, at a position plain decoding never uses."""
    embeddings = inputs.get("inputs_embeds")
    return int(config.max_length) + (0 if embeddings is None else int(embeddings.shape[1]))


def _positions_had(base: Any) -> float:
    """Positions that the model has: some keep a table, and plain decoding may end one token past it."""
    return float(getattr(base, "max_position_embeddings", None) or math.inf)


class PrefetchedDecoding:
    """State of one call: the joint cache, its mask and positions, and the hidden states of the next token."""

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
        #: Position of the mixture's next token.
        self._position = positions[:, -1:] + 1
        self._hidden: Tensor | None = None
        self._scaling_pass_value = mixture.config.scaling_pass_value

    def correct(
        self,
        tokens: Int[Tensor, " batch"],
        wrong: Bool[Tensor, " batch"],
        logits: Float[Tensor, "batch vocab"],
    ) -> Float[Tensor, "batch vocab"]:
        """Scaling pass on the right tokens of sequences guessed wrong; `logits` with theirs replaced."""
        ids, position = tokens[:, None], self._position
        # Selecting sequences waits for a GPU, where a whole batch costs little more than some of it.
        some = wrong.nonzero()[:, 0] if tokens.device.type == "cpu" else None
        if self._hidden is None or some is None or len(some) == self._batch:
            sequences = slice(self._batch, None)
            self._joint.begin_again(sequences)
            logits, self._hidden = self._forward(
                ids, self._current_mask()[sequences], position, scalings=self._mixture.scaling_pass_scalings
            )
            return logits
        self._joint.begin_again(some + self._batch)
        found, hidden = self._forward(
            ids[some],
            self._current_mask()[some + self._batch],
            position[some],
            scalings=self._mixture.scaling_pass_scalings,
        )
        self._hidden = self._hidden.index_copy(0, some, hidden)
        return logits.index_copy(0, some, found)

    def step(
        self, tokens: Int[Tensor, " batch"], guess: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch vocab"], Float[Tensor, "batch vocab"]]:
        """Mixture pass on the tokens and scaling pass on the guesses of the next ones; the logits of both."""
        if self._hidden is None:
            raise LookupError("no scaling pass was run for the tokens")
        scalings = self._mixture.head(self._hidden)
        self._joint.begin_append()
        logits, hidden = self._forward(
            torch.cat([tokens, guess])[:, None],
            self._current_mask(),
            torch.cat([self._position, self._position + 1]),
            # A zero is exact: the experts add 0 to the scaling pass's sequences.
            scalings=torch.cat([scalings, torch.full_like(scalings, self._scaling_pass_value)]),
        )
        self._position = self._position + 1
        self._hidden = hidden[self._batch :]
        return logits[: self._batch], logits[self._batch :]

    def _current_mask(self) -> Int[Tensor, "sequence columns"]:
        """The mask of the columns in use; its buffer grows geometrically, and new columns are visible."""
        columns = self._mask.shape[1]
        if columns < self._joint.length:
            self._mask = F.pad(self._mask, (0, max(LEAST_GROWTH, columns // 2)), value=1)
        return self._mask[:, : self._joint.length]

    def _forward(
        self,
        ids: Int[Tensor, "sequence 1"],
        mask: Int[Tensor, "sequence seq"],
        position: Int[Tensor, "sequence 1"],
        *,
        scalings: Float[Tensor, "sequence 1 layer expert"] | None,
    ) -> tuple[Float[Tensor, "sequence vocab"], Float[Tensor, "sequence 1 hidden"]]:
        logits, hidden = joint_forward(
            self._mixture, ids, mask=mask, positions=position, cache=self._joint, scalings=scalings
        )
        return logits[:, -1], hidden


def _joint_mask(
    mask: Int[Tensor, "batch seq"] | None, batch: int, columns: int, device: torch.device
) -> Int[Tensor, "sequences columns"]:
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
    """The result of `GenerationMixin._sample`, greedy or sampling, in about half its forward passes."""
    config = generation_config
    of_guess = stateless(logits_processor)
    choose = CoupledSampling(samples=bool(config.do_sample))
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
                guess_logits = state.correct(tokens, wrong, guess_logits)
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
    """The logits after all logits processors."""
    return processors(cast("torch.LongTensor", input_ids), cast("torch.FloatTensor", logits))


def stateless(processors: LogitsProcessorList) -> LogitsProcessorList:
    """The processors that may also be applied to the logits of a guess."""
    return LogitsProcessorList([p for p in processors if type(p) in _STATELESS])


def _padded(
    tokens: Int[Tensor, " batch"], unfinished: Int[Tensor, " batch"], pad: Int[Tensor, ""] | None
) -> Int[Tensor, " batch"]:
    """Finished sequences continue with padding, and so do their guesses, which are therefore right."""
    return tokens if pad is None else tokens * unfinished + pad.to(tokens.device) * (1 - unfinished)
