"""The tokens at which an answer ends, for one base model and its tokenizer: decided here alone."""

from collections.abc import Iterable, Mapping

from transformers import PreTrainedModel

from formats.chat_examples import ChatExample
from xlora_engine.data.chat import ChatTokenizer, encode, pad_token
from xlora_engine.errors import ChatInvalid
from xlora_engine.sources.own_generation_config import stops_of

#: Conversations whose answer every chat template can end; some templates want a system message.
_SHORTEST = (
    (("user", "a"), ("assistant", "a")),
    (("system", "a"), ("user", "a"), ("assistant", "a")),
)
_NO_LIMIT = 2**31


def turn_end(tokenizer: ChatTokenizer) -> int | None:
    """The special token that ends the answer's turn in training; None if the template ends it with none."""
    for messages in _SHORTEST:
        try:
            example = ChatExample(messages=messages, line=1)
            return encode(tokenizer, example, max_tokens=_NO_LIMIT).answer_ids[-1]
        except ChatInvalid:
            continue
    return None


def stop_tokens(tokenizer: ChatTokenizer, stated: Iterable[int]) -> tuple[int, ...]:
    """Ids of all tokens that end an answer: of the turn, of the text, and those that are stated."""
    found = {tokenizer.eos_token_id, turn_end(tokenizer), *stated}
    return tuple(sorted(token for token in found if token is not None))


def stop_where_answers_end(model: PreTrainedModel, tokenizer: ChatTokenizer) -> None:
    """Let a loaded base model, and every mixture on it, stop at all tokens that end an answer."""
    config = model.generation_config
    config.eos_token_id = list(stop_tokens(tokenizer, stops_of(config)))
    config.pad_token_id = pad_token(tokenizer)


def named_tokens(tokenizer: ChatTokenizer, ids: Iterable[int]) -> Mapping[str, int]:
    """Text -> id of tokens, as a record holds them."""
    return {tokenizer.decode([token]): token for token in ids}
