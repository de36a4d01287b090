"""A merge with weights for each module computes what the mixture of those scalings does."""

from pathlib import Path

import torch

from tests.pico import pico_llama
from xlora_engine.config import XLoraConfig
from xlora_engine.merging.weighted import weighted
from xlora_engine.model import XLoraModel
from xlora_engine.sources.adapter_weights import read_expert

IDS = torch.tensor([[3, 17, 4, 99, 5, 42], [9, 8, 7, 6, 5, 4]])


def test_a_weighted_merge_computes_what_the_mixture_of_its_weights_does(
    expert_folders: dict[str, Path],
) -> None:
    experts = [read_expert(folder, name) for name, folder in expert_folders.items()]
    mixture = XLoraModel(pico_llama(), experts, XLoraConfig())
    draw = torch.Generator().manual_seed(0)
    scalings = torch.rand(1, 1, len(mixture.layers), len(experts), generator=draw)
    modules = [path for path, _ in pico_llama().named_modules()]
    adapter = weighted(
        experts,
        name="merged",
        weights=dict(zip(mixture.layers, scalings[0, 0].tolist(), strict=True)),
        scale=1.5,
        modules=modules,
    )
    for path, update in adapter.updates.items():
        assert update.rank == sum(expert.updates[path].rank for expert in experts if path in expert.updates)
    merged = XLoraModel(pico_llama(), [adapter], XLoraConfig())
    with torch.no_grad(), merged.fixed_scalings(merged.constant_scalings([1.0])):
        expected = mixture.mixture_pass(1.5 * scalings, input_ids=IDS).logits
        torch.testing.assert_close(merged(IDS).logits, expected, atol=2e-5, rtol=1e-4)
