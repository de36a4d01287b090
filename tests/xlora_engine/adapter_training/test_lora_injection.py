"""An adapter in a base model for a while: drawn by seed, named as everyone names it, gone without a trace."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from formats.target_modules import ALL_LINEAR
from tests.pico import ALL_PROJECTIONS, pico_llama
from xlora_engine.adapter_training.lora_injection import injected, write_adapter
from xlora_engine.errors import ConfigInvalid


def lora(targets: object) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets)


@pytest.mark.parametrize(
    ("targets", "written"),
    [
        (ALL_LINEAR, sorted(ALL_PROJECTIONS)),
        (["v_proj", "q_proj"], ["q_proj", "v_proj"]),
        (["mlp.up_proj"], ["up_proj"]),
        # Where the last part of the name would say too much, the whole name is written.
        (["0.self_attn.q_proj", "v_proj"], [
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.self_attn.v_proj",
            "model.layers.1.self_attn.v_proj",
        ]),
    ],
)  # fmt: skip
def test_target_modules_are_written_short_where_that_is_enough(
    tmp_path: Path, targets: object, written: list[str]
) -> None:
    with injected(pico_llama(), lora(targets), seed=0) as model:
        write_adapter(model, tmp_path / "adapter", base_name="pico")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == written
    assert config["base_model_name_or_path"] == "pico"


def test_the_output_head_is_no_target_of_all_linear() -> None:
    with injected(pico_llama(), lora(ALL_LINEAR), seed=0) as model:
        assert not [path for path in model.targeted_module_names if "lm_head" in path]


def test_the_seed_draws_the_adapter() -> None:
    drawn = []
    for seed in (0, 0, 1):
        with injected(pico_llama(), lora(["q_proj"]), seed=seed) as model:
            drawn.append({n: p.detach().clone() for n, p in model.named_parameters() if "lora_A" in n})
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())
    assert not any(torch.equal(value, drawn[2][name]) for name, value in drawn[0].items())


def test_an_adapter_is_in_float32_whatever_the_base(tmp_path: Path) -> None:
    base = pico_llama()
    torch.nn.Module.to(base, torch.bfloat16)
    with injected(base, lora(["q_proj"]), seed=0) as model:
        dtypes = {value.dtype for value in model.parameters() if value.requires_grad}
    assert dtypes == {torch.float32}
    assert base.dtype == torch.bfloat16


def test_a_target_that_fits_nothing_is_refused_even_beside_one_that_fits() -> None:
    base = pico_llama()
    names = [name for name, _ in base.named_modules()]
    refused = pytest.raises(ConfigInvalid, match="'proj'")
    with refused, injected(base, lora(["q_proj", "proj"]), seed=0):
        pass
    assert [name for name, _ in base.named_modules()] == names


def test_the_base_comes_back_even_from_an_error() -> None:
    base = pico_llama()
    base.config.use_cache = True
    names = [name for name, _ in base.named_modules()]
    with pytest.raises(KeyError), injected(base, lora(["q_proj"]), seed=0) as model:  # noqa: PT012
        model.train()
        base.config.use_cache = False
        raise KeyError
    assert [name for name, _ in base.named_modules()] == names
    assert base.config.use_cache is True
    assert not base.training
    assert not any(value.requires_grad for value in base.parameters())
