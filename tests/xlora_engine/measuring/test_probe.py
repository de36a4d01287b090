"""The effect probe: it measures what an adapter changes, and refuses one that changes nothing."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.pico import pico_adapter, pico_llama
from xlora_engine.errors import ExpertInvalid, ExpertMismatch, NoEffect
from xlora_engine.measuring.probe import LEAST_EFFECT, adapter_effect, effect_of, effect_score, probe_ids


def altered(folder: Path, *, factor: float) -> Path:
    """The same adapter with every B multiplied."""
    file = folder / "adapter_model.safetensors"
    tensors = {name: t * factor if "lora_B" in name else t for name, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def test_the_score_is_the_divergence_of_the_next_tokens() -> None:
    without = torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log()
    changed = torch.tensor([[[0.9, 0.1]], [[0.9, 0.1]]]).log()
    expected = 0.5 * (0.5 * torch.log(torch.tensor(0.5 / 0.9)) + 0.5 * torch.log(torch.tensor(0.5 / 0.1)))
    assert effect_score(changed + 3, without - 1) == pytest.approx(float(expected), rel=1e-6)
    assert effect_score(without, without) == 0


def test_an_adapters_effect_is_that_of_peft(tmp_path: Path) -> None:
    folder = pico_adapter(tmp_path / "bio", seed=1)
    score = adapter_effect(pico_llama(), folder, name="bio")
    base = pico_llama()
    tokens = probe_ids(base)
    with torch.no_grad():
        without = base(tokens).logits
        changed = PeftModel.from_pretrained(base, str(folder))(tokens).logits
    assert score == pytest.approx(effect_score(changed, without), rel=1e-4)
    assert score > 1000 * LEAST_EFFECT


def test_probing_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    base = pico_llama()
    names = [name for name, _ in base.named_modules()]
    before = {name: value.clone() for name, value in base.state_dict().items()}
    adapter_effect(base, pico_adapter(tmp_path / "bio", seed=1), name="bio")
    with pytest.raises(NoEffect):
        adapter_effect(base, altered(pico_adapter(tmp_path / "mute", seed=1), factor=0), name="mute")
    assert [name for name, _ in base.named_modules()] == names
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


@pytest.mark.parametrize("factor", [0.0, 1e-6])
def test_an_adapter_that_changes_nothing_is_refused_by_name(tmp_path: Path, factor: float) -> None:
    folder = altered(pico_adapter(tmp_path / "mute", seed=1), factor=factor)
    with pytest.raises(NoEffect, match="'mute' changes nothing"):
        adapter_effect(pico_llama(), folder, name="mute")


def test_a_small_effect_is_distinguished_from_rounding(tmp_path: Path) -> None:
    folder = altered(pico_adapter(tmp_path / "faint", seed=1), factor=0.02)
    assert LEAST_EFFECT < adapter_effect(pico_llama(), folder, name="faint") < 0.01


def test_rounding_alone_stays_below_the_threshold(tmp_path: Path) -> None:
    base = pico_llama()
    tokens = probe_ids(base)
    with torch.no_grad():
        logits = base(tokens).logits
        rounded = torch.nn.Module.to(base, torch.float64)(tokens).logits
    assert effect_score(rounded, logits) < LEAST_EFFECT / 1000


def test_an_adapter_that_breaks_the_model_is_not_reported_as_without_effect(tmp_path: Path) -> None:
    folder = altered(pico_adapter(tmp_path / "huge", seed=1), factor=1e38)
    with pytest.raises(ExpertInvalid, match=r"'huge'.*NaN"):
        adapter_effect(pico_llama(), folder, name="huge")


def test_an_adapter_of_another_base_is_refused_by_name(tmp_path: Path) -> None:
    wide = pico_llama(hidden_size=64)
    folder = pico_adapter(tmp_path / "wide", seed=1, base=wide)
    with pytest.raises(ExpertMismatch, match="'wide'"):
        adapter_effect(pico_llama(), folder, name="wide")


def test_every_expert_of_a_model_can_be_asked(tmp_path: Path) -> None:
    from xlora_engine.model import XLoraModel

    folders = {name: pico_adapter(tmp_path / name, seed=seed) for seed, name in enumerate(("bio", "mute"))}
    altered(folders["mute"], factor=0)
    model = XLoraModel.from_adapters(pico_llama(), folders)
    alone = adapter_effect(pico_llama(), folders["bio"], name="bio")
    assert effect_of(model, model.constant_scalings([1.0, 0.0]), name="bio") == pytest.approx(alone, rel=1e-4)
    with pytest.raises(NoEffect, match="'mute'"):
        effect_of(model, model.constant_scalings([0.0, 1.0]), name="mute")


def test_the_probe_is_the_same_every_time_and_spans_the_vocabulary() -> None:
    tokens = probe_ids(pico_llama())
    assert torch.equal(tokens, probe_ids(pico_llama(seed=1)))
    assert 0 <= int(tokens.min()) < 50
    assert 200 < int(tokens.max()) < 259
