"""Routers without training, against PEFT's Arrow and a loop over single experts."""

import warnings
from pathlib import Path

import pytest
import torch
from peft.tuners.lora.arrow import create_arrow_model
from peft.tuners.lora.config import ArrowConfig
from torch import Tensor

from tests.pico import pico_adapter, pico_llama
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid
from xlora_engine.merging.gated_form import in_gated_form, standardised
from xlora_engine.merging.singular_form import in_singular_form
from xlora_engine.mixture.layer import MixtureLayer
from xlora_engine.mixture.routers import ROUTERS, Routed, Router
from xlora_engine.model import XLoraModel
from xlora_engine.sources.adapter_weights import Expert, read_expert, write_expert

IDS = torch.tensor([[3, 17, 4, 99, 5, 42], [9, 8, 7, 6, 5, 4]])


def _with_a_leading_direction(folder: Path, *, seed: int) -> Path:
    """An adapter whose updates each have one singular value far above the others: PEFT iterates 15 times."""
    expert = read_expert(pico_adapter(folder / "plain", seed=seed, rank=4, alpha=8), "plain")
    updates = dict(expert.updates)
    for update in updates.values():
        update.B[:, 0] *= 8
    write_expert(folder / "led", expert, updates)
    return folder / "led"


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters of one rank and the same modules, as PEFT's Arrow demands."""
    root = tmp_path_factory.mktemp("alike")
    return [_with_a_leading_direction(root / str(seed), seed=seed) for seed in (1, 2, 3)]


def _model(folders: dict[str, Path], kind: str) -> XLoraModel:
    experts = [
        in_singular_form(read_expert(folder, name), values_in_down=ROUTERS[kind].values_in_down)
        for name, folder in folders.items()
    ]
    return XLoraModel(pico_llama(), experts, XLoraConfig())


@torch.no_grad()
def _logits(model: XLoraModel, router: Router) -> Tensor:
    with model.routed(router):
        logits: Tensor = model(IDS).logits
    return logits


@pytest.mark.parametrize(("top_k", "temperature"), [(2, 1.0), (3, 0.5)])
def test_arrow_is_pefts(alike: list[Path], top_k: int, temperature: float) -> None:
    config = ArrowConfig(top_k=top_k, router_temperature=temperature, rng_seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = create_arrow_model(pico_llama(), [str(folder) for folder in alike], config).eval()
    router = Router(kind="arrow", top_k=top_k, temperature=temperature)
    ours = _model({str(index): folder for index, folder in enumerate(alike)}, "arrow")
    with torch.no_grad():
        torch.testing.assert_close(_logits(ours, router), theirs(IDS).logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["arrow", "spectr"])
def test_experts_in_singular_form_compute_the_same(kind: str, expert_folders: dict[str, Path]) -> None:
    routed, plain = _model(expert_folders, kind), XLoraModel.from_adapters(pico_llama(), expert_folders)
    for model in (routed, plain):
        model.eval()
    with torch.no_grad():
        scalings = plain.constant_scalings([0.5, 1.0, 0.25])
        with plain.fixed_scalings(scalings), routed.fixed_scalings(scalings):
            torch.testing.assert_close(routed(IDS).logits, plain(IDS).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["arrow", "spectr"])
def test_each_layer_weighs_the_experts_that_it_has_by_its_own_input(
    kind: str, expert_folders: dict[str, Path]
) -> None:
    model = _model(expert_folders, kind)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for path, layer in model.layers.items():
        layer.register_forward_hook(lambda _, given, out, path=path: seen.__setitem__(path, (given[0], out)))
    _logits(model, Router(kind=kind, top_k=2))
    originals = [read_expert(folder, name) for name, folder in expert_folders.items()]
    for path, (x, out) in seen.items():
        expected = _by_hand(kind, x, path, originals, model.layers[path])
        torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)
    assert {len([e for e in originals if path in e.updates]) for path in seen} == {1, 3}


