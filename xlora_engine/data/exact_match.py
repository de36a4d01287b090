"""Exact match: whether greedy decoding gives an answer, decided token by token, as early as it can be."""

from collections.abc import Collection, Sequence

from xlora_engine.data.chat import ChatTokenizer, EncodedExample, pad_token

#: How many tokens more than the expected answer a differently written one may have.
EXTRA_TOKENS = 8


def decide(
    tokenizer: ChatTokenizer,
    example: EncodedExample,
    predicted: Sequence[int],
    *,
    stops: Collection[int] = (),
) -> bool | None:
    """Whether greedy decoding gives the answer, from the likeliest token at each of its positions.

    None if teacher forcing cannot decide: the first other token may begin another way to write the
    same answer.
    """
    return decide_beginning(tokenizer, example, greedy_beginning(example, predicted), stops=stops)


def decide_beginning(
    tokenizer: ChatTokenizer,
    example: EncodedExample,
    beginning: Sequence[int],
    *,
    stops: Collection[int] = (),
) -> bool | None:
    """Whether an answer that begins so is the expected one; None while it may still become it."""
    if tuple(beginning) == example.answer_ids:
        return True
    if beginning[-1] in _stops(tokenizer, example, stops):
        return is_answer(tokenizer, example, beginning, stops)
    if len(beginning) >= token_limit(example):
        return False
    expected = normalise(_text(tokenizer, example.answer_ids))
    text = " ".join(_text(tokenizer, beginning).casefold().split())
    # A lone byte of a longer character decodes to the replacement sign: it can still become anything.
    possible = "\ufffd" in text or f"{expected}.".startswith(text) or f"{expected} .".startswith(text)
    return None if possible else False


def normalise(text: str) -> str:
    """Text as exact match compares it: one case, single spaces, no final full stop."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def greedy_beginning(example: EncodedExample, predicted: Sequence[int]) -> tuple[int, ...]:
    """The beginning of greedy decoding: the answer up to and including the first token that differs."""
    answer = example.answer_ids
    differing = next((i for i, (a, p) in enumerate(zip(answer, predicted, strict=True)) if a != p), None)
    return answer if differing is None else (*answer[:differing], predicted[differing])


def token_limit(example: EncodedExample) -> int:
    """The most tokens that an answer may have, its end included."""
    return len(example.answer_ids) + EXTRA_TOKENS


def is_answer(
    tokenizer: ChatTokenizer, example: EncodedExample, generated: Sequence[int], stops: Collection[int]
) -> bool:
    """Whether the generated tokens end, and equal the answer as text."""
    ends = _stops(tokenizer, example, stops)
    end = next((i for i, token in enumerate(generated) if token in ends), None)
    if end is None:
        return False
    return normalise(_text(tokenizer, generated[:end])) == normalise(_text(tokenizer, example.answer_ids))


def _stops(tokenizer: ChatTokenizer, example: EncodedExample, stops: Collection[int]) -> Collection[int]:
    """Tokens that end an answer; padding follows an answer that ended with another end token."""
    return {tokenizer.eos_token_id, pad_token(tokenizer), example.answer_ids[-1], *stops}


def _text(tokenizer: ChatTokenizer, token_ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text
