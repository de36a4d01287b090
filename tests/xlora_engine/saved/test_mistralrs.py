"""What is exported loads in mistral.rs itself: compositions, which it cannot answer with, and adapters."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_llama, pico_tokenizer
from tests.small_bases import SMALL_BASES
from tests.xlora_engine.peft_reference import quiet_peft
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import NotRepresentable
from xlora_engine.model import XLoraModel
from xlora_engine.saved.adapter_formats import ADAPTER_FORMATS, SavedAdapter, write_adapter
from xlora_engine.saved.formats import write_model
from xlora_engine.saved.mistralrs_format import LOADED
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.adapter_weights import read_expert

#: Where `make` puts it: only this test needs it.
MISTRALRS = Path(sys.prefix) / "mistralrs"
WIDTH = 32
PROMPT = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
#: As `load_in_mistralrs.py` asks.
NEW_TOKENS = 12
#: Of scalings in float32, whose sums over zeros come in another order.
TOLERANCE = 1e-5
#: Mixtral in mistral.rs has heads of the width that divides its hidden states.
FIELDS = {"Mixtral": {"head_dim": 4}}


def composed(base: PreTrainedModel, adapters: dict[str, Path], **config: Any) -> XLoraModel:
    model = XLoraModel.from_adapters(base, adapters, XLoraConfig(**{"layerwise_scalings": True, **config}))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(4)
    return model.eval()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: pico_adapter(root / name, seed=seed, target_modules=ALL_PROJECTIONS)
        for seed, name in enumerate(("bio", "protein"))
    }


def write(model: XLoraModel, folder: Path) -> Path:
    """A composition as it is exported with its base model."""
    saved = SavedModel.of(model)
    model.unload().save_pretrained(folder / "source")
    pico_tokenizer().save_pretrained(folder / "source")
    write_model(replace(saved, base_folder=folder / "source"), folder / "out", "mistralrs")
    return folder / "out"


@pytest.mark.processes
def test_compositions_load_and_adapters_answer_in_mistral_rs(
    adapters: dict[str, Path], tmp_path: Path
) -> None:
    assert MISTRALRS.is_dir(), f"{MISTRALRS} is missing; `make .venv/.apart` installs it"
    compositions = written_compositions(adapters, tmp_path)
    base = compositions["deep"] / "base"
    exported = {
        layout: written_adapter(adapters["bio"], base, tmp_path / layout, layout)
        for layout in ADAPTER_FORMATS
    }
    merged = exported.pop("merged")

    asked: list[str | Path] = [*compositions.values(), "--", base, PROMPT, *exported.values(), "--", merged]
    told = subprocess.run(
        [sys.executable, Path(__file__).with_name("load_in_mistralrs.py"), *asked],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(MISTRALRS)},
        timeout=120,
        check=True,
    )

    said = json.loads(told.stdout.splitlines()[-1])
    answer = answer_in_peft(adapters["bio"], base)
    assert said == {
        **{str(folder): "loaded" for folder in compositions.values()},
        **{str(folder): answer for folder in (*exported.values(), merged)},
    }


def written_compositions(adapters: dict[str, Path], folder: Path) -> dict[str, Path]:
    """With heads of one layer and of three, on a base with a tied head, on every architecture."""
    heads = {"single": {"xlora_depth": 1}, "deep": {"xlora_depth": 3, "xlora_size": 8}}
    written = {
        name: write(composed(pico_llama(), adapters, **fields), folder / name)
        for name, fields in heads.items()
    }
    tied = composed(pico_llama(tie_word_embeddings=True), adapters, xlora_depth=2, xlora_size=WIDTH)
    written["tied"] = write(tied, folder / "tied")
    for name, small in SMALL_BASES.items():
        if small.model in LOADED:
            fields = {**small.fields, **FIELDS.get(name, {})}
            model = of_small_base(replace(small, fields=fields), folder / name)
            written[small.model] = write(model, folder / name)
    assert written.keys() == {*heads, "tied", *LOADED}
    return written


def written_adapter(adapter: Path, base: Path, folder: Path, layout: str) -> Path:
    saved = SavedAdapter(
        expert=read_expert(adapter, "bio"),
        architecture="LlamaForCausalLM",
        base_folder=base,
        dtype=torch.float32,
    )
    write_adapter(saved, folder, layout)
    return folder


def answer_in_peft(adapter: Path, base: Path) -> str:
    tokenizer = pico_tokenizer()
    prompt = torch.tensor([tokenizer(PROMPT, add_special_tokens=False)["input_ids"]])
    with quiet_peft():
        model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    ids = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False
    )
    return str(tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True))


def of_small_base(small: Any, folder: Path) -> XLoraModel:
    base = small.build()
    adapters = {
        name: pico_adapter(folder / name, seed=seed, base=base, target_modules=small.targets[0])
        for seed, name in enumerate(("bio", "protein"))
    }
    return composed(base, adapters, xlora_depth=2, xlora_size=8)


@pytest.mark.parametrize("fields", [{}, {"use_bias": False}, {"enable_relu_and_dropout": False}], ids=str)
@pytest.mark.parametrize("depth", [2, 3])
def test_a_head_padded_to_the_bases_width_weighs_the_experts_as_before(
    depth: int, fields: dict[str, Any], adapters: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    model = composed(pico_llama(), adapters, xlora_depth=depth, xlora_size=5, **fields)
    model.export(tmp_path / "out", "mistralrs", base_id="owner/base")

    head = load_file(tmp_path / "out" / "xlora_classifier.safetensors")
    assert {tensor.shape[1] for tensor in head.values() if tensor.dim() > 1} == {WIDTH}
    again = XLoraModel.from_pretrained(tmp_path / "out", pico_llama())
    with torch.no_grad():
        assert (again(token_ids).scalings - model(token_ids).scalings).abs().max() < TOLERANCE


def test_a_head_wider_than_the_base_is_refused(adapters: dict[str, Path], tmp_path: Path) -> None:
    model = composed(pico_llama(), adapters, xlora_depth=2, xlora_size=WIDTH + 1)
    with pytest.raises(NotRepresentable, match=r"xlora_size: .* 32, or padded to it, and 33 is wider"):
        model.export(tmp_path / "out", "mistralrs", base_id="owner/base")


def test_an_architecture_that_mistral_rs_has_no_mixture_for_is_refused(tmp_path: Path) -> None:
    small = SMALL_BASES["Qwen3"]
    with pytest.raises(NotRepresentable, match=r"base_model_id: its X-LoRA loads .*, not Qwen3ForCausalLM"):
        of_small_base(small, tmp_path).export(tmp_path / "out", "mistralrs", base_id="owner/base")


def test_the_base_has_its_rope_where_mistral_rs_looks_and_an_output_head_of_its_own(
    adapters: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    rope = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
    base = pico_llama(tie_word_embeddings=True, rope_parameters=rope)
    with torch.no_grad():
        expected = base(token_ids).logits
    out = write(composed(base, adapters), tmp_path)

    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(out / "base")(token_ids).logits
    assert torch.equal(logits, expected)
    config = json.loads((out / "base" / "config.json").read_text())
    assert (config["rope_theta"], config["tie_word_embeddings"]) == (5000.0, False)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert "rope_parameters" not in config
    tensors: dict[str, Tensor] = {}
    for path in (out / "base").glob("*.safetensors"):
        tensors |= load_file(path)
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    for file in ("xlora_config.json", "xlora-ordering.json"):
        assert json.loads((out / file).read_text())["base_model_id"] == str(out / "base")
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["base"], "it looks into no folder"
