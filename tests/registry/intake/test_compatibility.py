"""Verdicts: what fits, what does not and why, what is only worth a warning."""

import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from registry.intake import compatibility
from registry.intake.adapter_config import parse_config
from registry.intake.adapter_files import AdapterManifest
from registry.intake.adapter_tensors import ModuleShape
from registry.intake.compatibility import (
    OK,
    REFUSE,
    WARN,
    CompatibilityResult,
    joint_compatibility_of,
    refused,
)
from tests.registry.folders import write_adapter
from tests.registry.staged import read_adapter

LAYERS = 30
PROJECTIONS = {"self_attn.q_proj": (8, 8), "self_attn.v_proj": (4, 8), "mlp.down_proj": (8, 16)}
BASE = {
    f"model.layers.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in PROJECTIONS.items()
} | {"model.embed_tokens": (100, 8), "lm_head": (100, 8)}
CONFIG = parse_config(b'{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}')


def manifest(modules: dict[str, tuple[int, int]], **fields: Any) -> AdapterManifest:
    """An adapter of modules path -> (d_out, d_in)."""
    shapes = {path: ModuleShape(rank=2, d_in=d_in, d_out=d_out) for path, (d_out, d_in) in modules.items()}
    given: dict[str, Any] = {
        "config": CONFIG,
        "modules": shapes,
        "dtype": "float32",
        "parameter_count": 1,
        "size_bytes": 1,
        "weights_digest": "sha256:0",
        "files": (),
        "licence": "mit",
        "warnings": (),
    }
    return AdapterManifest(**(given | fields))


def of(layers: range, *names: str) -> dict[str, tuple[int, int]]:
    return {f"model.layers.{layer}.{name}": PROJECTIONS[name] for layer in layers for name in names}


def compatibility_of(
    adapter: AdapterManifest,
    weights: dict[str, tuple[int, int]],
    name: str,
    *,
    architecture: str = "LlamaForCausalLM",
) -> tuple[CompatibilityResult, ...]:
    """Of an adapter and a Llama, unless another class is named."""
    return compatibility.compatibility_of(adapter, weights, name, architecture=architecture)


def codes(results: tuple[CompatibilityResult, ...]) -> list[str]:
    return [result.code for result in results]


def test_an_adapter_made_for_the_base_fits() -> None:
    results = compatibility_of(manifest(of(range(LAYERS), *PROJECTIONS)), BASE, "smollm2")
    assert results == (
        CompatibilityResult(level=OK, code="ZOO-OK", message="fits smollm2 in all 90 modules it touches"),
    )
    assert refused(results) == ()


def test_modules_the_base_lacks_are_refused_with_the_first_few_named() -> None:
    other = {f"model.layers.{layer}.self_attn.qkv_proj": (24, 8) for layer in range(5)}
    [result] = compatibility_of(manifest(other), BASE, "smollm2")
    assert (result.level, result.code) == (REFUSE, "ZOO-E271")
    assert result.message == (
        "smollm2 lacks model.layers.0.self_attn.qkv_proj, model.layers.1.self_attn.qkv_proj,"
        " model.layers.2.self_attn.qkv_proj and 2 more, which the adapter changes; it was made for another"
        " base model: register that one first with zoo register base"
    )


@pytest.mark.parametrize("shape", [(4, 16), (8, 8), (8, 4)])
def test_shapes_that_do_not_fit_are_refused_with_expected_and_got(shape: tuple[int, int]) -> None:
    [result] = compatibility_of(manifest({"model.layers.0.self_attn.v_proj": shape}), BASE, "smollm2")
    assert result.code == "ZOO-E272"
    assert f"v_proj is {shape[0]}×{shape[1]}, expected 4×8" in result.message
    assert "zoo register base" in result.message


def test_missing_modules_and_wrong_shapes_are_both_reported() -> None:
    mixed = {"model.layers.99.self_attn.q_proj": (8, 8), "model.layers.0.self_attn.q_proj": (9, 9)}
    assert codes(compatibility_of(manifest(mixed), BASE, "x")) == ["ZOO-E271", "ZOO-E272"]


