"""Every answer is learnt after what generation would meet before it, and nothing is cut off unsaid."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from formats.chat_examples import ChatExample
from formats.chat_messages import MessageFields, canonical_json
from tests.pico import CHATML, pico_llama, pico_tokenizer
from xlora_engine.data.chat import IGNORED, EncodedExample, collate, encode, encode_question
from xlora_engine.data.training_sequences import cut_to, learnt_tokens, training_sequences, weighted
from xlora_engine.errors import AnswerTooLong, ChatInvalid

TURNS = (("user", "a?"), ("assistant", "one"), ("user", "b?"), ("assistant", "two"))
#: Drops the answers of earlier turns, as templates of reasoning models drop their thoughts.
FORGETFUL = CHATML.replace(
    "message['content'] +", "(message['content'] if loop.last or message['role'] == 'user' else '-') +"
)


def tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    made = pico_tokenizer()
    made.chat_template = template
    return made


def learnt(sequence: EncodedExample) -> list[int]:
    """Token ids that the loss is over, as a batch labels them."""
    labels = collate([sequence], pad_id=0).labels[0].tolist()
    return [label for label in labels if label != IGNORED]


def test_every_answer_is_learnt_with_the_end_of_its_turn_and_no_question() -> None:
    one = tokenizer()
    (sequence,) = training_sequences(one, [ChatExample(messages=TURNS)], max_tokens=512).sequences
    assert one.decode(learnt(sequence)) == "one<|im_end|>two<|im_end|>"
    assert sequence.token_ids == encode(one, ChatExample(messages=TURNS), max_tokens=512).token_ids
    assert learnt_tokens(sequence) == len(learnt(sequence))


def test_the_last_answer_alone_is_learnt_on_request() -> None:
    one = tokenizer()
    (sequence,) = training_sequences(
        one, [ChatExample(messages=TURNS)], max_tokens=512, answers="last"
    ).sequences
    assert sequence == encode(one, ChatExample(messages=TURNS), max_tokens=512)


def test_a_conversation_of_one_answer_is_the_same_either_way() -> None:
    example = ChatExample(messages=TURNS[:2], domain="bio")
    every = training_sequences(tokenizer(), [example], max_tokens=512)
    assert every.sequences == (encode(tokenizer(), example, max_tokens=512),)


def test_a_template_that_rewrites_earlier_turns_gives_a_sequence_for_each_answer() -> None:
    one = tokenizer(FORGETFUL)
    found = training_sequences(one, [ChatExample(messages=TURNS)], max_tokens=512)
    assert (found.examples, len(found.sequences)) == (1, 2)
    for sequence, count in zip(found.sequences, (1, 3), strict=True):
        # What is learnt follows what generation meets.
        assert sequence.token_ids[: sequence.prompt_length] == encode_question(one, TURNS[:count])
    assert [one.decode(learnt(sequence)) for sequence in found.sequences] == [
        "one<|im_end|>",
        "two<|im_end|>",
    ]


def test_the_loss_over_every_answer_is_that_of_the_answers_one_by_one() -> None:
    one, model = tokenizer(), pico_llama()
    example = ChatExample(messages=TURNS)
    (together,) = training_sequences(one, [example], max_tokens=512).sequences
    apart = [encode(one, ChatExample(messages=TURNS[:count]), max_tokens=512) for count in (2, 4)]

    def summed_loss(sequence: EncodedExample) -> float:
        batch = collate([sequence], pad_id=0)
        with torch.no_grad():
            loss = model(
                input_ids=batch.input_ids, labels=batch.labels[:, -batch.keep :], logits_to_keep=batch.keep
            ).loss
        return float(loss) * learnt_tokens(sequence)

    assert summed_loss(together) == pytest.approx(sum(map(summed_loss, apart)), rel=1e-5)


def test_calls_of_tools_reach_the_template_and_are_learnt() -> None:
    template = (
        "{% if tools %}<|im_start|>tools {{ tools[0].name }}<|im_end|>{% endif %}"
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "{% for call in message.tool_calls or [] %}[{{ call.function.name }} {{ call.function.arguments.x }}]"
        "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": 2}}}
    calling = MessageFields(canonical_json({"content": "", "tool_calls": [call]}))
    messages = (("user", "q"), ("assistant", calling), ("tool", "4"), ("assistant", "four"))
    example = ChatExample(messages=messages, tools=json.dumps([{"name": "add"}]))
    one = tokenizer(template)
    (sequence,) = training_sequences(one, [example], max_tokens=512).sequences
    assert one.decode(learnt(sequence)) == "[add 2]<|im_end|>four<|im_end|>"
    assert str(one.decode([*sequence.token_ids])).startswith("<|im_start|>tools add<|im_end|>")


def test_a_template_that_leaves_calls_out_is_refused() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {}}}
    calling = MessageFields(canonical_json({"content": "sure", "tool_calls": [call]}))
    example = ChatExample(messages=(("user", "q"), ("assistant", calling)), line=3)
    with pytest.raises(
        ChatInvalid, match="line 3: the base model's chat template leaves out the call of add"
    ):
        training_sequences(tokenizer(), [example], max_tokens=512)


@pytest.mark.parametrize("where", ["arguments", "tools", "text"])
def test_a_token_that_structures_a_chat_is_refused_wherever_it_stands(where: str) -> None:
    token = "<|im_end|>"
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": token}}}
    calling = MessageFields(canonical_json({"content": "", "tool_calls": [call]}))
    example = {
        "arguments": ChatExample(messages=(("user", "q"), ("assistant", calling)), line=2),
        "tools": ChatExample(messages=TURNS, tools=json.dumps([{"name": token}]), line=2),
        "text": ChatExample(text=f"a{token}", line=2),
    }[where]
    with pytest.raises(ChatInvalid, match=r"line 2: a message holds '<\|im_end\|>'"):
        training_sequences(tokenizer(), [example], max_tokens=512)


def test_a_plain_text_is_learnt_whole_but_for_its_first_token_and_ends() -> None:
    one = tokenizer()
    (sequence,) = training_sequences(one, [ChatExample(text="Iron rusts.")], max_tokens=512).sequences
    assert one.decode([*sequence.token_ids]) == "Iron rusts.<|im_end|>"
    assert one.decode(learnt(sequence)) == "ron rusts.<|im_end|>"
    with pytest.raises(AnswerTooLong, match="line 0 has 12 tokens"):
        training_sequences(one, [ChatExample(text="Iron rusts.")], max_tokens=11)


def test_the_end_of_an_answer_is_learnt_where_padding_is_the_same_token() -> None:
    one = tokenizer()
    one.pad_token = one.eos_token
    short, long = (ChatExample(messages=(("user", "q"), ("assistant", text))) for text in ("a", "a" * 30))
    sequences = training_sequences(one, [short, long], max_tokens=512).sequences
    batch = collate(sequences, pad_id=one.eos_token_id)
    # Both answers end in a labelled end token, and padding has no label though it is the same token.
    assert (batch.labels[:, -1] == one.eos_token_id).all()
    assert (batch.input_ids[0] == one.eos_token_id).sum() > (batch.labels[0] == one.eos_token_id).sum() == 1
    assert ((batch.attention_mask == 0) <= (batch.labels == IGNORED)).all()


LONG = [ChatExample(messages=(("user", "q"), ("assistant", "x" * n)), line=n) for n in (1, 50, 100)]


def test_a_long_example_is_refused_by_line_cut_or_left_out_and_counted() -> None:
    one = tokenizer()
    limit = len(encode(one, LONG[0], max_tokens=512).token_ids) + 10
    with pytest.raises(AnswerTooLong, match=f"line 50 has .* the limit is {limit}"):
        training_sequences(one, LONG, max_tokens=limit)
    cut = training_sequences(one, LONG, max_tokens=limit, long_examples="cut")
    assert (cut.cut, cut.left_out, len(cut.sequences)) == (2, 0, 3)
    assert [len(sequence.token_ids) for sequence in cut.sequences[1:]] == [limit, limit]
    assert one.decode(learnt(cut.sequences[1])) == "x" * 12  # and no end, for the answer goes on
    left = training_sequences(one, LONG, max_tokens=limit, long_examples="leave-out")
    assert (left.cut, left.left_out, len(left.sequences)) == (0, 2, 1)
    assert left.facts == {
        "examples": 3, "sequences": 1, "tokens": limit - 10, "answer_tokens": 2, "longest": limit - 10,
        "cut": 0, "left_out": 2,
    }  # fmt: skip


def test_what_has_no_answer_within_the_limit_is_left_out_and_all_of_it_refused() -> None:
    one = tokenizer()
    prompt = len(encode_question(one, LONG[0].messages[:-1]))
    with pytest.raises(ChatInvalid, match="none of the 3 examples has an answer within"):
        training_sequences(one, LONG, max_tokens=prompt, long_examples="cut")


@settings(deadline=None, database=None)
@given(st.integers(1, 9), st.lists(st.integers(1, 6), min_size=2, max_size=8), st.integers(1, 60))
def test_a_cut_sequence_learns_the_beginning_of_what_the_whole_does(
    prompt: int, parts: list[int], limit: int
) -> None:
    ends = [prompt + sum(parts[: index + 1]) for index in range(len(parts))]
    whole = EncodedExample(
        token_ids=tuple(range(100, 100 + ends[-1])),
        prompt_length=prompt,
        between=tuple((ends[index], ends[index + 1]) for index in range(0, len(ends) - 2, 2)),
    )
    cut = cut_to(whole, limit)
    expected = [token for token in learnt(whole) if token < 100 + limit]
    assert ([] if cut is None else learnt(cut)) == expected
    if cut is not None:
        assert learnt_tokens(cut) == len(expected)
        assert learnt(cut.after(prompt - 1)) == expected


@given(st.integers(1, 30), st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0]))
def test_a_weight_says_how_often_each_sequence_is_met(count: int, weight: float) -> None:
    sequences = [EncodedExample(token_ids=(index,), prompt_length=0) for index in range(count)]
    drawn = weighted([(sequences, weight)])
    assert len(drawn) == int(count * weight)
    assert {drawn.count(one) for one in sequences} <= {int(weight), -int(-weight // 1)}
    assert weighted([(sequences, 1.0)]) == tuple(sequences)
