"""Merged adapters against PEFT's own merges and against the formulas of their papers."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import peft
import pytest
import torch
from peft.utils.merge_utils import ties
from torch import Tensor

from tests.pico import pico_llama
from xlora_engine.errors import ConfigInvalid
from xlora_engine.merging.factors import Factors, cut, total
from xlora_engine.merging.merged_adapter import merged
from xlora_engine.merging.rules import RULES, MergeSettings
from xlora_engine.model import XLoraModel
from xlora_engine.sources.adapter_weights import Expert, read_expert, write_expert

IDS = torch.tensor([[3, 17, 4, 99, 5, 42], [9, 8, 7, 6, 5, 4]])


@pytest.fixture(scope="module")
def experts(expert_folders: dict[str, Path]) -> list[Expert]:
    return [read_expert(folder, name) for name, folder in expert_folders.items()]


def _merged(experts: Sequence[Expert], rule: str, *, seed: int = 0, **settings: float | int) -> Expert:
    return merged(
        experts,
        name="merged",
        rule=rule,
        settings=MergeSettings(experts=len(experts), **settings),  # type: ignore[arg-type]
        modules=[path for path, _ in pico_llama().named_modules()],
        seed=seed,
    )


def _written(expert: Expert, folder: Path) -> Path:
    write_expert(folder, expert, expert.updates)
    return folder


@torch.no_grad()
def _logits_in_peft(folder: Path) -> Tensor:
    logits: Tensor = peft.PeftModel.from_pretrained(pico_llama(), folder).eval()(IDS).logits
    return logits


@torch.no_grad()
def _logits_of_pefts_merge(folders: dict[str, Path], combination: str, *, weight: float, rank: int) -> Tensor:
    names = [f"expert_{index}" for index in range(len(folders))]
    model: peft.PeftModel | None = None
    for name, folder in zip(names, folders.values(), strict=True):
        if model is None:
            model = peft.PeftModel.from_pretrained(pico_llama(), folder, adapter_name=name)
        else:
            model.load_adapter(folder, adapter_name=name)
    assert model is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.base_model.add_weighted_adapter(
            names,
            [weight] * len(names),
            "merged",
            combination_type=combination,
            svd_rank=rank,
            svd_full_matrices=False,
            density=0.2,
        )
        model.set_adapter("merged")
    logits: Tensor = model.eval()(IDS).logits
    return logits


@pytest.mark.parametrize(
    ("rule", "combination", "weight"),
    [("mean", "svd", 1 / 3), ("ties", "ties_svd", 1.0)],
    ids=["mean", "ties"],
)
@pytest.mark.parametrize("rank", [4, 13])
def test_the_merge_is_pefts(
    experts: list[Expert],
    expert_folders: dict[str, Path],
    tmp_path: Path,
    rule: str,
    combination: str,
    weight: float,
    rank: int,
) -> None:
    theirs = _logits_of_pefts_merge(expert_folders, combination, weight=weight, rank=rank)
    ours = _logits_in_peft(_written(_merged(experts, rule, rank=rank), tmp_path / "merged"))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_the_mean_at_the_sum_of_the_ranks_is_the_uniform_mixture(
    experts: list[Expert], expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = _written(_merged(experts, "mean"), tmp_path / "merged")
    mixture = XLoraModel.from_adapters(pico_llama(), expert_folders)
    with torch.no_grad(), mixture.fixed_scalings(mixture.constant_scalings([1 / 3] * 3)):
        uniform = mixture(IDS).logits
    torch.testing.assert_close(_logits_in_peft(folder), uniform, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", list(RULES))
def test_a_merge_is_read_by_peft_and_by_the_engine_alike(
    experts: list[Expert], tmp_path: Path, rule: str
) -> None:
    folder = _written(_merged(experts, rule, scale=1.5), tmp_path / "merged")
    mixture = XLoraModel.from_adapters(pico_llama(), {"merged": folder})
    with torch.no_grad(), mixture.fixed_scalings(mixture.constant_scalings([1.0])):
        ours = mixture(IDS).logits
    theirs = _logits_in_peft(folder)
    with torch.no_grad():
        base = pico_llama()(IDS).logits
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert (theirs - base).abs().max() > 1e-3


@pytest.mark.parametrize("rule", list(RULES))
def test_the_rank_asked_for_is_not_exceeded(experts: list[Expert], rule: str) -> None:
    found = _merged(experts, rule, rank=2)
    assert {update.rank for update in found.updates.values()} == {2}
    assert (found.config["r"], found.config.get("rank_pattern")) == (2, None)


def test_where_all_modules_of_a_name_were_merged_the_name_is_the_target(experts: list[Expert]) -> None:
    everything = {path.rpartition(".")[2] for expert in experts for path in expert.updates}
    assert set(_merged(experts, "mean").config["target_modules"]) == everything
    first = next(iter(experts[0].updates))
    one = Expert(name="one", config=experts[0].config, updates={first: experts[0].updates[first]})
    assert _merged([one], "mean").config["target_modules"] == [first]


def test_only_dare_draws_and_the_same_seed_draws_the_same(experts: list[Expert]) -> None:
    def first(rule: str, seed: int) -> Tensor:
        update = next(iter(_merged(experts, rule, seed=seed).updates.values()))
        return update.B @ update.A

    assert torch.equal(first("dare", 1), first("dare", 1))
    assert not torch.allclose(first("dare", 1), first("dare", 2))
    assert torch.equal(first("ties", 1), first("ties", 2))
    before = torch.random.get_rng_state()
    first("dare", 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def _random(rank: int, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(
        A=torch.randn(rank, 20, generator=generator), B=torch.randn(30, rank, generator=generator) / rank
    )


def test_dare_is_the_mean_on_average() -> None:
    updates = [_random(2, 1), _random(3, 2)]
    settings = MergeSettings(experts=2, density=0.5, rank=20)
    torch.manual_seed(0)
    drawn = torch.stack([RULES["dare"](updates, settings).product() for _ in range(400)])
    exact = RULES["mean"](updates, MergeSettings(experts=2)).product()
    assert (drawn.mean(0) - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert (drawn[0] - exact).abs().mean() > 0.3 * exact.abs().mean()


def test_cutting_keeps_the_largest_singular_values() -> None:
    update = total([_random(3, 1), _random(4, 2)])
    singular = torch.linalg.svdvals(update.product())
    torch.testing.assert_close(torch.linalg.svdvals(cut(update, 3).product())[:3], singular[:3])
    assert cut(update, 7) is update
    torch.testing.assert_close(update.norm.float(), update.product().norm())


def test_core_ties_is_ties_between_bases_of_all_columns_and_rows() -> None:
    updates = [_random(2, 1), _random(3, 2)]
    found = RULES["core-ties"](updates, MergeSettings(experts=2, density=0.4))
    U = torch.linalg.svd(torch.cat([update.B for update in updates], 1).double(), full_matrices=False).U
    V = torch.linalg.svd(torch.cat([update.A for update in updates], 0).double(), full_matrices=False).Vh.T
    cores = [U.T @ update.product().double() @ V for update in updates]
    expected = U @ ties(cores, torch.ones(2, dtype=torch.float64), 0.4) @ V.T
    torch.testing.assert_close(found.product().double(), expected, atol=1e-5, rtol=1e-4)
    assert found.rank == 5


def test_pico_weighs_a_shared_direction_less_and_keeps_the_norm() -> None:
    shared = torch.eye(30)[:, :1]
    updates = [
        Factors(A=own.A, B=torch.cat([3 * shared, own.B[:, 1:]], 1)) for own in (_random(3, 1), _random(3, 2))
    ]
    plain = RULES["mean"](updates, MergeSettings(experts=2)).product()
    found = RULES["pico"](updates, MergeSettings(experts=2)).product()
    norms = sum(float(update.norm) for update in updates) / 2
    assert float(found.norm()) == pytest.approx(norms, rel=1e-5)

    def share(update: Tensor) -> float:
        return float((shared.T @ update).norm() / update.norm())

    assert share(found) < 0.95 * share(plain)
    alone = RULES["pico"](updates[:1], MergeSettings(experts=1)).product()
    torch.testing.assert_close(alone, updates[0].product(), atol=1e-5, rtol=1e-4)


def test_pico_multiplies_each_direction_by_the_papers_factor() -> None:
    # Both B along axes: then U is the identity, and the factors can be written down.
    B = torch.zeros(4, 2)
    B[0, 0], B[1, 1] = 3.0, 1.0
    A = torch.eye(2)
    found = RULES["pico"]([Factors(A=A, B=B)] * 2, MergeSettings(experts=2)).product()
    kept = torch.tensor([1 / (1 + 0.9), 1 / (1 + 0.1)])  # shares 9 and 1 of 10
    expected = (B @ A)[:2].diagonal() * kept
    expected *= B.norm() / expected.norm()
    torch.testing.assert_close(found[:2].diagonal(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("field", "value"), [("rank", 0), ("density", 0.0), ("density", 1.0)])
def test_settings_that_no_rule_honours_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigInvalid, match=field):
        MergeSettings(experts=2, **{field: value})  # type: ignore[arg-type]


def test_an_unknown_rule_is_refused(experts: list[Expert]) -> None:
    with pytest.raises(ConfigInvalid, match="one of mean, ties"):
        _merged(experts, "soup")
