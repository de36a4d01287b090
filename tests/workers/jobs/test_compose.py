"""What a composition's report cannot read is refused before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workers.stocked_zoo import Started
from workers.jobs import compose
from workers.requests.specs import ComposeSpec
from xlora_engine.errors import AnswerTooLong


@pytest.mark.parametrize("method", ["xlora", "uniform"])
def test_held_out_examples_that_are_too_long_are_refused_before_experts_are_mixed(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    lines = [
        {"messages": [{"role": "user", "content": "q" * n}, {"role": "assistant", "content": "a"}]}
        for n in (1, 600, 700)
    ]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mixed: Any = None
    monkeypatch.setattr(compose, "mixing_method", mixed)
    spec = ComposeSpec(
        name="both",
        method=method,
        adapters=("bio@1", "protein@1"),
        data={"bio": "bio.train@1", "protein": "protein.train@1"} if method == "xlora" else {},
        eval_data={"bio": "long@1", "protein": "protein.eval@1"},
        mixed_datasets=(),
    )
    context = started(spec)
    context.registry.datasets.register(tmp_path / "long.jsonl")
    with pytest.raises(AnswerTooLong, match=r"long\.jsonl, line 2 has \d+ tokens .* limit is 512;"):
        compose.run(context)
