"""The same results on any device: against the CPU, PEFT and the engine's own slower ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pico import pico_llama
from tests.xlora_engine.on_device.conftest import Build
from tests.xlora_engine.peft_reference import peft_logits, peft_xlora
from xlora_engine.data.chat import EncodedExample
from xlora_engine.head_training.hidden_states import compute_hidden_states
from xlora_engine.mixture.routers import Router
from xlora_engine.model import XLoraModel

CPU = torch.device("cpu")
NEW_TOKENS = 12


def _assert_alike(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """bfloat16 has 8 bits, and a GPU rounds elsewhere than a CPU does: there the mean difference counts."""
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)
    else:
        assert (found - expected).abs().mean() < 0.02 * expected.std()


@torch.no_grad()
def _logits(model: XLoraModel, ids: Tensor, **inputs: Any) -> Tensor:
    logits: Tensor = model(ids, **inputs).logits
    return logits.float().cpu()


def test_logits_are_those_of_the_cpu(
    build: Build, device: torch.device, dtype: torch.dtype, ids: Tensor
) -> None:
    expected = _logits(build(CPU), ids.cpu())
    _assert_alike(_logits(build(device, dtype), ids), expected, dtype)


def test_logits_are_pefts(
    build: Build, device: torch.device, dtype: torch.dtype, ids: Tensor, expert_folders: dict[str, Path]
) -> None:
    model = build(device, dtype)
    base = torch.nn.Module.to(pico_llama(), device, dtype)
    reference = peft_xlora(base, list(expert_folders.values()), model.config, model.head).to(device)
    theirs, _ = peft_logits(reference, ids)
    _assert_alike(_logits(model, ids), theirs.float().cpu(), dtype)


def test_padding_on_the_left_changes_nothing(build: Build, device: torch.device, ids: Tensor) -> None:
    model = build(device)
    padded = torch.cat([torch.zeros(2, 3, dtype=ids.dtype, device=device), ids], 1)
    mask = (torch.arange(12, device=device) >= 3).long().expand(2, -1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    found = _logits(model, padded, attention_mask=mask, position_ids=positions)[:, 3:]
    torch.testing.assert_close(found, _logits(model, ids), atol=2e-4, rtol=2e-4)


def test_two_caches_give_what_no_cache_gives(
    build: Build, device: torch.device, dtype: torch.dtype, ids: Tensor
) -> None:
    model = build(device, dtype)
    cache = model.new_cache()
    parts = [
        _logits(model, part, past_key_values=cache, use_cache=True) for part in ids.split([5, 1, 1, 2], 1)
    ]
    _assert_alike(torch.cat(parts, 1), _logits(model, ids), dtype)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"prefetch_scalings": False},
        {"num_beams": 3},
        {"repetition_penalty": 1.3},
        {"use_cache": False},
    ],
    ids=lambda asked: next(iter(asked), "prefetched"),
)
@pytest.mark.parametrize("batch", [1, 2])
def test_every_way_of_decoding_gives_the_tokens_of_the_cpu(
    build: Build, device: torch.device, ids: Tensor, asked: dict[str, Any], batch: int
) -> None:
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    found = build(device).generate(ids[:batch], **options, **asked)
    plain = {name: value for name, value in asked.items() if name not in ("prefetch_scalings", "use_cache")}
    expected = build(CPU).generate(ids[:batch].cpu(), **options, **plain, prefetch_scalings=False)
    assert found.cpu().tolist() == expected.tolist()


def test_sampling_with_one_seed_gives_one_answer(build: Build, device: torch.device, ids: Tensor) -> None:
    model = build(device)

    def sampled(**asked: Any) -> list[list[int]]:
        torch.manual_seed(5)
        made = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=True, pad_token_id=0, **asked)
        return made.tolist()  # type: ignore[no-any-return]

    assert sampled() == sampled()


def test_what_is_saved_there_answers_its_reload_check_there_and_on_the_cpu(
    build: Build, device: torch.device, dtype: torch.dtype, ids: Tensor, tmp_path: Path
) -> None:
    model = build(device, dtype)
    model.save_pretrained(tmp_path / "saved")
    there = XLoraModel.from_pretrained(
        tmp_path / "saved", torch.nn.Module.to(pico_llama(), device, dtype), verify=True
    )
    torch.testing.assert_close(_logits(there, ids), _logits(model, ids), atol=1e-5, rtol=1e-5)
    if dtype == torch.float32:
        here = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama(), verify=True)
        _assert_alike(_logits(here, ids.cpu()), _logits(model, ids), dtype)


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_gradients_of_the_head_are_those_of_the_cpu(
    build: Build, device: torch.device, ids: Tensor, recomputed: bool
) -> None:
    def gradients(on: torch.device) -> list[Tensor]:
        model = build(on, xlora_dropout_p=0.0).train()
        if recomputed and on == device:
            model.gradient_checkpointing_enable()
        model(ids.to(on), labels=ids.to(on)).loss.backward()
        return [parameter.grad.cpu() for parameter in model.head.parameters() if parameter.grad is not None]

    for found, expected in zip(gradients(device), gradients(CPU), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_hidden_states_are_those_of_the_cpu(build: Build, device: torch.device, ids: Tensor) -> None:
    examples = [EncodedExample(token_ids=tuple(row), prompt_length=4) for row in ids.tolist()]

    def hidden(on: torch.device) -> Tensor:
        model = build(on, scaling_pass_value=1 / 3)
        return compute_hidden_states(
            model.scaling_pass,
            examples,
            new_cache=lambda: model.new_cache().scaling,
            pad_id=0,
            tokens_per_batch=64,
            device=on,
        ).values.float()

    torch.testing.assert_close(hidden(device), hidden(CPU), atol=2e-2, rtol=2e-2)  # kept in bfloat16


def test_a_router_weighs_as_on_the_cpu(build: Build, device: torch.device, ids: Tensor) -> None:
    def routed(on: torch.device) -> Tensor:
        model = build(on)
        with model.routed(Router(kind="spectr", top_k=2)):
            return _logits(model, ids.to(on))

    torch.testing.assert_close(routed(device), routed(CPU), atol=2e-4, rtol=2e-4)


def test_the_head_computes_in_float32_whatever_the_base_does(
    build: Build, device: torch.device, dtype: torch.dtype, ids: Tensor
) -> None:
    model = build(device, dtype)
    seen: list[torch.dtype] = []
    model.head.register_forward_hook(lambda _module, _given, out: seen.append(out.dtype))
    _logits(model, ids)
    assert seen == [torch.float32]
    assert {parameter.device.type for parameter in model.head.parameters()} == {device.type}