@pytest.mark.parametrize(("vocabulary", "fits"), [(100, True), (101, False)])
def test_an_embedding_fits_where_its_vocabulary_does(vocabulary: int, fits: bool) -> None:
    shape = ModuleShape(rank=2, d_in=vocabulary, d_out=8, is_embedding=True)
    adapter = replace(manifest({}), modules={"model.embed_tokens": shape})
    results = compatibility_of(adapter, BASE, "x")
    assert (not refused(results)) is fits


def test_an_output_head_is_a_linear_layer() -> None:
    assert codes(compatibility_of(manifest({"lm_head": (100, 8)}), BASE, "x")) == ["ZOO-OK"]
    assert codes(compatibility_of(manifest({"lm_head": (8, 100)}), BASE, "x")) == ["ZOO-E272"]


def test_files_that_leave_out_the_outermost_name_are_understood() -> None:
    """The hub's gpt2 has h.0.attn.c_attn where the model has transformer.h.0.attn.c_attn."""
    base = {f"h.{layer}.attn.c_attn": (24, 8) for layer in range(2)}
    adapter = manifest({f"transformer.{path}": shape for path, shape in base.items()})
    fits = compatibility_of(adapter, base, "gpt2", architecture="GPT2LMHeadModel")
    assert codes(fits) == ["ZOO-OK"]


def run_renaming(message: str, folder: Path) -> None:
    """Run the command that a refusal names, in the adapter's folder."""
    python, *arguments = shlex.split(message[message.index("python -c") :])
    assert python == "python"
    subprocess.run([sys.executable, *arguments], check=True, cwd=folder)


