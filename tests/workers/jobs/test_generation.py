"""What cannot be answered is refused in one line before weights are loaded."""

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
from tests.pico import CHATML, pico_base_folder, pico_tokenizer
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


@pytest.mark.usefixtures("no_weights")
def test_a_system_message_that_the_template_refuses_is_the_users_error(
    home: Path, tmp_path: Path, ask: Ask
) -> None:
    folder = pico_base_folder(tmp_path / "base")
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refuses + CHATML)
    with Registry.open(Settings.from_env(os.environ)) as registry:
        registry.bases.register(folder, name="terse", source="here")
    refused = ask("generate", "terse", "Why?", "--system", "Be brief.")
    assert (refused.out, refused.code) == ("", 1)
    said = "error ZOO-E350: the question: the chat template refuses the messages: no system here\n"
    assert refused.err == said


@pytest.mark.usefixtures("no_weights")
def test_a_question_with_a_token_that_has_no_embedding_is_refused_by_its_name(
    home: Path, tmp_path: Path, ask: Ask
) -> None:
    folder = pico_base_folder(tmp_path / "base")
    tokenizer = pico_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    with Registry.open(Settings.from_env(os.environ)) as registry:
        registry.bases.register(folder, name="wide", source="here")
    refused = ask("generate", "wide", "A <tool>?", "--max-new-tokens", "2")
    assert (refused.out, refused.code) == ("", 1)
    said = r"error ZOO-E350: the question holds '<tool>', token 259 .* no embedding \(it has 259\).*\n"
    assert re.fullmatch(said, refused.err)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["\udcff"], "QUESTIONS must be at least one, in UTF-8, got '\\udcff'"),
        (["q", "--system", "\udcff"], "--system must be text in UTF-8, or left out, got '\\udcff'"),
        (["q", "--temperature", "nan"], "--temperature must be 0, or from 0.0001 to 100, got nan"),
        (["q", "--temperature", "inf"], "--temperature must be 0, or from 0.0001 to 100, got inf"),
        (["q", "--temperature", "1e-320"], "--temperature must be 0, or from 0.0001 to 100, got 1e-320"),
        (["q", "--temperature", "-1"], "--temperature must be 0, or from 0.0001 to 100, got -1.0"),
        (["q", "--seed", "9" * 23], f"--seed must be a whole number in 0..4294967295, got {'9' * 23}"),
        (["q", "--max-new-tokens", "0"], "--max-new-tokens must be a whole number in 1..16777216, got 0"),
    ],
)
def test_what_is_out_of_range_is_refused(base: str, ask: Ask, asked: list[str], said: str) -> None:
    refused = ask("generate", base, *asked)
    assert (refused.out, refused.err, refused.code) == ("", f"error ZOO-E401: {said}\n", 2)


@pytest.mark.parametrize("temperature", ["0.0001", "100"])
def test_the_ends_of_the_range_of_temperatures_answer(base: str, ask: Ask, temperature: str) -> None:
    answer = ask("generate", base, "q", "--temperature", temperature, "--max-new-tokens", "2", "--json")
    assert (answer.code, answer.err) == (0, "")


def test_an_answer_that_fills_the_context_is_given_without_a_word_besides(base: str, ask: Ask) -> None:
    refused = ask("generate", base, "Why?", "--max-new-tokens", str(CONTEXT))
    left = re.search(r"at most (\d+) here", refused.err)
    assert left is not None
    answer = ask("generate", base, "Why?", "--max-new-tokens", left[1], "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json[0]["subject"] == "base:pico"


def test_a_base_that_knows_places_by_distance_has_no_bound() -> None:
    assert context_length(BloomConfig()) > 2**40
