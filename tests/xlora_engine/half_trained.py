"""A pico model that has half learnt some short answers, so that exact match has every fate."""

import random

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from formats.chat_examples import ChatExample
from tests.pico import pico_llama
from xlora_engine.data.chat import EncodedExample, collate, encode, training_order

#: What a question is answered with in training: now and then in another way, or by another word.
WRITTEN = {
    "a": ("red", "Red."),
    "b": ("grün", "GRÜN .", "grün"),
    "c": ("no", "not so", "no way"),
    "d": ("two  words", "two words"),
    "e": ("", "x"),
    "f": ("…", "…."),
    "g": ("7", "7 7", "77"),
    "h": ("straße", "STRASSE"),
}
#: What is expected of each, in scoring.
EXPECTED = (
    "red",
    "Red.",
    "RED",
    "grün",
    "no",
    "not so",
    "two words",
    "two  words.",
    "…",
    "7",
    "77",
    "strasse",
    "x",
)


def example(tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> EncodedExample:
    found = encode(
        tokenizer, ChatExample(messages=(("user", question), ("assistant", answer or "?"))), max_tokens=200
    )
    if answer:
        return found
    return EncodedExample(
        token_ids=(*found.token_ids[: found.prompt_length], found.token_ids[-1]),
        prompt_length=found.prompt_length,
    )


def training_examples(tokenizer: PreTrainedTokenizerFast) -> list[EncodedExample]:
    generator = random.Random(0)
    examples = []
    for question, answers in WRITTEN.items():
        for number in range(8):
            answer = answers[generator.randrange(len(answers))]
            examples.append(example(tokenizer, f"{question}{number}", answer))
    return examples


def half_trained(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A pico model that has half learnt the answers above."""
    model = pico_llama()
    examples = training_examples(tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for indices in training_order(examples, batch_size=16, steps=70, seed=0):
        batch = collate([examples[index] for index in indices], pad_id=0)
        loss = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            labels=batch.labels,
        ).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.requires_grad_(False)