@pytest.mark.parametrize(
    ("before", "after", "surplus"),
    [
        ("model.layers", "anything.model.layers", "anything"),
        ("model.layers", "one.two.model.layers", "one.two"),
        (".self_attn", ".inner.self_attn", "inner"),
    ],
)
@pytest.mark.processes
def test_names_without_a_module_are_refused_with_the_command_that_removes_them(
    before: str, after: str, surplus: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a")
    file = folder / "adapter_model.safetensors"
    plain = load_file(file)
    save_file({key.replace(before, after, 1): tensor for key, tensor in plain.items()}, file)
    weights = dict.fromkeys(read_adapter(write_adapter(tmp_path / "plain")).modules, (8, 8))
    [refusal] = compatibility_of(read_adapter(folder), weights, "smollm2")
    assert (refusal.level, refusal.code) == (REFUSE, "ZOO-E271")
    first = "model.layers.0.self_attn.q_proj".replace(before, after, 1)
    assert f"smollm2 lacks {first}" in refusal.message
    assert f"the key base_model.model.{first}.lora_A.weight has {surplus} too much" in refusal.message
    run_renaming(refusal.message, folder)
    assert not refused(compatibility_of(read_adapter(folder), weights, "smollm2"))
    renamed = load_file(file)
    assert renamed.keys() == plain.keys()
    assert all((renamed[key] == plain[key]).all() for key in plain)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("model.layers", "_orig_mod.model.layers"),
        ("model.layers", "language_model.model.layers"),
        ("model.layers", "model.language_model.layers"),
        ("base_model", "module.base_model"),
        ("model.layers", "base_model.model.model.layers"),
        ("model.layers", "model.model.layers"),
        (".self_attn", "._orig_mod.self_attn"),
        ("base_model.model.", ""),
        (".weight", ".default.weight"),
    ],
)
def test_names_of_what_is_around_a_model_are_read_over(before: str, after: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    weights = dict.fromkeys(read_adapter(folder).modules, (8, 8))
    file = folder / "adapter_model.safetensors"
    save_file({key.replace(before, after, 1): tensor for key, tensor in load_file(file).items()}, file)
    assert not refused(compatibility_of(read_adapter(folder), weights, "smollm2"))


@pytest.mark.parametrize("path", ["h.0.attn.c_attn", "model.h.0.attn.c_attn"])
def test_a_prefix_that_the_loaded_model_has_is_not_left_out_in_an_adapter(path: str) -> None:
    base = {"h.0.attn.c_attn": (24, 8)}
    [refusal] = compatibility_of(manifest({path: (24, 8)}), base, "gpt2", architecture="GPT2LMHeadModel")
    assert refusal.code == "ZOO-E271"


@pytest.mark.parametrize(("module", "is_embedding"), [("lm_head", True), ("model.embed_tokens", False)])
def test_a_linear_layer_is_no_embedding(module: str, is_embedding: bool) -> None:
    d_in, d_out = (100, 8) if is_embedding else (8, 100)
    shape = ModuleShape(rank=2, d_in=d_in, d_out=d_out, is_embedding=is_embedding)
    [refusal] = compatibility_of(replace(manifest({}), modules={module: shape}), BASE, "x")
    assert refusal.code == "ZOO-E272"


def test_layers_that_are_left_out_are_warned_of() -> None:
    adapter = manifest(of(range(24), "self_attn.q_proj", "self_attn.v_proj") | of(range(30), "mlp.down_proj"))
    fits, warning = compatibility_of(adapter, BASE, "x")
    assert (fits.level, warning.level, warning.code) == (OK, WARN, "ZOO-W204")
    assert warning.message == "24 of 30 layers are adapted: self_attn.q_proj, self_attn.v_proj"


def test_a_missing_licence_and_what_reading_found_are_warned_of() -> None:
    adapter = manifest(of(range(LAYERS), "self_attn.q_proj"), licence=None, warnings=("left out: x",))
    results = compatibility_of(adapter, BASE, "x")
    assert codes(results) == ["ZOO-OK", "ZOO-W201", "ZOO-W205"]
    assert results[1].message == "left out: x"


@dataclass(frozen=True)
class Expert:
    name: str
    weights_digest: str
    base_digest: str = "sha256:base"
    base_name: str = "smollm2"
    rank: int = 8
    modules: tuple[str, ...] = ("a", "b")
    licence: str | None = "mit"
    domains: tuple[str, ...] = ()


BIO, PROTEIN, MATERIALS = (
    Expert("bio", "sha256:1", domains=("biology",)),
    Expert("protein", "sha256:2"),
    Expert("materials", "sha256:3"),
)


def test_experts_that_go_together_do() -> None:
    assert codes(joint_compatibility_of([BIO, PROTEIN, MATERIALS])) == ["ZOO-OK"]


def test_nothing_is_said_of_no_experts() -> None:
    assert joint_compatibility_of([]) == ()


@pytest.mark.parametrize(
    ("other", "code", "message"),
    [
        (replace(PROTEIN, base_digest="sha256:x", base_name="qwen"), "ZOO-E273", "bio on smollm2"),
        (replace(PROTEIN, base_digest="sha256:x"), "ZOO-E273", "protein on smollm2 (sha256:x…)"),
        (replace(PROTEIN, name="bio"), "ZOO-E274", "bio is named 2 times"),
        (replace(PROTEIN, weights_digest="sha256:1"), "ZOO-E275", "bio and protein hold the same weights"),
    ],
)
def test_what_cannot_go_together_is_refused(other: Expert, code: str, message: str) -> None:
    [result] = joint_compatibility_of([BIO, other])
    assert (result.level, result.code) == (REFUSE, code)
    assert message in result.message


@pytest.mark.parametrize(
    ("other", "code", "message"),
    [
        (replace(PROTEIN, rank=4), "ZOO-W202", "bio 8, protein 4"),
        (replace(PROTEIN, modules=("a",)), "ZOO-W203", "bio 2, protein 1"),
        (replace(PROTEIN, licence=None), "ZOO-W205", "no licence is stated for protein"),
        (replace(PROTEIN, domains=("biology",)), "ZOO-W210", "bio and protein are all of biology"),
    ],
)
def test_what_goes_together_badly_is_warned_of(other: Expert, code: str, message: str) -> None:
    fits, warning = joint_compatibility_of([BIO, other])
    assert (fits.level, warning.level, warning.code) == (OK, WARN, code)
    assert message in warning.message


def test_the_order_of_modules_does_not_count() -> None:
    assert codes(joint_compatibility_of([BIO, replace(PROTEIN, modules=("b", "a"))])) == ["ZOO-OK"]
