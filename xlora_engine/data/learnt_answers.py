"""What a user may ask about the sequences of a training; imports no torch."""

from typing import Literal, TypeAlias

#: Every answer of a conversation, or its last alone.
LearntAnswers: TypeAlias = Literal["every", "last"]
#: What becomes of an example longer than the limit.
LongExamples: TypeAlias = Literal["refuse", "cut", "leave-out"]
