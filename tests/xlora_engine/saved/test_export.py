"""Exported models give the same logits when read again, or the export is refused by a field's name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_llama
from tests.xlora_engine.conftest import Mixture
from tests.xlora_engine.peft_reference import peft_logits, quiet_peft
from tests.xlora_engine.saved.test_zoo_format import train_a_step
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import (
    ConfigInvalid,
    NotRepresentable,
    SavedFileUnreadable,
    SavedModelInvalid,
)
from xlora_engine.model import XLoraModel
from xlora_engine.saved import mistralrs_format, original_format, peft_format
from xlora_engine.saved.foreign_config import Dialect
from xlora_engine.saved.formats import EXPORTED, format_of, read_model, write_model

#: Of logits of size 10, in float32, between two implementations.
TOLERANCE = 2e-5

#: Configurations that all three other implementations compute.
COMMON: dict[str, dict[str, Any]] = {
    "depth 1": {"xlora_depth": 1, "layerwise_scalings": False},
    "depth 2": {"xlora_depth": 2},
    "depth 4": {"xlora_depth": 4, "layerwise_scalings": False},
    "depth 3 without dropout": {"xlora_depth": 3, "xlora_dropout_p": 0.0},
    "without bias": {"xlora_depth": 2, "use_bias": False},
    "top 2 and temperature": {"top_k_lora": 2, "softmax_temperature": 0.5},
    "raw logits": {"enable_softmax": False, "global_scaling_weight": 0.3},
    "scaling pass of a third": {"scaling_pass_value": 1 / 3},
    "trained experts": {"use_trainable_adapters": True},
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three experts that change the same modules, in every block, with ranks and scales of their own."""
    root = tmp_path_factory.mktemp("adapters")
    return {
        "bio": pico_adapter(root / "bio", seed=1, rank=4, target_modules=ALL_PROJECTIONS),
        "protein": pico_adapter(
            root / "protein", seed=2, rank=6, alpha=3, use_rslora=True, target_modules=ALL_PROJECTIONS
        ),
        "chem": pico_adapter(root / "chem", seed=3, rank=3, target_modules=ALL_PROJECTIONS),
    }


def composed(adapters: dict[str, Path], **config: Any) -> XLoraModel:
    fields = {"xlora_size": 16, "layerwise_scalings": True} | config
    model = XLoraModel.from_adapters(pico_llama(), adapters, XLoraConfig(**fields))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(4)
    return model.eval()


@torch.no_grad()
def logits_of(model: XLoraModel, token_ids: Tensor) -> Tensor:
    logits: Tensor = model(token_ids).logits
    return logits


@pytest.mark.parametrize("layout", EXPORTED)
@pytest.mark.parametrize("mode", COMMON)
def test_a_round_trip_keeps_every_logit(
    mode: str, layout: str, adapters: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    model = composed(adapters, **COMMON[mode])
    train_a_step(model, token_ids)

    model.export(tmp_path / "saved", layout, base_id="owner/base")
    again = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())

    assert format_of(tmp_path / "saved") == layout
    # mistral.rs is given alpha / r alone, and alpha = scale · r may round another way.
    limit = TOLERANCE if layout == "mistralrs" else 0.0
    assert (logits_of(again, token_ids) - logits_of(model, token_ids)).abs().max() <= limit
    assert again.config.xlora_depth == model.config.xlora_depth


def test_experts_of_different_modules_ranks_and_patterns_survive(
    mixture: Mixture, token_ids: Tensor, tmp_path: Path
) -> None:
    model = mixture()
    for layout in ("xlora", "peft"):
        model.export(tmp_path / layout, layout)
        again = XLoraModel.from_pretrained(tmp_path / layout, pico_llama())
        assert torch.equal(logits_of(again, token_ids), logits_of(model, token_ids)), layout


def test_a_linear_head_survives_where_the_format_can_say_so(
    mixture: Mixture, token_ids: Tensor, tmp_path: Path
) -> None:
    model = mixture(xlora_depth=3, enable_relu_and_dropout=False)
    model.export(tmp_path / "saved", "xlora")

    names = load_file(tmp_path / "saved" / "xlora_classifier.safetensors")
    assert sorted(n for n in names if n.endswith("weight")) == [
        "inner.0.weight",
        "inner.1.weight",
        "last.weight",
    ]
    again = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())
    assert torch.equal(logits_of(again, token_ids), logits_of(model, token_ids))


