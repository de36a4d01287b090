"""Adapter folders become experts with PEFT's scales, or are refused with the reason."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from tests.pico import pico_adapter, pico_llama
from tests.small_bases import SMALL_BASES
from xlora_engine.errors import BaseUnsupported, ExpertMismatch, ExpertUnreadable, ExpertUnsupported
from xlora_engine.model import XLoraModel
from xlora_engine.sources.adapter_weights import (
    Expert,
    LowRank,
    read_expert,
    stacked,
    write_expert,
)
from xlora_engine.sources.expert_fit import check_fits

Q0 = "model.layers.0.self_attn.q_proj"
A0, B0 = (f"base_model.model.{Q0}.lora_{factor}.weight" for factor in "AB")


@pytest.fixture
def folder(tmp_path: Path, expert_folders: dict[str, Path]) -> Path:
    """An adapter that a test may spoil."""
    return Path(shutil.copytree(expert_folders["bio"], tmp_path / "bio"))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    config = {k: v for k, v in (json.loads(path.read_text()) | fields).items() if v != "absent"}
    path.write_text(json.dumps(config))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def scales(folder: Path) -> dict[str, float]:
    return {path: update.scale for path, update in read_expert(folder, "e").updates.items()}


def test_every_pair_is_read_with_its_scale(expert_folders: dict[str, Path]) -> None:
    assert set(scales(expert_folders["bio"]).values()) == {8 / 4}
    assert set(scales(expert_folders["protein.v2"]).values()) == {3 / 6**0.5}
    found = scales(expert_folders["mat-3"])
    assert found["model.layers.0.self_attn.q_proj"] == 6 / 3
    assert found["model.layers.0.self_attn.k_proj"] == 6 / 5, "rank pattern"
    assert found["model.layers.1.self_attn.k_proj"] == 2 / 5, "rank and alpha pattern"
    assert found["model.layers.0.mlp.gate_proj"] == 9 / 3, "alpha pattern"


@pytest.mark.parametrize(
    ("pattern", "alpha"),
    [
        ({"q_proj": 20}, 20),
        ({"self_attn.q_proj": 20}, 20),
        ({Q0: 20}, 20),
        ({f"^{Q0}": 20}, 20),
        ({"^q_proj": 20}, 8),
        ({"proj": 20}, 8),
        ({"v_proj": 20}, 8),
        ({"v_proj": 1, "q_proj": 20, Q0: 30}, 20),
        pytest.param({r"layers\.[01]\..*": 20}, 20, marks=pytest.mark.processes),
        pytest.param({r"layers\.1\..*": 1, ".*": 20, Q0: 30}, 20, marks=pytest.mark.processes),
    ],
)
def test_alpha_patterns_are_matched_as_peft_matches_them(
    pattern: dict[str, int], alpha: int, folder: Path
) -> None:
    change_config(folder, alpha_pattern=pattern)

    assert scales(folder)[Q0] == alpha / 4


def test_an_alpha_that_is_left_out_is_pefts_default(folder: Path) -> None:
    change_config(folder, lora_alpha="absent")

    assert scales(folder)[Q0] == 8 / 4


Spoil = Callable[[Path], Any]

UNREADABLE: dict[str, tuple[Spoil, str]] = {
    "no folder": (shutil.rmtree, "cannot read"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "cannot read"),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        "is missing; if there is a adapter_model.bin, convert it",
    ),
    "weights as older versions saved them": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
        r"adapter_model.bin is a pickle, which may run any code; convert it .*weights_only=True",
    ),
    "config cut off": (lambda f: (f / "adapter_config.json").write_text('{"r": 4,'), "cannot read"),
    "config of binary": (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe\x00"), "cannot read"),
    "config too deep": (lambda f: (f / "adapter_config.json").write_text("[" * 99_999), "cannot read"),
    "config of a list": (lambda f: (f / "adapter_config.json").write_text("[]"), "must hold a JSON object"),
    "weights cut off": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(
            (f / "adapter_model.safetensors").read_bytes()[:-9]
        ),
        "cannot read",
    ),
    "a pickle": (lambda f: torch.save({}, f / "adapter_model.safetensors"), "cannot read"),
    "no tensors": (lambda f: save_file({}, f / "adapter_model.safetensors"), "no LoRA tensors"),
    "no B": (lambda f: change_tensors(f, lambda t: t.pop(B0)), "lacks lora_B of 'model.layers.0"),
    "no A": (lambda f: change_tensors(f, lambda t: t.pop(A0)), "lacks lora_A of 'model.layers.0"),
    "a NaN": (lambda f: change_tensors(f, lambda t: t[B0][0].fill_(torch.nan)), "no finite numbers"),
    "an infinity": (lambda f: change_tensors(f, lambda t: t[A0][0].fill_(torch.inf)), "no finite numbers"),
    "another rank": (lambda f: change_config(f, r=8), "rank 4 at .* says 8"),
    "alpha of text": (lambda f: change_config(f, lora_alpha="8"), "alpha '8'"),
    "alpha of NaN": (lambda f: change_config(f, lora_alpha=float("nan")), "NaN is no JSON number"),
    "targets that leave out a tensor": (
        lambda f: change_config(f, target_modules=["v_proj"]),
        "there are tensors of model.layers.0.self_attn.q_proj, a module that .* leaves out",
    ),
    "two adapters in one file": (
        lambda f: change_tensors(f, lambda t: t.update({A0.replace("_A", "_A.other"): t.pop(A0)})),
        "holds several adapters",
    ),
    "patterns of a list": (
        lambda f: change_config(f, alpha_pattern=["q_proj"]),
        "must map module names to numbers",
    ),
}


@pytest.mark.parametrize("damage", UNREADABLE)
def test_a_damaged_folder_is_refused_with_the_reason(damage: str, folder: Path) -> None:
    spoil, reason = UNREADABLE[damage]
    spoil(folder)

    with pytest.raises(ExpertUnreadable, match=reason) as refused:
        read_expert(folder, "bio")
    assert "expert 'bio'" in str(refused.value)


UNSUPPORTED: dict[str, tuple[Spoil, str]] = {
    "a foreign tensor": (
        lambda f: change_tensors(f, lambda t: t.update(other=torch.ones(1))),
        "'other', which is no LoRA factor",
    ),
    "a saved module": (
        lambda f: change_tensors(f, lambda t: t.update({"base_model.model.norm.weight": torch.ones(1)})),
        "which is no LoRA factor",
    ),
    "a convolution": (
        lambda f: change_tensors(f, lambda t: t.update({A0: t[A0][..., None, None].contiguous()})),
        "no linear update",
    ),
    "two ranks": (
        lambda f: change_tensors(f, lambda t: t.update({A0: t[A0][:2].contiguous()})),
        "no linear update",
    ),
    "rank 0": (
        lambda f: change_tensors(f, lambda t: t.update({A0: torch.ones(0, 32), B0: torch.ones(32, 0)})),
        "no linear update",
    ),
    "half an embedding": (
        lambda f: change_tensors(f, lambda t: t.update({B0.replace("_B.weight", "_embedding_B"): t.pop(B0)})),
        "no linear update",
    ),
}


@pytest.mark.parametrize("feature", UNSUPPORTED)
def test_tensors_and_patterns_of_another_kind_are_refused_with_the_reason(feature: str, folder: Path) -> None:
    spoil, reason = UNSUPPORTED[feature]
    spoil(folder)

    with pytest.raises(ExpertUnsupported, match=reason):
        read_expert(folder, "bio")


@pytest.mark.processes
def test_expressions_are_pefts_and_what_they_leave_out_is_refused(folder: Path) -> None:
    change_config(folder, target_modules=r".*\.[qv]_proj", exclude_modules=r".*lm_head")
    assert len(scales(folder)) == 4
    change_config(folder, target_modules=r".*\.1\..*")
    with pytest.raises(ExpertUnreadable, match=r"there are tensors of model\.layers\.0"):
        read_expert(folder, "bio")
    change_config(folder, target_modules=["q_proj", "v_proj"], alpha_pattern={"(": 3})
    with pytest.raises(ExpertUnsupported, match="is no regular expression: missing"):
        read_expert(folder, "bio")


def test_an_expert_of_a_deeper_base_is_refused_by_the_module_it_lacks(folder: Path) -> None:
    shallow = pico_llama(num_hidden_layers=1)

    with pytest.raises(ExpertMismatch, match=r"'model\.layers\.1\..*', which LlamaForCausalLM does not have"):
        check_fits(read_expert(folder, "bio"), shallow)


def test_an_expert_of_a_wider_base_is_refused_by_both_widths(folder: Path) -> None:
    wide = pico_llama(hidden_size=64)

    with pytest.raises(ExpertMismatch, match=r"maps 32 to 32 at '.*q_proj', where the base maps 64 to 64"):
        check_fits(read_expert(folder, "bio"), wide)


@pytest.mark.parametrize(("module", "kind"), [("lm_head", True), ("model.embed_tokens", False)])
def test_an_embeddings_update_fits_an_embedding_alone(
    module: str, kind: bool, folder: Path, tmp_path: Path
) -> None:
    endings = (".lora_embedding_A", ".lora_embedding_B") if kind else (".lora_A.weight", ".lora_B.weight")
    tensors = [torch.ones(4, 259), torch.ones(32, 4)]
    keys = [f"base_model.model.{module}{ending}" for ending in endings]
    save_file(dict(zip(keys, tensors, strict=True)), folder / "adapter_model.safetensors")
    change_config(folder, target_modules=[module])

    with pytest.raises(ExpertMismatch, match=rf"changes '{module}' as an? (embedding|linear layer), where"):
        check_fits(read_expert(folder, "bio"), pico_llama())


@pytest.mark.parametrize(
    ("base", "path", "kind"),
    [
        ("Mixtral", "model.layers.0.mlp.gate", "MixtralTopKRouter"),
        ("Llama", "model.layers.0.mlp", "LlamaMLP"),
        ("Llama", "model.norm", "LlamaRMSNorm"),
        ("OPT", "model.decoder.embed_positions", "OPTLearnedPositionalEmbedding"),
    ],
)
def test_what_is_neither_a_linear_layer_nor_an_embedding_of_tokens_is_refused(
    base: str, path: str, kind: str
) -> None:
    update = LowRank(A=torch.ones(2, 16), B=torch.ones(16, 2), scale=1.0, is_embedding=base == "OPT")
    expert = Expert(name="e", config={}, updates={path: update})

    with pytest.raises(ExpertMismatch, match=rf"changes '{path}', a {kind}, which is neither"):
        check_fits(expert, SMALL_BASES[base].build())


@pytest.fixture(scope="module")
def as_peft_saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of embedding and output layer, saved by default, hence with copies of their weights."""
    folder = tmp_path_factory.mktemp("peft") / "outer"
    config = LoraConfig(r=2, target_modules=["lm_head", "embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(pico_llama(), config).save_pretrained(folder)
    assert sum("base_layer" in key for key in load_file(folder / "adapter_model.safetensors")) == 2
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_the_base_that_peft_saves_along_are_compared_and_left_out(
    dtype: torch.dtype, as_peft_saves: Path, tmp_path: Path
) -> None:
    model = XLoraModel.from_adapters(nn.Module.to(pico_llama(), dtype), {"outer": as_peft_saves})

    assert {"lm_head", "model.embed_tokens"} < model.layers.keys()
    model.save_pretrained(tmp_path / "saved")
    written = load_file(tmp_path / "saved" / "experts" / "outer" / "adapter_model.safetensors")
    assert len(written) == 2 * len(model.layers)
    assert not any("base_layer" in key for key in written)


def test_a_weight_of_another_base_or_trained_along_is_refused(as_peft_saves: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(as_peft_saves, tmp_path / "outer"))
    change_tensors(folder, lambda t: t["base_model.model.lm_head.base_layer.weight"].add_(0.01))
    narrow = pico_llama(vocab_size=200)

    with pytest.raises(ExpertMismatch, match=r"'outer' holds a weight for 'lm_head' itself, which is not"):
        check_fits(read_expert(folder, "outer"), pico_llama())
    with pytest.raises(ExpertMismatch, match="maps 32 to 259 at 'lm_head'"):
        check_fits(read_expert(folder, "outer"), narrow)


def test_a_base_that_is_not_in_memory_is_refused(folder: Path) -> None:
    with torch.device("meta"):
        base = LlamaForCausalLM(pico_llama().config)

    with pytest.raises(BaseUnsupported, match=rf"the weights of '{Q0}' are on no device"):
        check_fits(read_expert(folder, "bio"), base)


def test_what_is_written_reads_as_what_was_read(expert_folders: dict[str, Path], tmp_path: Path) -> None:
    for name, source in expert_folders.items():
        expert = read_expert(source, name)
        write_expert(tmp_path / name, expert, expert.updates)
        again = read_expert(tmp_path / name, name)

        assert again.updates.keys() == expert.updates.keys()
        for path, update in expert.updates.items():
            assert torch.equal(again.updates[path].A, update.A)
            assert torch.equal(again.updates[path].B, update.B)
            assert again.updates[path].scale == update.scale


def test_written_files_contain_no_path(tmp_path: Path) -> None:
    source = pico_adapter(tmp_path / "source", seed=0)
    change_config(
        source, base_model_name_or_path="/home/me/base", eva_config={"path": "/home/me/x"}, notes="/home/me"
    )
    expert = read_expert(source, "e")

    write_expert(tmp_path / "out", expert, expert.updates)

    for file in (tmp_path / "out").iterdir():
        assert b"/home/me" not in file.read_bytes()


def test_updates_are_stacked_in_the_order_of_the_experts(expert_folders: dict[str, Path]) -> None:
    experts = [read_expert(folder, name) for name, folder in expert_folders.items()]
    updates = {i: e.updates[Q0] for i, e in enumerate(experts)}

    down, up = stacked(updates, dtype=torch.float64, device=torch.device("cpu"))

    assert down.dtype == up.dtype == torch.float64
    assert down.shape == (4 + 6 + 3, 32)
    assert up.shape == (32, 4 + 6 + 3)
    expected = sum((u.B @ u.A for u in updates.values()), torch.zeros(32, 32))
    torch.testing.assert_close((up @ down).float(), expected)
