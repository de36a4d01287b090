"""The report's sentences say enough to follow their verdict."""

import pytest

from workers.jobs.report import BASE, COMPOSED, UNIFORM, Tasks, judge
from xlora_engine.data.answer_scores import AnswerScores


def scored(loss: float) -> AnswerScores:
    return AnswerScores(row_losses=(loss,), row_matches=(1.0,), row_tokens=(1,))


@pytest.mark.parametrize(
    ("loss", "kept", "said"), [(2.048, False, "1.024 times"), (2.038, True, "1.019 times")]
)
def test_a_loss_beside_the_limit_is_told_from_it(loss: float, kept: bool, said: str) -> None:
    scores = {BASE: 3.0, "bio": 2.0, UNIFORM: 2.5, COMPOSED: loss}
    tasks = Tasks(own_expert={"bio": "bio"}, mixed=())
    (finding,) = judge({name: {"bio": scored(value)} for name, value in scores.items()}, tasks)
    assert (finding.kept, said in finding.sentence) == (kept, True)
