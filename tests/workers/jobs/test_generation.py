"""A question that does not fit, with its answer, into what a base model reads is refused before loading."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import BloomConfig

from registry.service import Registry
from registry.settings import Settings
from tests.command_line import Ask
from tests.pico import pico_base_folder
from workers.jobs import loading
from xlora_engine.sources.base_model import context_length

CONTEXT = 48


@pytest.fixture
def base(home: Path, tmp_path: Path) -> str:
    with Registry.open(Settings.from_env(os.environ)) as registry:
        folder = pico_base_folder(tmp_path / "base", max_position_embeddings=CONTEXT)
        return registry.bases.register(folder, name="pico", source="here").name


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(loading, "load_base", load)


@pytest.fixture(autouse=True)
def _no_notices(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Of transformers, whose logger passes nothing on."""
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    yield
    library.removeHandler(caplog.handler)
    assert caplog.messages == []


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("length", [CONTEXT, 600])
def test_a_question_longer_than_the_context_is_refused(base: str, ask: Ask, length: int) -> None:
    refused = ask("generate", base, "Why?", "a" * length, "--max-new-tokens", "1")
    assert (refused.out, refused.code) == ("", 2)
    assert re.fullmatch(
        rf"error ZOO-E401: QUESTIONS must be at most {CONTEXT - 1} tokens each, system message and template"
        rf" included: this base model reads {CONTEXT}, got {length + 19}\n",
        refused.err,
    )


@pytest.mark.usefixtures("no_weights")
def test_an_answer_longer_than_what_is_left_is_refused_with_what_is_left(base: str, ask: Ask) -> None:
    refused = ask("generate", base, "Why?", "--system", "Be brief.", "--max-new-tokens", "9999")
    assert (refused.out, refused.code) == ("", 2)
    said = re.fullmatch(
        rf"error ZOO-E401: --max-new-tokens must be at most (\d+) here: this base model reads {CONTEXT}"
        r" tokens, and (\d+) are the question's, system message and template included, got 9999\n",
        refused.err,
    )
    assert said is not None
    assert int(said[1]) + int(said[2]) == CONTEXT


def test_an_answer_that_fills_the_context_is_given_without_a_word_besides(base: str, ask: Ask) -> None:
    refused = ask("generate", base, "Why?", "--max-new-tokens", str(CONTEXT))
    left = re.search(r"at most (\d+) here", refused.err)
    assert left is not None
    answer = ask("generate", base, "Why?", "--max-new-tokens", left[1], "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json[0]["subject"] == "base:pico"


def test_a_base_that_knows_places_by_distance_has_no_bound() -> None:
    assert context_length(BloomConfig()) > 2**40