PEFT_MODES = {
    **{k: v for k, v in COMMON.items() if k != "trained experts"},
    "softmax over the top 2": {"top_k_lora": 2, "enable_softmax": False, "enable_softmax_topk": True},
}


@pytest.mark.parametrize("mode", PEFT_MODES)
def test_peft_reads_what_is_written_for_it_with_equal_logits(
    mode: str, mixture: Mixture, token_ids: Tensor, tmp_path: Path
) -> None:
    model = mixture(**PEFT_MODES[mode])
    model.export(tmp_path / "saved", "peft")

    base = pico_llama()
    base.config.use_cache = False
    with quiet_peft():
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "saved")
    theirs.eval()

    assert (peft_logits(theirs, token_ids)[0] - logits_of(model, token_ids)).abs().max() < TOLERANCE


def test_the_original_names_its_layers_with_relu_and_dropout_counted(
    mixture: Mixture, tmp_path: Path
) -> None:
    mixture(xlora_depth=3).export(tmp_path / "saved", "xlora", base_id="owner/base")

    config = json.loads((tmp_path / "saved" / "xlora_config.json").read_text())
    assert config["adapters"] == ["bio", "protein.v2", "mat-3"]
    assert config["base_model_id"] == "owner/base"
    names = load_file(tmp_path / "saved" / "xlora_classifier.safetensors")
    assert {name.rpartition(".")[0] for name in names} == {"inner.0", "inner.3", "last"}


# ---------------------------------------------------------------- mistral.rs


def test_mistral_rs_gets_its_names_its_ordering_and_no_dropout(
    adapters: dict[str, Path], tmp_path: Path
) -> None:
    model = composed(adapters, xlora_depth=3)
    model.export(tmp_path / "saved", "mistralrs", base_id="owner/base")

    ordering = json.loads((tmp_path / "saved" / "xlora-ordering.json").read_text())
    assert ordering["order"] == ["bio", "protein", "chem"]
    assert ordering["base_model_id"] == "owner/base"
    assert len(ordering["layers"]) == 14
    assert ordering["layers"]["model.layers.0.self_attn.q_proj"] == 0
    assert ordering["layers"]["model.layers.1.mlp.down_proj"] == 13
    config = json.loads((tmp_path / "saved" / "xlora_config.json").read_text())
    assert config["base_model_id"] == ordering["base_model_id"], "mistral.rs compares them"
    assert config["xlora_dropout_p"] == 0, "its head would drop out while answering"
    assert {"enable_relu_and_dropout", "xlora_size"} <= config.keys(), "its own defaults differ"
    names = load_file(tmp_path / "saved" / "xlora_classifier.safetensors")
    assert {name.rpartition(".")[0] for name in names} == {"inner.0", "inner.1", "last"}
    targets = set()
    for name in adapters:
        expert = json.loads((tmp_path / "saved" / f"{name}_adapter_config.json").read_text())
        targets.add(frozenset(expert["target_modules"]))
        assert not expert["use_rslora"]
    assert len(targets) == 1, "it refuses experts of different targets"
    protein = json.loads((tmp_path / "saved" / "protein_adapter_config.json").read_text())
    assert protein["lora_alpha"] / protein["r"] == pytest.approx(3 / 6**0.5)


@pytest.fixture
def for_mistralrs(adapters: dict[str, Path], tmp_path: Path) -> Path:
    composed(adapters, xlora_depth=2).export(tmp_path / "saved", "mistralrs", base_id="owner/base")
    return tmp_path / "saved"


