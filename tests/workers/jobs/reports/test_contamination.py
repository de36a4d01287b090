"""Held-out examples are found in training data, case and spaces aside; what differs is not."""

from formats.chat_examples import ChatExample
from workers.jobs.reports.contamination import EXAMPLE, QUESTION, seen_examples


def example(question: str, answer: str, line: int) -> ChatExample:
    return ChatExample(messages=(("user", question), ("assistant", answer)), line=line)


def test_equal_examples_and_equal_questions_are_told_apart_and_named_by_line() -> None:
    # Given four held-out examples: equal, equal but for case and spaces, with another answer, new
    held_out = {
        "bio": [example("A?", "b", 1), example("a  c?", "D", 2), example("e?", "other", 3)],
        "mixed": [example("new?", "b", 1)],
    }
    trained_on = {
        "bio.train@1": [example("x?", "y", 1), example("A?", "b", 2), example("A?", "b", 3)],
        "more@2": [example("A c?", "d", 7), example("e?", "f", 8)],
    }
    # When they are looked for in two training datasets
    found = seen_examples(held_out, trained_on)
    # Then each is named with the first line that holds it
    assert [(one.task, one.line, one.dataset, one.training_line, one.same) for one in found] == [
        ("bio", 1, "bio.train@1", 2, EXAMPLE),
        ("bio", 2, "more@2", 7, EXAMPLE),
        ("bio", 3, "more@2", 8, QUESTION),
    ]


def test_a_system_message_is_part_of_the_question() -> None:
    asked = ChatExample(messages=(("system", "Be brief."), *example("A?", "b", 1).messages), line=1)
    assert not seen_examples({"bio": [asked]}, {"train": [example("A?", "b", 1)]})


def test_plain_texts_are_compared_as_they_are() -> None:
    texts = [ChatExample(text="Iron rusts.", line=1), ChatExample(text="Gold does not.", line=2)]
    (found,) = seen_examples({"bio": [ChatExample(text="gold  does not.", line=5)]}, {"train": texts})
    assert (found.line, found.training_line, found.same) == (5, 2, EXAMPLE)
