"""Adapters of other programs compute in PEFT's form what they computed in their own, or are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.errors import Incompatible, InvalidAdapter, RegistryError
from registry.files.staging import Staging
from registry.intake.adapter_files import AdapterManifest, stage_adapter
from tests.pico import pico_llama
from tests.registry.intake.makers.folders import (
    SHAPES,
    Updates,
    write_adapterhub,
    write_kohya,
    write_mlx,
)

Write = Callable[[Path], Updates]


def stage(given: Path, stored: Path) -> AdapterManifest:
    stored.mkdir()
    return stage_adapter(given, Staging(stored), module_paths=lambda: [("other",), tuple(SHAPES)])


@pytest.mark.parametrize(
    ("write", "given"),
    [
        (write_mlx, "a"),
        (lambda folder: write_mlx(folder, dtype=torch.bfloat16), "a"),
        (lambda folder: write_mlx(folder, lora_parameters={"rank": 3, "scale": 3.3, "alpha": 16}), "a"),
        (lambda folder: write_mlx(folder, fine_tune_type=..., model=...), "a"),
        (write_adapterhub, "a"),
        (lambda folder: write_kohya(folder / "last.safetensors"), "a"),
        (lambda folder: write_kohya(folder / "x.safetensors", prefix="lycoris"), "a/x.safetensors"),
        (lambda folder: write_kohya(folder / "x.safetensors", prefix="lora_te1", alpha=None), "a"),
    ],
    ids=[
        "mlx",
        "mlx bfloat16",
        "mlx with alpha, unread",
        "mlx, settings alone",
        "adapterhub",
        "kohya",
        "lycoris",
        "kohya without alpha",
    ],
)
def test_what_is_converted_computes_the_same(tmp_path: Path, write: Write, given: str) -> None:
    """The base model with each update added to its weight, against PEFT with what was converted."""
    from peft import PeftModel

    updates = write(tmp_path / "a")
    manifest = stage(tmp_path / given, tmp_path / "stored")
    assert set(manifest.modules) == set(SHAPES)
    assert "computes the same" in manifest.warnings[0]
    tokens = torch.arange(12)[None]
    changed = pico_llama()
    with torch.no_grad():
        base = changed(tokens).logits
        for path, update in updates.items():
            changed.get_submodule(path).weight += update  # type: ignore[operator]
        expected = changed(tokens).logits
        model = PeftModel.from_pretrained(pico_llama(), tmp_path / "stored", autocast_adapter_dtype=True)
        torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(base, expected, atol=0.1)


def test_values_are_moved_bit_for_bit_in_their_dtype(tmp_path: Path) -> None:
    write_mlx(tmp_path / "a", dtype=torch.bfloat16)
    manifest = stage(tmp_path / "a", tmp_path / "stored")
    given = load_file(tmp_path / "a" / "adapters.safetensors")
    stored = load_file(tmp_path / "stored" / "adapter_model.safetensors")
    assert manifest.dtype == "bfloat16"
    assert (manifest.config.alpha, manifest.config.base_model_name_or_path) == (3.3 * 3, "acme/poems-4bit")
    for path in SHAPES:
        for half, name in (("A", "lora_a"), ("B", "lora_b")):
            assert torch.equal(
                stored[f"base_model.model.{path}.lora_{half}.weight"], given[f"{path}.{name}"].T
            )


def test_mlx_states_no_metadata_as_null(tmp_path: Path) -> None:
    write_mlx(tmp_path / "a")
    file = tmp_path / "a" / "adapters.safetensors"
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = json.dumps({"__metadata__": None, **header}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :])
    assert len(stage(tmp_path / "a", tmp_path / "stored").modules) == len(SHAPES)


def test_a_numbered_checkpoint_of_mlx_is_taken_on_request(tmp_path: Path) -> None:
    write_mlx(tmp_path / "a")
    early = {
        name: tensor * 0.5 for name, tensor in load_file(tmp_path / "a" / "adapters.safetensors").items()
    }
    save_file(early, tmp_path / "a" / "0000100_adapters.safetensors")
    digests = {}
    for asked in (None, "last", "100"):
        stored = tmp_path / f"stored-{asked}"
        stored.mkdir()
        digests[asked] = stage_adapter(tmp_path / "a", Staging(stored), checkpoint=asked).weights_digest
    assert digests[None] == digests["last"] != digests["100"]
    with pytest.raises(InvalidAdapter, match="has no training checkpoint"):
        stage_adapter(tmp_path / "a", Staging(tmp_path), checkpoint="200")


def test_a_head_beside_an_adapterhub_adapter_is_mentioned(tmp_path: Path) -> None:
    write_adapterhub(tmp_path / "a")
    (tmp_path / "a" / "model_head.safetensors").write_bytes(b"")
    assert (
        "prediction head beside it (model_head.safetensors)"
        in stage(tmp_path / "a", tmp_path / "s").warnings[1]
    )


def _spoil(write: Write, name: str, spoil: Callable[[dict[str, torch.Tensor]], object]) -> Write:
    def written(folder: Path) -> Updates:
        updates = write(folder)
        tensors = load_file(folder / name)
        spoil(tensors)
        save_file(tensors, folder / name)
        return updates

    return written


def _kohya(folder: Path) -> Updates:
    return write_kohya(folder / "last.safetensors")


DOWN = "lora_te_layers_0_mlp_down_proj.lora_down.weight"
LORA_A = "model.layers.0.mlp.down_proj.lora_a"

REFUSED: dict[str, tuple[Write, str]] = {
    "mlx dora": (lambda path: write_mlx(path, fine_tune_type="dora"), "MLX adapter is DoRA"),
    "mlx full": (lambda path: write_mlx(path, fine_tune_type="full"), "mlx_lm.fuse"),
    "mlx without scale": (
        lambda path: write_mlx(path, lora_parameters={"rank": 3}),
        "scale of the MLX adapter",
    ),
    "mlx without rank": (
        lambda path: write_mlx(path, lora_parameters={"scale": 3}),
        "rank of the MLX adapter",
    ),
    "mlx without all": (lambda path: write_mlx(path, lora_parameters=None), "has no lora_parameters"),
    "mlx of an old release": (
        lambda path: write_mlx(
            path, fine_tune_type=..., lora_layers=2, lora_parameters={"rank": 3, "scale": 3.3, "alpha": 16}
        ),
        r"scale \* alpha / rank",
    ),
    "mlx of another rank": (
        lambda path: write_mlx(path, lora_parameters={"rank": 4, "scale": 3.3}),
        "expected rank 4",
    ),
    "mlx experts": (
        _spoil(
            write_mlx, "adapters.safetensors", lambda t: t.update({"x.experts.lora_a": torch.ones(2, 3, 4)})
        ),
        "mixture-of-experts",
    ),
    "mlx embedding": (
        _spoil(
            write_mlx, "adapters.safetensors", lambda t: t.update({"embed_tokens.lora_a": torch.ones(2, 3)})
        ),
        "adapts the embedding",
    ),
    "mlx magnitude": (
        _spoil(write_mlx, "adapters.safetensors", lambda t: t.update({"x.m": torch.ones(2)})),
        "DoRA's magnitude",
    ),
    "mlx half": (
        _spoil(write_mlx, "adapters.safetensors", lambda t: t.pop(LORA_A)),
        "lacks its lora_a",
    ),
    "adapterhub gating": (lambda path: write_adapterhub(path, use_gating=True), "use_gating = True"),
    "adapterhub bottleneck": (
        lambda path: write_adapterhub(path, architecture=None, reduction_factor=16),
        "a bottleneck adapter",
    ),
    "adapterhub prefix": (
        lambda path: write_adapterhub(path, architecture="prefix_tuning"),
        "of the kind 'prefix_tuning'",
    ),
    "adapterhub merged layer": (lambda path: write_adapterhub(path, r=1), "query, key and value at once"),
    "adapterhub without rank": (lambda path: write_adapterhub(path, r=None), "states r None"),
    "kohya for images": (
        lambda path: write_kohya(path / "x.safetensors", prefix="lora_unet"),
        "a model of images",
    ),
    "kohya loha": (
        _spoil(_kohya, "last.safetensors", lambda t: t.update({"lora_te_x.hada_w1_a": torch.ones(2, 2)})),
        "is of LoHa",
    ),
    "kohya convolution": (
        _spoil(_kohya, "last.safetensors", lambda t: t.update({DOWN: torch.ones(3, 64, 1, 1)})),
        "is of a convolution",
    ),
    "kohya half": (
        _spoil(_kohya, "last.safetensors", lambda t: t.pop(DOWN)),
        "lacks its lora_down.weight",
    ),
    "kohya alphas": (
        _spoil(
            _kohya,
            "last.safetensors",
            lambda t: t.update({"lora_te_layers_0_mlp_down_proj.alpha": torch.ones(2)}),
        ),
        "expected one number",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exact_is_refused_by_name(tmp_path: Path, case: str) -> None:
    write, words = REFUSED[case]
    write(tmp_path / "a")
    with pytest.raises(RegistryError, match=words):
        stage(tmp_path / "a", tmp_path / "stored")


def test_a_file_of_tensors_alone_that_nobody_s_program_wrote_is_refused(tmp_path: Path) -> None:
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2, 2)}, tmp_path / "weights.safetensors")
    with pytest.raises(InvalidAdapter, match=r"weights.safetensors.*adapter_config.json"):
        stage(tmp_path / "weights.safetensors", tmp_path / "stored")


def test_a_lora_of_diffusers_is_called_that(tmp_path: Path) -> None:
    tensors = {"transformer.blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(InvalidAdapter, match="a LoRA of diffusers"):
        stage(tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "stored")


def test_without_a_base_model_kohya_s_names_have_no_dots(tmp_path: Path) -> None:
    _kohya(tmp_path / "a")
    with pytest.raises(Incompatible, match="layers_0_mlp_down_proj"):
        stage_adapter(tmp_path / "a", Staging(tmp_path))
