"""An adapter that is exported computes in the program that reads it what it computes in PEFT before."""

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
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_base_folder, pico_llama, pico_tokenizer
from tests.small_bases import SMALL_BASES
from tests.xlora_engine.peft_reference import quiet_peft
from xlora_engine.errors import ConfigInvalid, ExpertMismatch, NotRepresentable
from xlora_engine.saved.adapter_formats import ADAPTER_FORMATS, SavedAdapter, write_adapter
from xlora_engine.saved.vllm_adapter import EMBEDDINGS
from xlora_engine.sources.adapter_weights import read_expert

#: Of logits of size 10, in float32, between two implementations.
TOLERANCE = 2e-5

#: What is asked of an adapter on a pico Llama.
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True, "rank": 6, "alpha": 3, "target_modules": ALL_PROJECTIONS},
    "patterns": {
        "rank": 3,
        "target_modules": ("q_proj", "k_proj", "gate_proj"),
        "rank_pattern": {"k_proj": 5},
        "alpha_pattern": {"layers.1.self_attn.k_proj": 2, "gate_proj": 9},
    },
    "one block": {"target_modules": ("q_proj", "up_proj"), "layers_to_transform": [1]},
    "embeddings and head": {"target_modules": ("embed_tokens", "lm_head", "v_proj")},
}

Exported = Callable[..., tuple[Path, Any]]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """Write an adapter of a base model in a layout; the folder, and what is said of it."""

    def write(
        adapter: Path, base: PreTrainedModel, layout: str, dtype: torch.dtype = torch.float32
    ) -> tuple[Path, Any]:
        source = tmp_path / "base"
        if not source.exists():
            base.save_pretrained(source)
            pico_tokenizer().save_pretrained(source)
        saved = SavedAdapter(
            expert=read_expert(adapter, "bio"),
            architecture=type(base).__name__,
            base_id="owner/base",
            base_folder=source,
            dtype=dtype,
        )
        return tmp_path / "out", write_adapter(saved, tmp_path / "out", layout)

    return write


@torch.no_grad()
def in_peft(folder: Path, base: PreTrainedModel, token_ids: Tensor) -> Tensor:
    with quiet_peft():
        model = peft.PeftModel.from_pretrained(base, folder)
    logits: Tensor = model.eval()(token_ids).logits
    return logits


@torch.no_grad()
def in_transformers(folder: Path, token_ids: Tensor) -> Tensor:
    logits: Tensor = AutoModelForCausalLM.from_pretrained(folder)(token_ids).logits
    return logits


