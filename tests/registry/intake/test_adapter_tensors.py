"""From tensors to modules: complete pairs of the right rank, or a refusal that names the tensor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.errors import ChangesNothing, WeightsInvalid
from registry.files.safetensors_file import TensorEntry, opened_tensors
from registry.intake.adapter_config import AdapterConfig, parse_config
from registry.intake.adapter_tensors import AdapterValues, ModuleShape, dtype_name, pair_modules, read_values

#: Tensor name -> shape.
Shapes = dict[str, tuple[int, ...]]

Q = "base_model.model.layers.0.q_proj"
E = "base_model.model.embed_tokens"


def config(**fields: Any) -> AdapterConfig:
    import json

    stated = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "embed_tokens"],
        **fields,
    }
    return parse_config(json.dumps(stated).encode())


def entries(shapes: Shapes, dtype: str = "F32") -> list[TensorEntry]:
    return [
        TensorEntry(name=name, dtype=dtype, shape=shape, begin=0, end=0) for name, shape in shapes.items()
    ]


def test_a_pair_is_a_module_with_its_shape() -> None:
    found = pair_modules(entries({f"{Q}.lora_B.weight": (8, 2), f"{Q}.lora_A.weight": (2, 16)}), config())
    assert found == {"layers.0.q_proj": ModuleShape(rank=2, d_in=16, d_out=8)}


def test_an_embedding_maps_from_its_vocabulary() -> None:
    found = pair_modules(
        entries({f"{E}.lora_embedding_A": (2, 100), f"{E}.lora_embedding_B": (8, 2)}), config()
    )
    assert found == {"embed_tokens": ModuleShape(rank=2, d_in=100, d_out=8, is_embedding=True)}


def test_ranks_follow_the_pattern() -> None:
    shapes: Shapes = {
        f"{Q}.lora_A.weight": (4, 8),
        f"{Q}.lora_B.weight": (8, 4),
        "base_model.model.layers.1.q_proj.lora_A.weight": (2, 8),
        "base_model.model.layers.1.q_proj.lora_B.weight": (8, 2),
    }
    found = pair_modules(entries(shapes), config(rank_pattern={"layers.0.q_proj": 4}))
    assert [shape.rank for shape in found.values()] == [4, 2]


PAIR: Shapes = {f"{Q}.lora_A.weight": (2, 8), f"{Q}.lora_B.weight": (8, 2)}
WRONG: dict[str, tuple[Shapes, str]] = {
    "no tensors": ({}, "no tensors"),
    "no B": ({f"{Q}.lora_A.weight": (2, 8)}, r"layers.0.q_proj lacks its factor B"),
    "no A": ({f"{Q}.lora_B.weight": (8, 2)}, r"layers.0.q_proj lacks its factor A"),
    "A of another rank": (PAIR | {f"{Q}.lora_A.weight": (3, 8)}, r"A \[3, 8\] and B \[8, 2\], expected"),
    "B of another rank": (PAIR | {f"{Q}.lora_B.weight": (8, 3)}, "expected rank 2"),
    "a convolution": (
        {f"{Q}.lora_A.weight": (2, 8, 3, 3), f"{Q}.lora_B.weight": (8, 2, 1, 1)},
        r"lora_A.weight' has shape \[2, 8, 3, 3\].*no convolutions",
    ),
    "an empty factor": (PAIR | {f"{Q}.lora_A.weight": (2, 0)}, r"has shape \[2, 0\]"),
    "no module": ({"base_model.model..lora_A.weight": (2, 8)}, "names no module"),
    "a path upwards": ({"base_model.model.../x.lora_A.weight": (2, 8)}, "names no module"),
    "DoRA": (PAIR | {f"{Q}.lora_magnitude_vector": (8,)}, "DoRA"),
    "a saved module": (PAIR | {"base_model.model.modules_to_save.x.weight": (8, 8)}, "modules_to_save"),
    "two adapters": (
        {
            f"{Q}.lora_A.weight": (2, 8),
            f"{Q}.lora_B.reference.weight": (8, 2),
        },
        r"several adapters \( and reference\)",
    ),
    "a classifier": (PAIR | {"base_model.model.score.weight": (3, 8)}, "of a classifier, which gives labels"),
    "a UNet": (
        {
            "base_model.model.unet.down_blocks.0.to_q.lora_A.weight": (2, 8),
            "base_model.model.unet.down_blocks.0.to_q.lora_B.weight": (8, 2),
        },
        "of a diffusion model",
    ),
    "a T5": (
        {
            "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight": (2, 8),
            "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight": (8, 2),
        },
        "of an encoder or encoder-decoder",
    ),
    "a bias": (PAIR | {f"{Q}.lora_B.bias": (8,)}, "bias='none'"),
    "a module of both kinds": (
        {f"{Q}.lora_A.weight": (2, 8), f"{Q}.lora_embedding_B": (8, 2)},
        "two factors B|lacks|has two",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_complete_set_of_pairs_is_refused_by_name(what: str) -> None:
    shapes, reason = WRONG[what]
    with pytest.raises(WeightsInvalid, match=reason):
        pair_modules(entries(shapes), config())


def test_copies_of_the_base_model_s_weights_are_no_updates() -> None:
    shapes = PAIR | {f"{E}.base_layer.weight": (100, 8), "base_model.model.lm_head.weight": (100, 8)}
    assert list(pair_modules(entries(shapes), config())) == ["layers.0.q_proj"]


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3", "U8", "BOOL", "I64"])
def test_quantised_factors_are_refused(dtype: str) -> None:
    with pytest.raises(WeightsInvalid, match=f"lora_A.weight' is {dtype}"):
        pair_modules(entries(PAIR, dtype), config())


def written(path: Path, a: float, b: float, other_b: float = 1.0) -> Path:
    one = np.ones((2, 8), np.float32)
    tensors = {
        f"{Q}.lora_A.weight": one * a,
        f"{Q}.lora_B.weight": one.T.copy() * b,
        "base_model.model.layers.1.q_proj.lora_A.weight": one,
        "base_model.model.layers.1.q_proj.lora_B.weight": one.T.copy() * other_b,
    }
    save_file(tensors, path)
    return path


def values(path: Path) -> AdapterValues:
    with opened_tensors(path) as file:
        return read_values(file)


@pytest.mark.parametrize(("a", "b", "zero"), [(1, 1, 0), (1, 0, 1), (0, 1, 1), (0, 0, 1)])
def test_modules_without_effect_are_counted(tmp_path: Path, a: float, b: float, zero: int) -> None:
    path = written(tmp_path / "x", a, b)
    assert values(path).zero_modules == zero


@pytest.mark.parametrize(("a", "b"), [(1, 0), (0, 1), (1, -0.0)])
def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path, a: float, b: float) -> None:
    path = written(tmp_path / "x", a, b, other_b=0)
    with pytest.raises(ChangesNothing, match=r"zero in all 2 modules.*changes nothing"):
        values(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused_by_the_tensor_s_name(tmp_path: Path, value: float) -> None:
    path = written(tmp_path / "x", 1, value)
    with pytest.raises(WeightsInvalid, match=r"layers.0.q_proj.lora_B.weight' holds NaN or infinity"):
        values(path)


def test_dtypes_have_their_usual_names() -> None:
    assert dtype_name(entries(PAIR, "BF16")) == "bfloat16"
    assert dtype_name([*entries(PAIR, "F32"), *entries(PAIR, "F16")]) == "float16,float32"
