"""A bfloat16 base model on a CPU attends in float32 where gradients flow, and from a single token."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tests.pico import pico_base_folder
from xlora_engine.devices.attention import NAME
from xlora_engine.sources.base_model import load_base

CPU = torch.device("cpu")
IDS = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(0))
PADDED = torch.tensor([[0] * 4 + [1] * 8, [1] * 12])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_base_folder(tmp_path_factory.mktemp("bases") / "pico")


@pytest.mark.parametrize("mask", [None, PADDED], ids=["no padding", "padding"])
def test_a_prompt_without_gradients_has_the_outputs_of_torchs_attention_bit_for_bit(
    folder: Path, mask: Tensor | None
) -> None:
    model = load_base(folder, dtype=torch.bfloat16, device=CPU)
    ours = model(IDS, attention_mask=mask).logits
    model.set_attn_implementation("sdpa")

    assert torch.equal(ours, model(IDS, attention_mask=mask).logits)


@pytest.mark.parametrize("mask", [None, PADDED], ids=["no padding", "padding"])
def test_gradients_are_those_of_a_float32_model_but_for_rounding(folder: Path, mask: Tensor | None) -> None:
    half, whole = (load_base(folder, dtype=dtype, device=CPU) for dtype in (torch.bfloat16, torch.float32))

    def gradient(attention: str, model: PreTrainedModel) -> Tensor:
        model.set_attn_implementation(attention)
        embeds = half.get_input_embeddings()(IDS).to(model.dtype).requires_grad_()
        loss = model(inputs_embeds=embeds, attention_mask=mask).logits.float().logsumexp(-1).mean()
        found: Tensor = torch.autograd.grad(loss, embeds)[0].float()
        return found

    exact = gradient("sdpa", whole)
    errors = {name: (gradient(name, half) - exact).norm() / exact.norm() for name in (NAME, "sdpa")}

    assert errors[NAME] < 0.05
    assert errors[NAME] < 1.2 * errors["sdpa"]


@pytest.mark.parametrize("padding", [0, 4])
def test_the_next_token_is_that_of_a_float32_model_but_for_rounding(folder: Path, padding: int) -> None:
    half, whole = (load_base(folder, dtype=dtype, device=CPU) for dtype in (torch.bfloat16, torch.float32))
    # Many, for one token's rounding is a matter of luck.
    ids = torch.randint(3, 250, (128, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[::2, :padding] = 0

    @torch.no_grad()
    def next_logits(attention: str, model: PreTrainedModel) -> Tensor:
        model.set_attn_implementation(attention)
        cache = DynamicCache(config=model.config)
        model(ids[:, :-1], attention_mask=mask[:, :-1], cache=cache, use_cache=True)
        found: Tensor = model(ids[:, -1:], attention_mask=mask, cache=cache, use_cache=True).logits.float()
        return found

    exact = next_logits("sdpa", whole)
    errors = {name: (next_logits(name, half) - exact).norm() / exact.norm() for name in (NAME, "sdpa")}

    assert errors[NAME] < 0.02
    assert errors[NAME] < 1.02 * errors["sdpa"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtypes that torch's attention is asked in."""
    seen: list[torch.dtype] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noting(query: Tensor, *rest: Tensor, **kwargs: object) -> Tensor:
        seen.append(query.dtype)
        return attend(query, *rest, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    return seen


def test_attention_with_gradients_is_computed_in_float32(folder: Path, seen: list[torch.dtype]) -> None:
    model = load_base(folder, dtype=torch.bfloat16, device=CPU)
    model(inputs_embeds=model.get_input_embeddings()(IDS).requires_grad_())

    assert set(seen) == {torch.float32}


@torch.no_grad()
def test_attention_of_a_single_token_is_computed_in_float32_and_of_a_prompt_is_not(
    folder: Path, seen: list[torch.dtype]
) -> None:
    model = load_base(folder, dtype=torch.bfloat16, device=CPU)
    cache = DynamicCache(config=model.config)
    model(IDS, cache=cache, use_cache=True)
    assert set(seen) == {torch.bfloat16}

    seen.clear()
    model(IDS[:, :1], cache=cache, use_cache=True)
    assert set(seen) == {torch.float32}

    seen.clear()
    model(IDS[:, :1], attention_mask=torch.cat([PADDED, PADDED[:, -2:]], 1), cache=cache, use_cache=True)
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, NAME), (torch.float32, "sdpa")])
def test_only_a_bfloat16_model_is_given_it(folder: Path, dtype: torch.dtype, name: str) -> None:
    assert load_base(folder, dtype=dtype, device=CPU).config._attn_implementation == name


def test_a_saved_model_does_not_ask_for_it(folder: Path, tmp_path: Path) -> None:
    model = load_base(folder, dtype=torch.bfloat16, device=CPU)
    model.save_pretrained(tmp_path)

    assert NAME not in (tmp_path / "config.json").read_text()