@pytest.mark.parametrize("layout", ["peft", "vllm"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_peft_reads_a_folder_with_equal_logits(
    adapter: str, layout: str, exported: Exported, token_ids: Tensor, tmp_path: Path
) -> None:
    with quiet_peft():
        folder = pico_adapter(tmp_path / "bio", seed=1, **ADAPTERS[adapter])
    out, _ = exported(folder, pico_llama(), layout)

    expected = in_peft(folder, pico_llama(), token_ids)
    assert (in_peft(out, pico_llama(), token_ids) - expected).abs().max() < TOLERANCE
    assert (expected - pico_llama()(token_ids).logits).abs().max() > 0.1
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/base"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_transformers_reads_a_merged_adapter_with_equal_logits(
    adapter: str, exported: Exported, token_ids: Tensor, tmp_path: Path
) -> None:
    with quiet_peft():
        folder = pico_adapter(tmp_path / "bio", seed=1, **ADAPTERS[adapter])
    out, known = exported(folder, pico_llama(), "merged")

    expected = in_peft(folder, pico_llama(), token_ids)
    assert (in_transformers(out, token_ids) - expected).abs().max() < TOLERANCE
    assert known["dtype"] == "float32"
    assert 0 < known["rounding"] < 1e-6
    assert not list(out.glob("adapter*"))
    asked = [{"role": "user", "content": "Why?"}]
    expected_text = pico_tokenizer().apply_chat_template(asked, tokenize=False)
    assert AutoTokenizer.from_pretrained(out).apply_chat_template(asked, tokenize=False) == expected_text


@pytest.mark.parametrize("name", ["GPT-2", "Gemma 2", "Phi-3", "Qwen3-MoE"])
def test_other_layers_than_llamas_are_merged_as_peft_adapts_them(
    name: str, exported: Exported, tmp_path: Path
) -> None:
    small = SMALL_BASES[name]
    base: Any = small.build()
    folder = pico_adapter(tmp_path / "bio", seed=1, base=base, target_modules=small.targets[1], **small.lora)
    out, _ = exported(folder, small.build(), "merged")

    token_ids = torch.arange(3, 12)[None]
    expected = in_peft(folder, small.build(), token_ids)
    assert (in_transformers(out, token_ids) - expected).abs().max() < TOLERANCE


def test_merged_weights_are_the_sums_rounded_once_and_the_rounding_is_told(
    exported: Exported, tmp_path: Path
) -> None:
    folder = pico_adapter(tmp_path / "bio", seed=1, scale=0.02)
    base = pico_base_folder(tmp_path / "base", dtype=torch.bfloat16)
    out, known = exported(folder, pico_llama(), "merged", torch.bfloat16)

    before, after = (load_file(path / "model.safetensors") for path in (base, out))
    lost = added = torch.zeros(())
    changed = []
    for key, weight in before.items():
        module = key.removesuffix(".weight")
        if module.rpartition(".")[2] not in ("q_proj", "v_proj"):
            assert torch.equal(after[key], weight), key
            continue
        tensors = load_file(folder / "adapter_model.safetensors")
        A, B = (tensors[f"base_model.model.{module}.lora_{half}.weight"] for half in "AB")
        change = 2 * (B.double() @ A.double())
        assert torch.equal(after[key], (weight.double() + change).bfloat16()), key
        lost = lost + (after[key].double() - weight.double() - change).square().sum()
        added = added + change.square().sum()
        changed.append(key)
    assert len(changed) == 4
    assert known == {"dtype": "bfloat16", "rounding": pytest.approx(float(lost / added) ** 0.5, rel=1e-4)}
    assert known["rounding"] > 0.01


@pytest.mark.parametrize("named", ["dtype", "torch_dtype"])
def test_a_merged_adapter_has_its_bases_own_configuration_but_for_the_dtype(
    named: str, exported: Exported, token_ids: Tensor, tmp_path: Path
) -> None:
    folder = pico_adapter(tmp_path / "bio", seed=1)
    base = pico_base_folder(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    older = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
    older |= {"rope_theta": 5000.0, named: "float32"}
    (base / "config.json").write_text(json.dumps(older))

    out, _ = exported(folder, pico_llama(), "merged", torch.bfloat16)

    assert json.loads((out / "config.json").read_text()) == older | {named: "bfloat16"}
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.rope_parameters["rope_theta"] == 5000.0


def test_for_vllm_there_is_one_rank_and_one_scale(exported: Exported, tmp_path: Path) -> None:
    folder = pico_adapter(tmp_path / "bio", seed=1, **ADAPTERS["patterns"])
    out, known = exported(folder, pico_llama(), "vllm")

    config = json.loads((out / "adapter_config.json").read_text())
    tensors = load_file(out / "adapter_model.safetensors")
    assert {tensor.shape[0] for key, tensor in tensors.items() if "lora_A" in key} == {5}
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (5, {}, {})
    assert known == {"max_lora_rank": 8}


def test_for_vllm_what_has_one_rank_and_scale_keeps_every_bit(exported: Exported, tmp_path: Path) -> None:
    folder = pico_adapter(tmp_path / "bio", seed=1, **ADAPTERS["rsLoRA"])
    out, _ = exported(folder, pico_llama(), "vllm")

    before, after = (load_file(path / "adapter_model.safetensors") for path in (folder, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (6, 3, True)


def test_what_vllm_does_not_take_is_refused_by_name(exported: Exported, tmp_path: Path) -> None:
    gpt2 = SMALL_BASES["GPT-2"]
    base: Any = gpt2.build()
    on_gpt2 = pico_adapter(tmp_path / "gpt2", seed=1, base=base, target_modules=gpt2.targets[0], **gpt2.lora)
    with pytest.raises(NotRepresentable, match="base_model: vLLM runs GPT2LMHeadModel"):
        exported(on_gpt2, gpt2.build(), "vllm")

    head = pico_adapter(tmp_path / "head", seed=1, target_modules=("lm_head", "q_proj"))
    saved = SavedAdapter(
        expert=read_expert(head, "bio"),
        architecture="MistralForCausalLM",
        base_folder=tmp_path,
        dtype=torch.float32,
    )
    assert saved.architecture not in EMBEDDINGS
    with pytest.raises(NotRepresentable, match="target_modules: vLLM does not adapt 'lm_head' of Mistral"):
        write_adapter(saved, tmp_path / "none", "vllm")

    wide = pico_adapter(tmp_path / "wide", seed=1, rank=513, target_modules=("q_proj",))
    with pytest.raises(NotRepresentable, match="r: vLLM takes ranks up to 512, and 513 is higher"):
        write_adapter(
            replace(saved, expert=read_expert(wide, "bio"), architecture="LlamaForCausalLM"),
            tmp_path / "none",
            "vllm",
        )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_one_use_of_a_shared_weight_cannot_be_merged(target: str, exported: Exported, tmp_path: Path) -> None:
    tied = pico_llama(tie_word_embeddings=True)
    folder = pico_adapter(tmp_path / "bio", seed=1, base=pico_llama(), target_modules=(target, "q_proj"))
    with pytest.raises(NotRepresentable, match=f"share one weight, of which .*{target}' is"):
        exported(folder, tied, "merged")
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_base_is_not_merged(exported: Exported, tmp_path: Path) -> None:
    wide = pico_adapter(tmp_path / "bio", seed=1, base=pico_llama(hidden_size=64))
    with pytest.raises(ExpertMismatch, match="maps 64 to 64"):
        exported(wide, pico_llama(), "merged")


def test_a_format_that_is_not_in_the_table_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder = pico_adapter(tmp_path / "bio", seed=1)
    with pytest.raises(ConfigInvalid, match=f"format must be one of {', '.join(ADAPTER_FORMATS)}"):
        exported(folder, pico_llama(), "gguf")