def change_ordering(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "xlora-ordering.json"
    ordering = json.loads(path.read_text())
    change(ordering)
    path.write_text(json.dumps(ordering))


def test_without_layer_numbers_the_first_scalings_are_for_all_layers(
    adapters: dict[str, Path], token_ids: Tensor, for_mistralrs: Path
) -> None:
    change_ordering(for_mistralrs, lambda o: o.pop("layers"))
    model = composed(adapters, xlora_depth=2)
    with torch.no_grad():
        scalings = model.head(model.scaling_pass(token_ids))[:, :, :1]
        expected: Any = model.mixture_pass(scalings, input_ids=token_ids).logits

    again = XLoraModel.from_pretrained(for_mistralrs, pico_llama())

    assert not again.config.layerwise_scalings
    assert (logits_of(again, token_ids) - expected).abs().max() < TOLERANCE


ORDERINGS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another order of layers": (
        lambda o: o.update(layers={path: 13 - index for path, index in o["layers"].items()}),
        "in that order",
    ),
    "an index given twice": (lambda o: o["layers"].update({next(iter(o["layers"])): 1}), "its own index"),
    "indices that are no numbers": (lambda o: o.update(layers={"a": "0"}), "its own index"),
    "layers as a list": (lambda o: o.update(layers=["a"]), "its own index"),
    "another order of experts": (lambda o: o["order"].reverse(), "orders the experts"),
}


@pytest.mark.parametrize("change", ORDERINGS)
def test_an_ordering_that_contradicts_the_model_is_refused(change: str, for_mistralrs: Path) -> None:
    alter, reason = ORDERINGS[change]
    change_ordering(for_mistralrs, alter)

    with pytest.raises(SavedFileUnreadable, match=reason):
        XLoraModel.from_pretrained(for_mistralrs, pico_llama())


def test_fields_left_out_have_the_defaults_of_mistral_rs(
    adapters: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    model = composed(adapters, xlora_depth=2, enable_relu_and_dropout=False, xlora_size=1)
    model.export(tmp_path / "saved", "xlora", base_id="owner/base")
    ordering = {"layers": {path: index for index, path in enumerate(model.layers)}}
    (tmp_path / "saved" / "xlora-ordering.json").write_text(json.dumps(ordering))
    path = tmp_path / "saved" / "xlora_config.json"
    config = json.loads(path.read_text())
    for field in ("enable_relu_and_dropout", "xlora_size"):
        del config[field]
    path.write_text(json.dumps(config))

    again = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())

    assert (logits_of(again, token_ids) - logits_of(model, token_ids)).abs().max() < TOLERANCE


# ---------------------------------------------------------------- what a format cannot say


def pico_named(root: Path, *names: str, **kwargs: Any) -> dict[str, Path]:
    return {
        name: pico_adapter(root / name, seed=seed, rank=2, **{"target_modules": ("q_proj",)} | kwargs)
        for seed, name in enumerate(names)
    }


TOP_K: dict[str, Any] = {"top_k_lora": 2, "enable_softmax": False, "enable_softmax_topk": True}

#: layout, configuration, experts, base, and the field that is named.
CANNOT: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "peft, a linear head": ("peft", {"xlora_depth": 2, "enable_relu_and_dropout": False}, {}, "enable_relu"),
    "peft, top k and a scaling pass": (
        "peft",
        {"top_k_lora": 1, "scaling_pass_value": 0.5},
        {},
        "scaling_pass_value",
    ),
    "peft, a temperature of the top k": (
        "peft",
        {**TOP_K, "softmax_temperature": 2.0},
        {},
        "softmax_temperature",
    ),
    "peft, the output layer": ("peft", {}, {"target_modules": ("lm_head",)}, "target_modules"),
    "xlora, softmax over the top k": ("xlora", TOP_K, {}, "enable_softmax_topk"),
    "xlora, top k and a scaling pass": (
        "xlora",
        {"top_k_lora": 1, "scaling_pass_value": 0.5},
        {},
        "scaling_pass_value",
    ),
    "mistralrs, softmax over the top k": ("mistralrs", TOP_K, {}, "enable_softmax_topk"),
    "peft, the best expert at unit scale": ("peft", {"unit_top_1": True}, {}, "unit_top_1"),
    "xlora, sigmoids": ("xlora", {"enable_softmax": False, "sigmoid_floor": 0.1}, {}, "sigmoid_floor"),
    "mistralrs, the best expert at unit scale": ("mistralrs", {"unit_top_1": True}, {}, "unit_top_1"),
    "mistralrs, the output layer": ("mistralrs", {}, {"target_modules": ("lm_head",)}, "target_modules"),
    "mistralrs, one block alone": (
        "mistralrs",
        {},
        {"target_modules": ("q_proj",), "layers_to_transform": [1]},
        "layers_to_transform",
    ),
    "mistralrs, ranks by module": (
        "mistralrs",
        {},
        {"target_modules": ("q_proj", "v_proj"), "rank_pattern": {"v_proj": 3}},
        "rank_pattern",
    ),
    "mistralrs, alphas by module": (
        "mistralrs",
        {},
        {"target_modules": ("q_proj", "v_proj"), "alpha_pattern": {"v_proj": 3}},
        "alpha_pattern",
    ),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_a_format_cannot_say_is_refused_by_the_fields_name(case: str, tmp_path: Path) -> None:
    layout, config, targets, field = CANNOT[case]
    with quiet_peft():
        adapters = pico_named(tmp_path, "bio", "chem", "math", **targets)
    model = composed(adapters, **config)

    with pytest.raises(NotRepresentable, match=f"^the {layout} format cannot represent {field}") as refused:
        model.export(tmp_path / "out", layout, base_id="owner/base")

    assert refused.value.code == "ZOO-E326"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bio", "chem", "math"], (
        "nothing is left behind"
    )


