"""Saved models of the original package, PEFT and mistral.rs are read exactly, or refused with the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GemmaConfig, GemmaForCausalLM, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_llama
from tests.xlora_engine.foreign_folders import original_folder, peft_folder, peft_model, pollute
from tests.xlora_engine.peft_reference import peft_logits, quiet_peft
from tests.xlora_engine.slow_reference import slow_logits
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import (
    ConfigInvalid,
    EngineError,
    ExpertNotFound,
    ExpertUnreadable,
    HeadIncomplete,
    NotRepresentable,
    PickleRefused,
    SavedFileUnreadable,
)
from xlora_engine.mixture.layer import MixtureLayer
from xlora_engine.model import XLoraModel
from xlora_engine.saved.formats import format_of

#: Largest absolute difference of logits of size 10, in float32: only the order of additions differs.
TOLERANCE = 2e-5


def difference(ours: Tensor, theirs: Tensor) -> float:
    return (ours - theirs).abs().max().item()


def layer_count(folders: dict[str, Path]) -> int:
    return len(XLoraModel.from_adapters(pico_llama(), folders).layers)


def slow(folders: dict[str, Path], head: Any, config: dict[str, Any], token_ids: Tensor) -> Tensor:
    fields = {name: config[name] for name in XLoraConfig().to_json() if name in config}
    if not fields["enable_softmax"]:
        fields["softmax_temperature"] = 1.0  # nothing is divided by it
    ours = XLoraConfig(**fields | {"adapters": tuple(folders)})
    return slow_logits(pico_llama(), list(folders.values()), head, ours, token_ids)[0]


# ---------------------------------------------------------------- the original package

ORIGINALS: dict[str, dict[str, Any]] = {
    "depth 1": {},
    "depth 1, layerwise": {"layerwise_scalings": True},
    "depth 2": {"xlora_depth": 2, "layerwise_scalings": True},
    "depth 4": {"xlora_depth": 4},
    "depth 4, linear": {"xlora_depth": 4, "enable_relu_and_dropout": False, "layerwise_scalings": True},
    "depth 2, linear, without bias": {
        "xlora_depth": 2,
        "enable_relu_and_dropout": False,
        "use_bias": False,
    },
    "without bias": {"xlora_depth": 3, "use_bias": False},
    "bfloat16": {"xlora_depth": 2, "dtype": torch.bfloat16, "layerwise_scalings": True},
    "top 2, temperature, weight": {
        "top_k_lora": 2,
        "softmax_temperature": 0.5,
        "global_scaling_weight": 0.7,
    },
    "scaling pass of a third": {"scaling_pass_value": 1 / 3, "layerwise_scalings": True},
    "a temperature without softmax": {"enable_softmax": False, "softmax_temperature": 3.0},
    "adapters with paths of elsewhere": {
        "adapters": {name: f"/content/{name}" for name in ("bio", "protein.v2", "mat-3")}
    },
    "fields of older versions": {"stop_token_id": 2, "device": "cuda", "use_mean_pool": False},
}


@pytest.mark.parametrize("mode", ORIGINALS)
def test_an_original_folder_gives_the_logits_of_the_slow_loop(
    mode: str, expert_folders: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    layers = layer_count(expert_folders)
    head, config = original_folder(tmp_path / "saved", expert_folders, layers=layers, **ORIGINALS[mode])

    model = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())
    with torch.no_grad():
        logits = model(token_ids).logits

    assert format_of(tmp_path / "saved") == "xlora"
    assert model.config.adapters == ("bio", "protein.v2", "mat-3")
    assert difference(logits, slow(expert_folders, head, config, token_ids)) < TOLERANCE
    with model.disabled(), torch.no_grad():
        assert difference(logits, model(token_ids).logits) > 0.1, "the experts must have an effect"


def test_fields_an_old_file_lacks_have_the_defaults_of_the_original_package(
    expert_folders: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    head, config = original_folder(tmp_path / "saved", expert_folders, layers=layer_count(expert_folders))
    file = tmp_path / "saved" / "xlora_config.json"
    file.write_text(json.dumps({"hidden_size": 32, "adapters": list(expert_folders)}))

    with torch.no_grad():
        logits = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())(token_ids).logits

    assert difference(logits, slow(expert_folders, head, config, token_ids)) < TOLERANCE


def test_a_file_that_names_no_experts_wants_them_in_the_order_of_training(
    expert_folders: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    head, config = original_folder(saved, expert_folders, layers=layer_count(expert_folders))
    file = saved / "xlora_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "adapters"}))

    with pytest.raises(SavedFileUnreadable, match="names no experts; give them in the order"):
        XLoraModel.from_pretrained(saved, pico_llama())

    with torch.no_grad():
        logits = XLoraModel.from_pretrained(saved, pico_llama(), adapters=expert_folders)(token_ids).logits
    assert difference(logits, slow(expert_folders, head, config, token_ids)) < TOLERANCE


def test_more_than_nine_experts_keep_the_order_of_the_configuration(
    token_ids: Tensor, tmp_path: Path
) -> None:
    """In a listing, adapter_10 comes before adapter_2; the original package permuted them so."""
    folders = {f"adapter_{i}": pico_adapter(tmp_path / f"{i}", seed=i, rank=2) for i in range(1, 12)}
    head, config = original_folder(tmp_path / "saved", folders, layers=4, layerwise_scalings=True)

    with torch.no_grad():
        logits = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())(token_ids).logits

    assert difference(logits, slow(folders, head, config, token_ids)) < TOLERANCE


def small_mistral() -> MistralForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = MistralForCausalLM(MistralConfig(**_SMALL, sliding_window=None))
    model.train(False)
    return model


def small_gemma() -> GemmaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = GemmaForCausalLM(GemmaConfig(**_SMALL, head_dim=8))
    model.train(False)
    return model


_SMALL: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}

#: Published layout -> base, experts, their targets, its configuration file as published, but for sizes.
PUBLISHED: dict[str, tuple[Callable[[], Any], int, tuple[str, ...], dict[str, Any]]] = {
    "lamm-mit/x-lora": (
        small_mistral,
        9,
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"),
        {
            "base_model_id": "HuggingFaceH4/zephyr-7b-beta",
            "layerwise_scalings": True,
            "xlora_depth": 1,
            "xlora_size": 2048,
            "dtype": torch.bfloat16,
        },
    ),
    "lamm-mit/x-lora-gemma-7b": (
        small_gemma,
        4,
        ALL_PROJECTIONS,
        {
            "base_model_id": "google/gemma-7b-it",
            "layerwise_scalings": True,
            "xlora_depth": 2,
            "xlora_size": 2048,
            "adapters": {f"adapter_{i}": f"lamm-mit/x-lora-gemma-7b/adapter_{i}" for i in range(1, 5)},
            "dtype": torch.bfloat16,
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_layouts_load(name: str, token_ids: Tensor, tmp_path: Path) -> None:
    base, count, targets, fields = PUBLISHED[name]
    folders = {
        f"adapter_{i}": pico_adapter(
            tmp_path / f"{i}", seed=i, rank=4, alpha=4, target_modules=targets, base=base()
        )
        for i in range(1, count + 1)
    }
    layers = 2 * len(targets)
    head, config = original_folder(tmp_path / "saved", folders, layers=layers, **fields)
    expected, _ = slow_logits(
        base(),
        list(folders.values()),
        head,
        XLoraConfig(adapters=tuple(folders), hidden_size=32, layerwise_scalings=True, xlora_size=2048),
        token_ids,
    )

    model = XLoraModel.from_pretrained(tmp_path / "saved", base())
    with torch.no_grad():
        logits = model(token_ids).logits

    assert (len(model.layers), len(model.experts)) == (layers, count)
    assert model.config.xlora_depth == config["xlora_depth"]
    assert difference(logits, expected) < TOLERANCE


# ---------------------------------------------------------------- PEFT

PEFT_MODES: dict[str, dict[str, Any]] = {
    "depth 1": {},
    "depth 1, layerwise": {"layerwise_scalings": True},
    "depth 2": {"xlora_depth": 2, "layerwise_scalings": True},
    "depth 4": {"xlora_depth": 4},
    "depth 2 without dropout": {"xlora_depth": 2, "xlora_dropout_p": 0.0},
    "depth 4 without dropout": {"xlora_depth": 4, "xlora_dropout_p": 0.0, "layerwise_scalings": True},
    "softmax over the top 2": {"top_k_lora": 2, "enable_softmax": False, "enable_softmax_topk": True},
    "scaling pass of a third": {"scaling_pass_value": 1 / 3, "global_scaling_weight": 0.6},
}


@pytest.mark.parametrize("mode", PEFT_MODES)
def test_a_peft_folder_gives_the_logits_of_peft(
    mode: str, expert_folders: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    theirs = peft_model(pico_llama(), list(expert_folders.values()), **PEFT_MODES[mode])
    saved = peft_folder(tmp_path / "saved", theirs)

    given = dict(zip("012", expert_folders.values(), strict=True))
    model = XLoraModel.from_pretrained(saved, pico_llama(), adapters=given)
    with torch.no_grad():
        logits = model(token_ids).logits

    assert format_of(saved) == "peft"
    assert difference(logits, peft_logits(theirs, token_ids)[0]) < TOLERANCE


@pytest.fixture(scope="module")
def peft_saved(
    expert_folders: dict[str, Path], token_ids: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Tensor]:
    """A PEFT folder of depth 2, whose experts are not where they were trained; and PEFT's logits."""
    root = tmp_path_factory.mktemp("peft")
    trained = {n: Path(shutil.copytree(f, root / "there" / n)) for n, f in expert_folders.items()}
    model = peft_model(pico_llama(), list(trained.values()), xlora_depth=2, layerwise_scalings=True)
    logits, _ = peft_logits(model, token_ids)
    saved = peft_folder(root / "saved", model)
    shutil.rmtree(root / "there")
    return saved, logits


