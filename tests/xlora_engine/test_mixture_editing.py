"""A mixture is changed after training: what its head learnt about the experts that stay is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.pico import pico_adapter, pico_llama
from tests.xlora_engine.conftest import Mixture
from tests.xlora_engine.saved.test_zoo_format import train_a_step
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid, ExpertMismatch
from xlora_engine.head_training.partial_training import training_only
from xlora_engine.mixture_editing import (
    LOWERED_BY,
    Outputs,
    add_expert,
    configure,
    drop_experts,
    edited_rows,
    rename_experts,
    reorder_experts,
)
from xlora_engine.model import XLoraModel

#: Of logits of size 10, in float32, where experts are added up in another order.
TOLERANCE = 2e-5

NAMES = ("bio", "protein.v2", "mat-3")

HEADS: dict[str, dict[str, Any]] = {
    "one gate": {"layerwise_scalings": False, "xlora_depth": 1},
    "layerwise": {"xlora_depth": 1},
    "depth 3": {"xlora_depth": 3},
    "without bias": {"use_bias": False},
    "raw logits": {"enable_softmax": False, "global_scaling_weight": 0.2},
    "top 2": {"top_k_lora": 2, "softmax_temperature": 0.5},
    "scaling pass of a third": {"scaling_pass_value": 1 / 3},
}


@torch.no_grad()
def logits_of(model: XLoraModel, token_ids: Tensor) -> Tensor:
    logits: Tensor = model(token_ids).logits
    return logits


def largest(difference: Tensor) -> float:
    return difference.abs().max().item()


@pytest.fixture(scope="module")
def chem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fourth expert, which also changes modules that none of the three does."""
    return pico_adapter(
        tmp_path_factory.mktemp("fourth") / "chem", seed=9, rank=5, target_modules=("q_proj", "up_proj")
    )


def by_hand(model: XLoraModel, folders: dict[str, Path], *, copies: Callable[[str], str]) -> XLoraModel:
    """A model of these experts whose head's rows are copied one by one from another's."""
    top_k = model.config.top_k_lora
    config = replace(
        model.config, adapters=tuple(folders), top_k_lora=None if top_k is None else min(top_k, len(folders))
    )
    made = XLoraModel.from_adapters(pico_llama(), folders, config)
    last = f"layers.{config.xlora_depth - 1}."
    old, state = model.head.state_dict(), made.head.state_dict()
    layers = list(model.layers)
    for key, tensor in state.items():
        if not key.startswith(last):
            tensor.copy_(old[key])
            continue
        for number, path in enumerate(made.layers if config.layerwise_scalings else [""]):
            for index, name in enumerate(folders):
                there = layers.index(path) if config.layerwise_scalings else 0
                source = there * len(model.experts) + model.config.adapters.index(copies(name))
                tensor[number * len(folders) + index] = old[key][source]
    return made.eval()


# ---------------------------------------------------------------- dropping, reordering, renaming


