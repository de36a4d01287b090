"""Greedy answers as texts, many questions at once, with the key-value cache."""

from collections.abc import Collection, Sequence

import torch

from xlora_engine.data.answer_scores import GenerateCall
from xlora_engine.data.chat import ChatTokenizer, EncodedExample, collate, length_grouped, pad_token


def generated_texts(
    generate_call: GenerateCall,
    tokenizer: ChatTokenizer,
    examples: Sequence[EncodedExample],
    *,
    max_new_tokens: int,
    tokens_per_batch: int,
    device: torch.device,
    stops: Collection[int] = (),
) -> tuple[str, ...]:
    """The answer to every example's question, without the token that ends it and spaces around it.

    `tokens_per_batch` counts what may come of a batch, questions and answers; `stops` are further tokens that
    end an answer.
    """
    ends = {tokenizer.eos_token_id, *stops}
    pad_id = pad_token(tokenizer)
    prompts = [
        EncodedExample(
            token_ids=example.token_ids[: example.prompt_length], prompt_length=example.prompt_length - 1
        )
        for example in examples
    ]
    texts: dict[int, str] = {}
    for indices in _batches(prompts, max_new_tokens, tokens_per_batch):
        batch = collate([prompts[index] for index in indices], pad_id=pad_id).to(device)
        with torch.no_grad():
            out = generate_call(batch.input_ids, batch.attention_mask, max_new_tokens)
        for index, new in zip(indices, out[:, batch.input_ids.shape[1] :].tolist(), strict=True):
            length = next((at for at, token in enumerate(new) if token in ends), len(new))
            text: str = tokenizer.decode(new[:length], skip_special_tokens=True)
            texts[index] = text.strip()
    return tuple(texts[index] for index in range(len(examples)))


def _batches(
    prompts: Sequence[EncodedExample], max_new_tokens: int, tokens_per_batch: int
) -> list[list[int]]:
    """Indices by length, in batches that hold at most this many tokens once they are answered."""
    longest = max(len(prompt.token_ids) for prompt in prompts)
    share = longest / (longest + max_new_tokens)
    return list(length_grouped(prompts, tokens_per_batch=max(1, int(tokens_per_batch * share))))