def _by_hand(kind: str, x: Tensor, path: str, experts: list[Expert], layer: MixtureLayer) -> Tensor:
    deltas = [
        update.scale * update.B @ update.A
        for expert in experts
        if (update := expert.updates.get(path)) is not None
    ]
    if kind == "arrow":
        directions = [torch.linalg.svd(delta).Vh[0] for delta in deltas]
        scores = torch.stack([(x @ direction).abs() for direction in directions], -1)
    else:
        scores = torch.stack([(x @ delta.T).norm(dim=-1) for delta in deltas], -1)
    best = scores.topk(min(2, len(deltas)), dim=-1)
    shares = torch.zeros_like(scores).scatter(-1, best.indices, best.values.softmax(-1))
    added = sum(shares[..., i, None] * (x @ delta.T) for i, delta in enumerate(deltas))
    out: Tensor = layer.base(x) + added
    return out


def _gates(expert: Expert, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {path: torch.randn(update.A.shape[1], generator=draw) for path, update in expert.updates.items()}


def _gated_model(experts: list[Expert], gates: list[dict[str, Tensor]]) -> XLoraModel:
    ready = [
        in_gated_form(expert, {path: standardised(vector) for path, vector in gate.items()})
        for expert, gate in zip(experts, gates, strict=True)
    ]
    return XLoraModel(pico_llama(), ready, XLoraConfig())


def test_phatgoose_compares_gate_and_input_as_its_authors_do(expert_folders: dict[str, Path]) -> None:
    """Layer norms without weights, their product over the root of the width, softmax of the best two."""
    experts = [read_expert(folder, name) for name, folder in expert_folders.items()]
    gates = [_gates(expert, seed) for seed, expert in enumerate(experts)]
    model = _gated_model(experts, gates)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for path, layer in model.layers.items():
        layer.register_forward_hook(lambda _, given, out, path=path: seen.__setitem__(path, (given[0], out)))
    _logits(model, Router(kind="phatgoose", top_k=2))
    for path, (x, out) in seen.items():
        adapting = [(e.updates[path], g[path]) for e, g in zip(experts, gates, strict=True) if path in g]
        width = x.shape[-1]
        keys = torch.nn.functional.layer_norm(torch.stack([gate for _, gate in adapting]), (width,))
        scores = torch.nn.functional.layer_norm(x, (width,)) @ keys.T / width**0.5
        best = scores.topk(min(2, len(adapting)), dim=-1)
        shares = torch.zeros_like(scores).scatter(-1, best.indices, best.values.softmax(-1))
        added = sum(
            shares[..., i, None] * update.scale * (x @ update.A.T @ update.B.T)
            for i, (update, _) in enumerate(adapting)
        )
        torch.testing.assert_close(out, model.layers[path].base(x) + added, atol=2e-5, rtol=1e-4)


def test_a_router_weighs_some_sequences_of_a_batch_and_scalings_the_others(
    expert_folders: dict[str, Path],
) -> None:
    model, router = _model(expert_folders, "spectr"), Router(kind="spectr", top_k=2)
    one_hot = model.constant_scalings([1.0, 0.0, 0.0])
    with torch.no_grad():
        for routed in (0, 1):
            sequences = torch.arange(2) == routed
            found = model.mixture_pass(
                one_hot, routed=Routed(router=router, sequences=sequences), input_ids=IDS
            ).logits
            scaled = model.mixture_pass(one_hot, input_ids=IDS).logits
            assert found is not None
            assert scaled is not None
            expected = torch.where(sequences[:, None, None], _logits(model, router), scaled)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_routed_model_generates_with_the_cache_of_its_base(expert_folders: dict[str, Path]) -> None:
    model = _model(expert_folders, "spectr")
    router = Router(kind="spectr", top_k=1)
    with model.routed(router):
        cached = model.generate(IDS, max_new_tokens=5, do_sample=False)
        recomputed = model.generate(IDS, max_new_tokens=5, do_sample=False, use_cache=False)
    assert torch.equal(cached, recomputed)
    assert not torch.equal(cached, pico_llama().generate(IDS, max_new_tokens=5, do_sample=False))
    assert not model.has_fixed_scalings


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "compass"), ("top_k", 0), ("temperature", 0.0), ("temperature", float("nan"))],
)
def test_a_router_that_cannot_be_computed_is_refused(field: str, value: object) -> None:
    given = {"kind": "arrow", "top_k": 1} | {field: value}
    with pytest.raises(ConfigInvalid, match="router" if field == "kind" else field):
        Router(**given)  # type: ignore[arg-type]
