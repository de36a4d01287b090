"""A corpus of adapter configurations, as PEFT and other makers write them: logits equal PEFT's on every one.

Each is made by PEFT on a small base model, saved, changed as a maker changes it, registered, and computed by
the engine from the files that the registry stored; the reference is the PEFT model that was saved.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from registry.errors import InvalidAdapter
from registry.service import Registry
from tests.pico import pico_tokenizer
from tests.services import settings_for
from tests.small_bases import SMALL_BASES
from tests.wrapped_bases import WRAPPED_BASES
from workers.requests.adapters import register_adapter
from workers.requests.base_models import register_base
from xlora_engine.config import XLoraConfig
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.sources.adapter_weights import read_expert
from xlora_engine.sources.base_model import load_base

IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))

KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

#: How a key or a configuration is changed after PEFT saved it.
Rename = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration."""

    base: str = "Llama"
    lora: dict[str, Any] = field(default_factory=dict)
    #: Fields of adapter_config.json that a maker writes otherwise, or besides.
    stated: dict[str, Any] = field(default_factory=dict)
    key: Rename = str
    saves_embeddings: bool = False
    dtype: torch.dtype = torch.float32


def unsloth(name: str, **more: Any) -> dict[str, Any]:
    library = "transformers.models.llama.modeling_llama"
    return {"auto_mapping": {"base_model_class": name, "parent_library": library, **more}}


def between(*names: str) -> Rename:
    inside = ".".join(names)
    return lambda key: key.replace("base_model.model.", f"base_model.model.{inside}.", 1)


def moved(old: str, new: str) -> Rename:
    return lambda key: key.replace(f"base_model.model.{old}", f"base_model.model.{new}", 1)