@pytest.mark.parametrize("head", HEADS)
def test_dropping_gives_the_logits_of_a_model_made_by_hand(
    head: str, mixture: Mixture, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = mixture(**HEADS[head])
    kept = {name: expert_folders[name] for name in ("bio", "mat-3")}
    expected = by_hand(model, kept, copies=str)
    layers = len(model.layers)

    dropped = drop_experts(model, "protein.v2")

    assert dropped.config.adapters == ("bio", "mat-3")
    assert len(dropped.layers) == len(expected.layers) < layers, "some modules only that expert changed"
    assert torch.equal(logits_of(dropped, token_ids), logits_of(expected, token_ids))


@pytest.mark.parametrize("head", HEADS)
def test_reordering_changes_no_logit_beyond_rounding(
    head: str, mixture: Mixture, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = mixture(**HEADS[head])
    before = logits_of(model, token_ids)
    order = ("mat-3", "bio", "protein.v2")
    expected = by_hand(model, {name: expert_folders[name] for name in order}, copies=str)

    reordered = reorder_experts(model, order)

    assert reordered.config.adapters == tuple(e.name for e in reordered.experts) == order
    assert torch.equal(logits_of(reordered, token_ids), logits_of(expected, token_ids))
    assert largest(logits_of(reordered, token_ids) - before) < TOLERANCE


def test_renaming_changes_nothing_else(mixture: Mixture, token_ids: Tensor, tmp_path: Path) -> None:
    model = mixture()
    before = logits_of(model, token_ids)

    renamed = rename_experts(model, {"bio": "biology", "mat-3": "bio"})

    assert renamed.config.adapters == ("biology", "protein.v2", "bio")
    assert torch.equal(logits_of(renamed, token_ids), before)
    renamed.save_pretrained(tmp_path / "saved")
    again = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())
    assert again.config.adapters == ("biology", "protein.v2", "bio")
    assert torch.equal(logits_of(again, token_ids), before)


def test_what_experts_learnt_goes_with_them(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture(use_trainable_adapters=True)
    untrained = model.experts[0].updates
    train_a_step(model, token_ids)
    before = logits_of(model, token_ids)

    again = reorder_experts(model, NAMES)

    assert torch.equal(logits_of(again, token_ids), before)
    path = next(iter(untrained))
    assert not torch.equal(again.experts[0].updates[path].B, untrained[path].B)


CHANGES: list[dict[str, Any]] = [
    {"top_k_lora": 2},
    {"global_scaling_weight": 0.3, "scaling_pass_value": 1 / 3},
    {"enable_softmax": False, "enable_softmax_topk": True, "top_k_lora": 2, "softmax_temperature": 3.0},
]


@pytest.mark.parametrize("fields", CHANGES)
def test_a_reconfigured_mixture_is_one_built_with_that_configuration(
    fields: dict[str, Any], mixture: Mixture, token_ids: Tensor
) -> None:
    expected = mixture(**fields)

    model = configure(mixture(), **fields)

    assert model.config == expected.config
    assert torch.equal(logits_of(model, token_ids), logits_of(expected, token_ids))


def test_experts_begin_and_cease_to_train(mixture: Mixture) -> None:
    def trains(model: XLoraModel) -> bool:
        return any(p.requires_grad for name, p in model.named_parameters() if not name.startswith("head."))

    training = configure(mixture(), use_trainable_adapters=True)
    assert trains(training)
    assert not trains(configure(training, use_trainable_adapters=False))


def test_a_top_k_falls_with_the_number_of_experts(mixture: Mixture) -> None:
    assert drop_experts(mixture(top_k_lora=2), "bio", "mat-3").config.top_k_lora == 1


# ---------------------------------------------------------------- adding


@pytest.mark.parametrize("head", HEADS)
def test_an_added_expert_hardly_changes_the_mixture(
    head: str, mixture: Mixture, chem: Path, token_ids: Tensor
) -> None:
    model = mixture(**HEADS[head])
    before, old_layers = logits_of(model, token_ids), set(model.layers)

    added = add_expert(model, "chem", chem, lowered_by=16.0)
    out = added(token_ids)

    assert added.config.adapters == (*NAMES, "chem")
    assert set(added.layers) - old_layers, "it changes modules that no other does"
    if head != "scaling pass of a third":  # there it changes the hidden states too
        assert largest(out.logits - before) < 1e-3
    if added.config.enable_softmax:
        assert out.scalings[..., 3].max() <= torch.e**-16 / 3 * 1.001
    else:
        assert out.scalings[..., 3].abs().max() == 0


def test_by_default_its_share_is_less_than_one_part_in_four_hundred(
    mixture: Mixture, chem: Path, token_ids: Tensor
) -> None:
    model = mixture(softmax_temperature=2.0, spread=20.0)
    before = logits_of(model, token_ids)

    added = add_expert(model, "chem", chem)
    out = added(token_ids)

    assert 0 < out.scalings[..., 3].max() <= torch.e**-LOWERED_BY / 3
    assert largest(out.logits - before) < 0.1
    level = add_expert(drop_experts(added, "chem"), "chem", chem, lowered_by=0.0)
    assert largest(logits_of(level, token_ids) - before) > 0.2, "as high as the others, it has an effect"


def test_dropping_what_was_added_gives_the_old_mixture_bit_for_bit(
    mixture: Mixture, chem: Path, token_ids: Tensor
) -> None:
    model = mixture()
    before = logits_of(model, token_ids)

    assert torch.equal(logits_of(drop_experts(add_expert(model, "chem", chem), "chem"), token_ids), before)


def test_an_edited_mixture_is_saved_and_loaded(
    mixture: Mixture, chem: Path, token_ids: Tensor, tmp_path: Path
) -> None:
    model = drop_experts(reorder_experts(add_expert(mixture(), "chem", chem), (*NAMES[::-1], "chem")), "bio")
    model.save_pretrained(tmp_path / "saved")

    again = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())

    assert again.config.adapters == ("mat-3", "protein.v2", "chem")
    assert torch.equal(logits_of(again, token_ids), logits_of(model, token_ids))


def test_a_misfit_is_refused_and_the_model_left_as_it_was(
    mixture: Mixture, token_ids: Tensor, tmp_path: Path
) -> None:
    wider = pico_adapter(tmp_path / "wider", seed=1, base=pico_llama(hidden_size=64))
    model = mixture()
    before = logits_of(model, token_ids)

    with pytest.raises(ExpertMismatch, match="expert 'wider'"):
        add_expert(model, "wider", wider)

    assert torch.equal(logits_of(model, token_ids), before)


def test_a_model_in_training_stays_so(mixture: Mixture) -> None:
    assert drop_experts(mixture().train(), "bio").training


def blocks_run(model: XLoraModel, token_ids: Tensor) -> int:
    """How often a block runs in a training step: twice, and once more where it is recomputed."""
    runs: list[None] = []
    hook = model.base.get_submodule("model.layers.0.self_attn").register_forward_hook(
        lambda *_: runs.append(None)
    )
    model.train()
    model(token_ids, labels=token_ids).loss.backward()
    hook.remove()
    return len(runs)


class Linear4bit(nn.Linear):
    """What bitsandbytes calls the layer that must not pack its weights."""


def test_after_an_edit_that_failed_weights_are_kept_from_being_packed(
    mixture: Mixture, tmp_path: Path
) -> None:
    model = mixture()
    model.base.lm_head = Linear4bit(32, 259)
    model.eval()
    assert model.base.lm_head.training
    wider = pico_adapter(tmp_path / "wider", seed=1, base=pico_llama(hidden_size=64))

    with pytest.raises(ExpertMismatch):
        add_expert(model, "wider", wider)

    assert model.base.lm_head.training


def test_a_model_that_recomputes_does_so_after_an_edit_and_after_one_that_failed(
    mixture: Mixture, chem: Path, token_ids: Tensor, tmp_path: Path
) -> None:
    model = mixture()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    wider = pico_adapter(tmp_path / "wider", seed=1, base=pico_llama(hidden_size=64))

    with pytest.raises(ExpertMismatch):
        add_expert(model, "wider", wider)

    assert blocks_run(model, token_ids) == 3
    assert blocks_run(add_expert(model, "chem", chem), token_ids) == 3
    assert blocks_run(drop_experts(mixture(), "bio"), token_ids) == 2


EDITS: dict[str, tuple[Callable[[XLoraModel, Path], Any], str]] = {
    "drop an unknown one": (lambda m, _: drop_experts(m, "geo"), "names must be experts of"),
    "drop all": (lambda m, _: drop_experts(m, *NAMES), "names must be fewer than all experts"),
    "order without one": (lambda m, _: reorder_experts(m, NAMES[:2]), "once each"),
    "order with one twice": (lambda m, _: reorder_experts(m, ("bio", "bio", "mat-3")), "once each"),
    "rename an unknown one": (lambda m, _: rename_experts(m, {"geo": "x"}), "names must be experts of"),
    "rename to a taken name": (
        lambda m, _: rename_experts(m, {"bio": "mat-3"}),
        "a list of different entries, .*'mat-3', 'protein.v2', 'mat-3'",
    ),
    "rename to no name": (lambda m, _: rename_experts(m, {"bio": "../x"}), "each a name of letters"),
    "another depth": (lambda m, _: configure(m, xlora_depth=4), "fields must be some of"),
    "top 4 of three": (lambda m, _: configure(m, top_k_lora=4), "top_k_lora must be a whole number in 1..3"),
    "add a taken name": (
        lambda m, chem: add_expert(m, "bio", chem),
        "a list of different entries, .*'mat-3', 'bio'",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_impossible_edit_is_refused_and_the_model_left_as_it_was(
    edit: str, mixture: Mixture, chem: Path, token_ids: Tensor
) -> None:
    change, reason = EDITS[edit]
    model = mixture()
    before = logits_of(model, token_ids)

    with pytest.raises(ConfigInvalid, match=reason):
        change(model, chem)

    assert torch.equal(logits_of(model, token_ids), before)


# ---------------------------------------------------------------- rows of the output layer

names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)


@given(old=names, new=names, layers=names, new_layers=names)
def test_every_row_that_stays_is_unchanged(
    old: list[str], new: list[str], layers: list[str], new_layers: list[str]
) -> None:
    before = Outputs(layers=tuple(layers), experts=tuple(old))
    after = Outputs(layers=tuple(new_layers), experts=tuple(new))
    rows = torch.arange(len(layers) * len(old) * 2.0).view(-1, 2)

    edited = edited_rows(rows, before, after, shift=-1.0)

    assert edited.shape == (len(new_layers) * len(new), 2)
    for i, layer in enumerate(new_layers):
        for j, name in enumerate(new):
            if layer in layers and name in old:
                source = layers.index(layer) * len(old) + old.index(name)
                assert torch.equal(edited[i * len(new) + j], rows[source])


def test_a_new_layer_or_expert_has_the_mean_of_the_others() -> None:
    before = Outputs(layers=("a", "b"), experts=("x", "y"))
    after = Outputs(layers=("c", "b"), experts=("x", "new", "y"))

    edited = edited_rows(torch.tensor([1.0, 3.0, 5.0, 9.0]), before, after, shift=-2.0)

    assert edited.tolist() == [3.0, 4.5 - 2.0, 6.0, 5.0, 7.0 - 2.0, 9.0]


# ---------------------------------------------------------------- training what is new


@pytest.mark.parametrize("head", ["one gate", "depth 3", "without bias"])
def test_only_the_rows_of_the_new_expert_learn(
    head: str, mixture: Mixture, chem: Path, token_ids: Tensor
) -> None:
    model = add_expert(mixture(**HEADS[head], xlora_dropout_p=0.0), "chem", chem, lowered_by=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    model.train()
    losses = []

    with training_only(model, ["chem"]) as parameters:
        optimiser = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1)
        for _ in range(6):
            loss = model(token_ids, labels=token_ids).loss
            optimiser.zero_grad()
            loss.backward()
            assert all(p.grad is None for p in model.parameters() if not any(p is q for q in parameters))
            optimiser.step()
            losses.append(loss.item())

    last = f"head.layers.{model.config.xlora_depth - 1}."
    for name, tensor in model.state_dict().items():
        if not name.startswith(last):
            assert torch.equal(tensor, before[name]), name
            continue
        is_new = torch.arange(len(tensor)) % 4 == 3
        assert torch.equal(tensor[~is_new], before[name][~is_new]), name
        assert not torch.equal(tensor[is_new], before[name][is_new]), name
    assert losses[-1] < losses[0]
    assert {id(p) for p in model.parameters() if p.requires_grad} == trained


def test_afterwards_everything_learns_again(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture(xlora_depth=1)
    with training_only(model, ["bio"]):
        pass
    before = next(model.head.parameters()).detach().clone()

    train_a_step(model, token_ids)
    torch.optim.SGD(model.head.parameters(), lr=0.1).step()

    rows = (next(model.head.parameters()).detach() != before).any(-1)
    assert rows.view(-1, 3).any(0).all(), "rows of every expert"


def test_an_unknown_expert_cannot_be_trained(mixture: Mixture) -> None:
    with (
        pytest.raises(ConfigInvalid, match="experts must be some of"),
        training_only(mixture(), ["geo"]),
    ):
        pass


def test_outputs_of_one_gate_have_one_layer() -> None:
    config = XLoraConfig(adapters=("a", "b"))

    assert Outputs.of(("x", "y"), config).layers == ("",)
    assert Outputs.of(("x", "y"), replace(config, layerwise_scalings=True)).layers == ("x", "y")
