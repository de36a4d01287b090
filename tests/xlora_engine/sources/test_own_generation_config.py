"""A base model's generation configuration decides nothing but token ids: greedy decoding stays greedy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pico import pico_adapter, pico_base_folder, pico_llama
from xlora_engine.errors import BaseUnreadable
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import load_base

CPU = torch.device("cpu")
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

#: What a file may ask for.
ASKED: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "temperature": 5.0, "top_k": 200},
    "beams": {"num_beams": 3, "length_penalty": 3.0},
    "guidance": {"guidance_scale": 4.0},
    "penalties": {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1},
    "suppressed tokens": {"suppress_tokens": list(range(3, 120)), "bad_words_ids": [[130]]},
    "forced tokens": {"forced_eos_token_id": 9, "min_new_tokens": 30},
    "stop strings": {"stop_strings": ["e", "a"]},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "an assistant's settings": {"num_assistant_tokens": 3, "assistant_early_exit": 1},
    "a static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "a dictionary": {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True},
    "several answers": {"do_sample": True, "num_return_sequences": 2},
    "invalid values": {"num_beams": 0, "temperature": -1.0, "top_p": 7},
}


def answers(folder: Path, adapters: dict[str, Path]) -> Iterator[Tensor]:
    """Greedy tokens of the base model, of one adapter alone, and of a composition."""
    base: Any = load_base(folder, dtype=torch.float32, device=CPU)
    ids = torch.tensor([[1, 40, 41, 50, 60]])
    asked: Any = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    yield base.generate(ids, **asked)
    model = XLoraModel.from_adapters(base, adapters)
    with model.fixed_scalings(model.constant_scalings([1.0, 0.0])):
        yield model.generate(ids, **asked)
    yield model.generate(ids, **asked)


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, Path]:
    return {
        name: pico_adapter(tmp_path / name, seed=seed, base=pico_llama())
        for seed, name in enumerate(("bio", "protein"))
    }


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("asked", ASKED)
def test_what_the_file_asks_for_does_not_change_an_answer(
    tmp_path: Path, adapters: dict[str, Path], asked: str, file: str
) -> None:
    folder = pico_base_folder(tmp_path / "base")
    expected = list(answers(folder, adapters))
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | ASKED[asked]))
    found = list(answers(folder, adapters))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_the_token_ids_of_the_file_hold(tmp_path: Path) -> None:
    folder = pico_base_folder(tmp_path / "base")
    (folder / "generation_config.json").write_text(json.dumps({**IDS, "eos_token_id": [2, 7]}))
    assert load_base(folder, dtype=torch.float32, device=CPU).generation_config.eos_token_id == [2, 7]


def test_without_the_file_those_of_the_model_hold(tmp_path: Path) -> None:
    folder = pico_base_folder(tmp_path / "base")
    (folder / "generation_config.json").unlink()
    found = load_base(folder, dtype=torch.float32, device=CPU).generation_config
    assert {name: getattr(found, name) for name in IDS} == IDS


@pytest.mark.parametrize("content", ["[]", "{", '{"eos_token_id": "</s>"}', '{"pad_token_id": 1.5}'])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    folder = pico_base_folder(tmp_path / "base")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(BaseUnreadable, match=r"generation_config\.json"):
        load_base(folder, dtype=torch.float32, device=CPU)