def test_experts_that_moved_are_asked_for_and_may_be_given_names(
    peft_saved: tuple[Path, Tensor], expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    saved, logits = peft_saved

    with pytest.raises(ExpertNotFound, match=r"no folder of expert '0' \(trained from '.*bio'\); say where"):
        XLoraModel.from_pretrained(saved, pico_llama())
    with pytest.raises(ConfigInvalid, match=r"adapters must be folders of experts in \('0', '1', '2'\)"):
        XLoraModel.from_pretrained(saved, pico_llama(), adapters={"bio": expert_folders["bio"]})

    model = XLoraModel.from_pretrained(saved, pico_llama(), adapters=expert_folders)
    assert model.config.adapters == ("bio", "protein.v2", "mat-3")
    with torch.no_grad():
        assert difference(model(token_ids).logits, logits) < TOLERANCE


@pytest.mark.parametrize("named_by", ["position", "last part of its path"])
def test_experts_beside_the_configuration_are_found(
    named_by: str,
    peft_saved: tuple[Path, Tensor],
    expert_folders: dict[str, Path],
    token_ids: Tensor,
    tmp_path: Path,
) -> None:
    saved = Path(shutil.copytree(peft_saved[0], tmp_path / "saved"))
    for position, (name, folder) in enumerate(expert_folders.items()):
        last = {"bio": "bio", "protein.v2": "protein.v2", "mat-3": "mat-3"}[name]
        shutil.copytree(folder, saved / (str(position) if named_by == "position" else last))

    with torch.no_grad():
        logits = XLoraModel.from_pretrained(saved, pico_llama())(token_ids).logits

    assert difference(logits, peft_saved[1]) < TOLERANCE


def test_an_expert_is_found_among_tensors_of_the_base_and_of_other_experts(
    peft_saved: tuple[Path, Tensor], expert_folders: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    saved = Path(shutil.copytree(peft_saved[0], tmp_path / "saved"))
    for position, folder in enumerate(expert_folders.values()):
        pollute(folder, saved / str(position), version="0.19.1")

    with torch.no_grad():
        logits = XLoraModel.from_pretrained(saved, pico_llama())(token_ids).logits

    assert difference(logits, peft_saved[1]) < TOLERANCE


def test_names_that_peft_0_12_allowed_are_kept(
    peft_saved: tuple[Path, Tensor], expert_folders: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    saved = Path(shutil.copytree(peft_saved[0], tmp_path / "saved"))
    path = saved / "adapter_config.json"
    config = json.loads(path.read_text())
    config["adapters"] = {name: f"/content/{name}" for name in expert_folders}
    del config["peft_version"]
    path.write_text(json.dumps(config))

    model = XLoraModel.from_pretrained(saved, pico_llama(), adapters=dict(reversed(expert_folders.items())))

    assert model.config.adapters == tuple(expert_folders), "the file's order, not that of the argument"
    with torch.no_grad():
        assert difference(model(token_ids).logits, peft_saved[1]) < TOLERANCE


@pytest.mark.parametrize("version", ["0.20.0", "0.21.0", "0.21.2"])
def test_an_expert_that_peft_cut_short_is_refused(
    version: str, peft_saved: tuple[Path, Tensor], expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    saved = Path(shutil.copytree(peft_saved[0], tmp_path / "saved"))
    for position, folder in enumerate(expert_folders.values()):
        pollute(folder, saved / str(position), version=version)

    with pytest.raises(ExpertUnreadable, match=rf"expert '0': PEFT {version} lost tensors .*adapters="):
        XLoraModel.from_pretrained(saved, pico_llama())


@pytest.mark.parametrize(("depth", "dropout", "missing"), [(1, 0.2, "0"), (2, 0.2, "0"), (4, 0.0, "0, 2")])
def test_a_head_that_peft_damaged_when_it_saved_is_refused_with_the_reason(
    depth: int, dropout: float, missing: str, expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    live = peft_model(pico_llama(), list(expert_folders.values()), xlora_depth=depth, xlora_dropout_p=dropout)
    with quiet_peft():
        live.save_pretrained(tmp_path / "saved", save_embedding_layers=False)  # type: ignore[operator]
    base = pico_llama()

    with pytest.raises(
        HeadIncomplete, match=rf"layers {missing} of the scaling head: PEFT 0\.20 to 0\.21\.2"
    ) as e:
        XLoraModel.from_pretrained(tmp_path / "saved", base)

    assert e.value.code == "ZOO-E324"
    assert not any(isinstance(module, MixtureLayer) for module in base.modules())


# ---------------------------------------------------------------- what is refused


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "xlora_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def drop_layer(folder: Path, prefix: str) -> None:
    path = folder / "xlora_classifier.safetensors"
    save_file({k: t for k, t in load_file(path).items() if not k.startswith(prefix)}, path)


def pickle_head(folder: Path) -> None:
    (folder / "xlora_classifier.safetensors").rename(folder / "xlora_classifier.pt")


Damage = Callable[[Path], Any]

REFUSED: dict[str, tuple[Damage, type[EngineError], str]] = {
    "a pickled head": (
        pickle_head,
        PickleRefused,
        r"weights_only=True\), 'xlora_classifier.safetensors'",
    ),
    "no head": (
        lambda f: (f / "xlora_classifier.safetensors").unlink(),
        SavedFileUnreadable,
        "is missing; if there is a xlora_classifier.pt, convert it",
    ),
    "half a head": (
        lambda f: (f / "xlora_classifier.safetensors").write_bytes(b"\x10"),
        SavedFileUnreadable,
        "cannot read",
    ),
    "no inner layer": (lambda f: drop_layer(f, "inner.0"), HeadIncomplete, "holds 1 inner layers and a last"),
    "no last layer": (lambda f: drop_layer(f, "last"), HeadIncomplete, "and no last one"),
    "a layer of something else": (
        lambda f: save_file({"score.weight": torch.ones(1)}, f / "xlora_classifier.safetensors"),
        SavedFileUnreadable,
        "'score.weight', which is no layer of a head",
    ),
    "ReLUs in the numbers of layers, none in the configuration": (
        lambda f: change_config(f, enable_relu_and_dropout=False),
        SavedFileUnreadable,
        r"numbers its layers \[0, 3\], with ReLU .* enable_relu_and_dropout off",
    ),
    "a head of fewer layers": (
        lambda f: change_config(f, layerwise_scalings=True),
        SavedFileUnreadable,
        "the scaling head does not fit",
    ),
    "a configuration that is no JSON": (
        lambda f: (f / "xlora_config.json").write_text("{'a': 1}"),
        SavedFileUnreadable,
        "cannot read",
    ),
    "a configuration that is a list": (
        lambda f: (f / "xlora_config.json").write_text("[]"),
        SavedFileUnreadable,
        "must hold a JSON object",
    ),
    "adapters of another type": (
        lambda f: change_config(f, adapters="bio"),
        SavedFileUnreadable,
        "adapters must be a list of names",
    ),
    "a name that climbs out": (
        lambda f: change_config(f, adapters=["../../x"]),
        SavedFileUnreadable,
        "xlora_config.json: adapters must be a list of different entries, each a name of",
    ),
    "an expert that is not there": (
        lambda f: shutil.rmtree(f / "bio"),
        ExpertNotFound,
        "no folder of expert 'bio'; say where it is",
    ),
    "a field out of range": (
        lambda f: change_config(f, xlora_dropout_p=2),
        SavedFileUnreadable,
        "xlora_config.json: xlora_dropout_p must be a number from 0 to below 1",
    ),
    "an unknown switch": (
        lambda f: change_config(f, use_mean_pool=True),
        NotRepresentable,
        "cannot represent use_mean_pool: True asks for something unknown",
    ),
    "a softmax over all tokens": (
        lambda f: change_config(f, enable_softmax=False, enable_softmax_topk=True, top_k_lora=2),
        NotRepresentable,
        "cannot represent enable_softmax_topk: the original package normalises over all tokens",
    ),
    "top k in the scaling pass": (
        lambda f: change_config(f, top_k_lora=2, scaling_pass_value=0.5),
        NotRepresentable,
        "cannot represent scaling_pass_value",
    ),
    "a base model of another width": (
        lambda f: change_config(f, hidden_size=64),
        ConfigInvalid,
        "hidden_size must be 32",
    ),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_what_cannot_be_read_exactly_is_refused_and_the_base_left_as_it_was(
    damage: str, expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    spoil, refusal, reason = REFUSED[damage]
    original_folder(tmp_path / "saved", expert_folders, layers=layer_count(expert_folders), xlora_depth=3)
    spoil(tmp_path / "saved")
    base = pico_llama()

    with pytest.raises(refusal, match=reason) as refused:
        XLoraModel.from_pretrained(tmp_path / "saved", base)

    assert type(refused.value) is refusal
    assert not any(isinstance(module, MixtureLayer) for module in base.modules())


def test_a_folder_of_no_format_is_refused(tmp_path: Path) -> None:
    pico_adapter(tmp_path / "plain", seed=1)

    with pytest.raises(SavedFileUnreadable, match=r"holds no xlora\.json .* of an X-LoRA model \(PEFT\)"):
        XLoraModel.from_pretrained(tmp_path / "plain", pico_llama())


def test_a_pickled_peft_head_is_refused(peft_saved: tuple[Path, Tensor], tmp_path: Path) -> None:
    saved = Path(shutil.copytree(peft_saved[0], tmp_path / "saved"))
    (saved / "adapter_model.safetensors").rename(saved / "adapter_model.bin")

    with pytest.raises(
        PickleRefused, match=r"adapter_model.bin is a pickle, which may run any code; convert"
    ):
        XLoraModel.from_pretrained(saved, pico_llama())


def test_our_own_folder_holds_its_experts(expert_folders: dict[str, Path], tmp_path: Path) -> None:
    base: LlamaForCausalLM = pico_llama()
    XLoraModel.from_adapters(base, expert_folders).save_pretrained(tmp_path / "saved")

    with pytest.raises(ConfigInvalid, match="adapters must be left out"):
        XLoraModel.from_pretrained(tmp_path / "saved", pico_llama(), adapters=expert_folders)