QV = ["q_proj", "v_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FIRST = "model.layers.0.self_attn.q_proj"

CASES: dict[str, Case] = {
    # what PEFT's own fields say
    "two modules": Case(lora={"target_modules": QV}),
    "all projections": Case(lora={"target_modules": ALL, "r": 8, "lora_alpha": 16}),
    "all-linear": Case(lora={"target_modules": "all-linear"}),
    "rank 1": Case(lora={"r": 1, "lora_alpha": 1}),
    "alpha far above the rank": Case(lora={"r": 2, "lora_alpha": 64}),
    "alpha of a fraction": Case(stated={"lora_alpha": 8.0}),
    "rank-stabilised": Case(lora={"use_rslora": True, "r": 3}),
    "a dropout": Case(lora={"lora_dropout": 0.1}),
    "gaussian start": Case(lora={"init_lora_weights": "gaussian"}),
    "orthogonal start": Case(lora={"init_lora_weights": "orthogonal"}),
    "no start": Case(lora={"init_lora_weights": False}),
    "one layer": Case(lora={"layers_to_transform": [1]}),
    "one layer as a number": Case(lora={"layers_to_transform": 0}),
    "a layer of a named list": Case(lora={"layers_to_transform": [1], "layers_pattern": "layers"}),
    "layers by an expression": Case(lora={"layers_to_transform": [0], "layers_pattern": r"lay\w+"}),
    "full paths": Case(lora={"target_modules": [FIRST, "model.layers.1.mlp.up_proj"]}),
    "ends of paths": Case(lora={"target_modules": ["self_attn.q_proj", "mlp.down_proj"]}),
    "excluded by name": Case(lora={"target_modules": ALL, "exclude_modules": ["down_proj"]}),
    "excluded by path": Case(lora={"target_modules": QV, "exclude_modules": [FIRST]}),
    "excluded by expression": Case(lora={"target_modules": "all-linear", "exclude_modules": r".*mlp.*"}),
    "targets by expression": Case(lora={"target_modules": r".*\.self_attn\.(q|v)_proj"}),
    "targets with a look-ahead": Case(lora={"target_modules": r"(?!.*layers\.0\.).*[qk]_proj"}),
    "targets in one layer by expression": Case(lora={"target_modules": r"model\.layers\.1\..*proj"}),
    "targets in any case": Case(lora={"target_modules": r"(?i).*\.Q_PROJ"}),
    "ranks by name": Case(lora={"target_modules": ALL, "rank_pattern": {"down_proj": 2, "q_proj": 8}}),
    "alphas by name": Case(lora={"alpha_pattern": {"v_proj": 32}}),
    "alphas in an order that counts": Case(
        lora={"alpha_pattern": {"layers.0.self_attn.q_proj": 64, "q_proj": 2}}
    ),
    "ranks in an order that counts": Case(lora={"rank_pattern": {FIRST: 6, "q_proj": 2}}),
    "ranks by expression": Case(lora={"rank_pattern": {r"layers\.1\..*": 2}}),
    "alphas by expression": Case(
        # PEFT writes them sorted, which means something else.
        lora={"alpha_pattern": (one := {r".*\.0\..*q_proj": 1, r".*": 24})},
        stated={"alpha_pattern": one},
    ),
    "both by expression": Case(
        lora={"target_modules": ALL, "rank_pattern": {r"mlp\.\w+": 3}, "alpha_pattern": {r"mlp\.\w+": 9}}
    ),
    "an anchored pattern": Case(lora={"alpha_pattern": {f"^{FIRST}": 40}}),
    "a pattern that fits nothing": Case(lora={"rank_pattern": {"nothing": 2}}),
    "rank-stabilised by patterns": Case(lora={"use_rslora": True, "rank_pattern": {"q_proj": 2}}),
    "the head": Case(lora={"target_modules": ["q_proj", "lm_head"]}),
    "the embedding": Case(lora={"target_modules": ["q_proj", "embed_tokens"]}),
    "head and embedding with copies of the base's": Case(
        lora={"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, saves_embeddings=True
    ),
    "copies without being targets": Case(saves_embeddings=True),
    # what makers write besides
    "no task": Case(lora={"task_type": None}),
    "fields of 2023": Case(stated={"enable_lora": None, "merge_weights": False, "layers_pattern": None}),
    "empty fields": Case(stated={"layers_pattern": "", "exclude_modules": [], "modules_to_save": []}),
    "null everywhere": Case(stated=dict.fromkeys(("revision", "rank_pattern", "eva_config", "loftq_config"))),
    "an empty LoftQ": Case(stated={"loftq_config": {}}),
    "a class of transformers": Case(stated=unsloth("LlamaForCausalLM")),
    "a class of transformers, and more": Case(stated=unsloth("LlamaForCausalLM", unsloth_fixed=True)),
    "notes of a maker": Case(stated={"training_notes": {"epochs": 3}, "tags": ["x"], "trained_with": "y"}),
    "a version before the numbers": Case(stated={"peft_version": "0.17.2.dev0@UNKNOWN"}),
    "a base in a folder": Case(stated={"base_model_name_or_path": "/root/.cache/model", "revision": "main"}),
    # keys
    "the adapter's name in keys": Case(key=lambda key: key.replace(".weight", ".default.weight")),
    "another adapter's name in keys": Case(key=lambda key: key.replace(".weight", ".my_run-2.weight")),
    "no prefix": Case(key=lambda key: key.removeprefix("base_model.model.")),
    "a prefix twice": Case(key=between("base_model", "model")),
    "saved from a compiled model": Case(key=between("_orig_mod")),
    "saved from a parallel model": Case(key=lambda key: f"module.{key}"),
    "saved from a sharded model": Case(key=lambda key: key.replace(".self", "._fsdp_wrapped_module.self")),
    "saved from inside a wrapper": Case(key=between("language_model")),
    "bfloat16": Case(dtype=torch.bfloat16),
    "float16": Case(dtype=torch.float16),
    # families
    **{
        f"{name} alone": Case(base=name, lora={"target_modules": list(made.targets[1]), **made.lora})
        for name, made in SMALL_BASES.items()
    },
    "Mistral by expression": Case(base="Mistral", lora={"target_modules": r".*\.(up|down)_proj"}),
    "GPT-2 all-linear": Case(base="GPT-2", lora={"target_modules": "all-linear", "fan_in_fan_out": True}),
    "Qwen3 all-linear": Case(base="Qwen3", lora={"target_modules": "all-linear", "use_rslora": True}),
    "Gemma's tied embedding with its copy": Case(
        base="Gemma", lora={"target_modules": ["embed_tokens", "q_proj"]}, saves_embeddings=True
    ),
}

#: Prefix of the language model's modules -> as a class of text, as older transformers, and as newer ones.
SPELLINGS = ("model.", "language_model.model.", "model.language_model.")


@pytest.fixture(scope="module")
def zoo(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    home = tmp_path_factory.mktemp("zoo")
    database = home / "zoo.db"
    database.write_bytes(migrated_sqlite.read_bytes())
    with Registry.open(settings_for(f"sqlite:///{database}", home=home)) as opened:
        yield opened


@pytest.fixture(scope="module")
def loaded(zoo: Registry, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PreTrainedModel]:
    """A registered base model as jobs load it, each made once."""
    made: dict[str, PreTrainedModel] = {}

    def load(name: str) -> PreTrainedModel:
        if name not in made:
            family, _, kind = name.partition("/")
            folder = tmp_path_factory.mktemp("base")
            model = (
                SMALL_BASES[family].build()
                if not kind
                else (
                    WRAPPED_BASES[family].build() if kind == "whole" else WRAPPED_BASES[family].build_text()
                )
            )
            model.save_pretrained(folder)
            pico_tokenizer().save_pretrained(folder)
            record = register_base(zoo, folder, name=registered(name))
            made[name] = load_base(zoo.materialise(record), dtype=torch.float32, device=torch.device("cpu"))
        return made[name]

    return load


def built(family: str, kind: str) -> PreTrainedModel:
    if not kind:
        return SMALL_BASES[family].build()
    wrapped = WRAPPED_BASES[family]
    return wrapped.build() if kind == "whole" else wrapped.build_text()


def registered(name: str) -> str:
    return name.lower().replace(" ", "-").replace("/", "-")


@torch.no_grad()
def made_by_peft(base: PreTrainedModel, case: Case, folder: Path) -> Tensor:
    """Write the case's folder; the logits of the PEFT model that was saved."""
    fields = {"r": 4, "lora_alpha": 8, "target_modules": QV, "task_type": "CAUSAL_LM", **case.lora}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(7)
        model = get_peft_model(base, LoraConfig(**fields))
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.data = (torch.randn(parameter.shape) * 0.2).to(case.dtype).float()
        model.eval()
        logits: Tensor = model(input_ids=IDS).logits
        model.save_pretrained(folder, save_embedding_layers=case.saves_embeddings)
    model.unload()
    base.requires_grad_(False)
    path = folder / "adapter_model.safetensors"
    tensors = {case.key(key): tensor.to(case.dtype) for key, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | case.stated))
    return logits


@torch.no_grad()
def computed_here(base: PreTrainedModel, folder: Path) -> Tensor:
    mixture = Mixture(base, [read_expert(folder, "a")], XLoraConfig())
    try:
        with mixture.fixed_scalings(mixture.constant_scalings([1.0])):
            logits: Tensor = mixture(IDS).logits
    finally:
        mixture.unload()
    return logits


pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore::xlora_engine.sources.architectures.UnprovenArchitecture"),
]


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_computes_what_it_computes_in_peft(
    name: str, zoo: Registry, loaded: Callable[[str], PreTrainedModel], tmp_path: Path
) -> None:
    case = CASES[name]
    base = loaded(case.base)
    plain = base(input_ids=IDS).logits
    expected = made_by_peft(base, case, tmp_path / "given")
    assert (expected - plain).abs().max() > 0.01, "the adapter has an effect"

    own = f"case-{list(CASES).index(name)}"  # equal adapters of one name would be one version
    record = register_adapter(zoo, tmp_path / "given", name=own, base=registered(case.base))

    stored = zoo.materialise(record)
    torch.testing.assert_close(computed_here(base, stored), expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(computed_here(base, tmp_path / "given"), expected, rtol=1e-5, atol=2e-5)
    compared = record.parameters["compared"]
    assert compared["modules_equal"] == len(record.modules)
    assert compared["largest_logit_difference"] < 1e-3
    assert record.effect_score is not None
    assert record.effect_score > 1e-6
    noted = " ".join(record.warnings)
    assert ("because they are the base model's own weights" in noted) is case.saves_embeddings
    assert ("are stored under other names" in noted) is (case.key(KEY) != KEY)
    keys = load_file(stored / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") and ".lora_" in key for key in keys)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kind", ["whole", "text"])
@pytest.mark.parametrize("family", WRAPPED_BASES)
def test_a_language_model_has_one_set_of_modules_under_all_its_names(
    family: str,
    kind: str,
    spelling: str,
    zoo: Registry,
    loaded: Callable[[str], PreTrainedModel],
    tmp_path: Path,
) -> None:
    """Of adapters of the text class on the full model, and the other way round."""
    base = loaded(f"{family}/{kind}")
    paths = {path for path, _ in base.named_modules()}
    own = "model.language_model." if "model.language_model.layers.0" in paths else "model."
    inside = rf"{own}layers\.\d+\.(?:self_attn\.[qv]_proj|linear_attn\.in_proj_qkv|mlp\.down_proj)"
    case = Case(
        lora={"target_modules": inside, "alpha_pattern": {r".*\.1\..*": 32}},
        stated={"target_modules": r".*(?:q_proj|v_proj|in_proj_qkv|down_proj)"},
        key=moved(own, spelling),
    )
    expected = made_by_peft(base, case, tmp_path / "given")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = register_adapter(zoo, tmp_path / "given", name="a", base=registered(f"{family}/{kind}"))

    assert all(path.startswith(f"{own}layers.") for path in record.modules)
    torch.testing.assert_close(computed_here(base, zoo.materialise(record)), expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(computed_here(base, tmp_path / "given"), expected, rtol=1e-5, atol=2e-5)


def test_what_would_compute_something_else_than_peft_is_not_registered(
    zoo: Registry,
    loaded: Callable[[str], PreTrainedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from registry.intake.adapter_config import AdapterConfig

    base = loaded("Llama")
    made_by_peft(base, CASES["alphas in an order that counts"], tmp_path / "given")
    was = AdapterConfig.resolved

    def sorted_patterns(config: AdapterConfig, paths: Any) -> AdapterConfig:
        import dataclasses

        found = was(config, paths)
        return dataclasses.replace(found, alpha_pattern=dict(reversed([*found.alpha_pattern.items()])))

    monkeypatch.setattr(AdapterConfig, "resolved", sorted_patterns)
    with pytest.raises(InvalidAdapter, match=r"something else here than in PEFT: at .*q_proj, 16 times"):
        register_adapter(zoo, tmp_path / "given", name="wrong", base="llama")