@pytest.mark.parametrize("dialect", [original_format.DIALECT, peft_format.DIALECT, mistralrs_format.DIALECT])
def test_a_field_that_another_implementation_lacks_is_left_out_or_refused(dialect: Dialect) -> None:
    without = replace(dialect, shared=dialect.shared - {"global_scaling_weight"})

    assert "global_scaling_weight" not in without.written(XLoraConfig())
    with pytest.raises(NotRepresentable, match="cannot represent global_scaling_weight: there is no such"):
        without.written(XLoraConfig(global_scaling_weight=0.5))


def test_mistral_rs_takes_no_name_within_another(tmp_path: Path) -> None:
    model = composed(pico_named(tmp_path, "adapter_1", "adapter_10"))

    with pytest.raises(
        NotRepresentable, match=r"adapters: it would take adapter_10_.* for expert 'adapter_1'"
    ):
        model.export(tmp_path / "out", "mistralrs", base_id="owner/base")


def test_mistral_rs_wants_experts_of_the_same_modules_and_the_bases_name(
    mixture: Mixture, adapters: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(NotRepresentable, match="target_modules: all experts must adapt the same modules"):
        mixture().export(tmp_path / "out", "mistralrs", base_id="owner/base")
    with pytest.raises(NotRepresentable, match="base_model_id: it must be the model that mistral"):
        composed(adapters).export(tmp_path / "out", "mistralrs")


def test_the_bases_name_on_the_hub_is_kept_and_a_folders_is_not(
    adapters: dict[str, Path], tmp_path: Path
) -> None:
    model = composed(adapters)
    for loaded_from, kept in (("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"), ("/home/me", "")):
        model.base.name_or_path = loaded_from
        model.export(tmp_path / kept.replace("/", "-") / "out", "xlora")
        config = json.loads((tmp_path / kept.replace("/", "-") / "out" / "xlora_config.json").read_text())
        assert config["base_model_id"] == kept


def test_an_export_touches_no_folder_that_holds_something(mixture: Mixture, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")

    with pytest.raises(SavedModelInvalid, match="is not empty; export to a new folder"):
        mixture().export(tmp_path / "out", "xlora")

    (tmp_path / "empty").mkdir()
    mixture().export(tmp_path / "empty", "xlora")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    assert format_of(tmp_path / "empty") == "xlora"


def test_an_unknown_format_is_refused(mixture: Mixture, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="format must be one of zoo, mistralrs, xlora, peft, got 'gguf'"):
        mixture().export(tmp_path / "out", "gguf")


def test_a_saved_model_is_converted_without_its_base(
    adapters: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    model = composed(adapters, xlora_depth=2)
    model.save_pretrained(tmp_path / "own")

    saved = replace(read_model(tmp_path / "own"), base_id="owner/base")
    for layout in EXPORTED:
        write_model(saved, tmp_path / layout, layout)
        again = XLoraModel.from_pretrained(tmp_path / layout, pico_llama())
        assert (logits_of(again, token_ids) - logits_of(model, token_ids)).abs().max() < TOLERANCE, layout
