"""Adapters of mlx-lm: factors are transposed, and the scale is a number of its own.

Source: mlx-lm 0.32, `tuner/lora.py`: `y + scale * (x @ lora_a) @ lora_b`, with lora_a [d_in, rank] and lora_b
[rank, d_out]; `save_config` for the fields of adapter_config.json.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from formats.strict_json import shown
from registry.errors import AdapterConfigInvalid, InvalidAdapter, NotALora, WeightsInvalid
from registry.files.safetensors_file import TensorEntry
from registry.intake.makers.conversion import Conversion, LoraModule, converted

NAME = "MLX"

_A, _B, _MAGNITUDE = "lora_a", "lora_b", "m"
#: Its factors change the output head too, where that is tied to it, which PEFT's do not.
_EMBEDDINGS = ("embed_tokens", "wte", "tok_embeddings", "embed_in", "word_embeddings")


def states_mlx(config: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is one of mlx-lm."""
    return "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config)


def convert_mlx(config: Mapping[str, Any], entries: Sequence[TensorEntry]) -> Conversion:
    """An mlx-lm adapter in PEFT's form.

    Raises:
        NotALora: it is DoRA.
        AdapterConfigInvalid: rank or scale are not stated, or mean one thing or another by the release.
        InvalidAdapter: it is a whole fine-tuned model.
        WeightsInvalid: a tensor is no factor of a linear layer.
    """
    rank, scale = check_mlx(config)
    halves: dict[str, dict[str, TensorEntry]] = {}
    for entry in entries:
        path, _, half = entry.name.rpartition(".")
        _refuse_tensor(entry, path, half)
        halves.setdefault(path, {})[half] = entry
    modules = {path: _module(path, found, rank, scale) for path, found in sorted(halves.items())}
    if not modules:
        raise WeightsInvalid("the MLX adapter holds no tensors")
    stated = config.get("lora_parameters", {})
    return converted(
        NAME, modules, is_transposed=True, base=config.get("model"), dropout=stated.get("dropout", 0.0)
    )


def check_mlx(config: Mapping[str, Any]) -> tuple[int, float]:
    """Rank and scale that an mlx-lm adapter states; raises as `convert_mlx`."""
    _refuse_other_kinds(config)
    return _rank_and_scale(config)


def _refuse_other_kinds(config: Mapping[str, Any]) -> None:
    kind = config.get("fine_tune_type", "lora")
    if kind == "dora" or config.get("use_dora"):
        raise NotALora("the MLX adapter is DoRA, which rescales the base model's weights; train it with LoRA")
    if kind != "lora":
        raise InvalidAdapter(
            f"MLX fine-tuned {shown(kind)}, no LoRA adapter: the whole model is what was trained; write it"
            " with mlx_lm.fuse and register it as a base model, or train with --fine-tune-type lora"
        )


def _rank_and_scale(config: Mapping[str, Any]) -> tuple[int, float]:
    stated = config.get("lora_parameters")
    if not isinstance(stated, Mapping):
        raise AdapterConfigInvalid(
            "the MLX adapter's adapter_config.json has no lora_parameters, so its scale is unknown; add"
            ' "lora_parameters": {"rank": …, "scale": …} as it was trained'
        )
    rank, scale, alpha = stated.get("rank"), stated.get("scale"), stated.get("alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise AdapterConfigInvalid(
            f"lora_parameters.rank of the MLX adapter is {shown(rank)}, expected a number"
        )
    if not isinstance(scale, int | float) or isinstance(scale, bool):
        raise AdapterConfigInvalid(
            f"lora_parameters.scale of the MLX adapter is {shown(scale)}, expected a number: the factor of"
            " its update, without which nobody knows what it computes"
        )
    if alpha is not None and alpha != rank and not _multiplies_by_scale_alone(config):
        raise AdapterConfigInvalid(
            f"lora_parameters of the MLX adapter has alpha {shown(alpha)} beside scale {shown(scale)}:"
            " earlier releases of mlx-lm multiply by scale * alpha / rank, later ones by scale. Remove alpha,"
            " and where an earlier one trained it, give that product as scale"
        )
    return rank, float(scale)


def _multiplies_by_scale_alone(config: Mapping[str, Any]) -> bool:
    """Whether it is of a release that passes over alpha, which its default settings stated until April 2025.

    The field came with full fine-tuning, in September 2024, when the maintainers said that scale is the whole
    factor. Source: mlx-examples, pull request 903 and issue 982; mlx-lm, pull request 65.
    """
    return "fine_tune_type" in config


def _refuse_tensor(entry: TensorEntry, path: str, half: str) -> None:
    if half == _MAGNITUDE:
        raise NotALora(f"{shown(entry.name)} is DoRA's magnitude; train the MLX adapter with LoRA")
    if half not in (_A, _B) or not path:
        raise WeightsInvalid(
            f"tensor {shown(entry.name)} is no factor of an MLX adapter, as <module>.lora_a and .lora_b are"
        )
    if len(entry.shape) == 3:
        raise WeightsInvalid(
            f"{shown(entry.name)} adapts the experts of a mixture-of-experts layer at once, which no mixture"
            " of adapters takes; train without them (lora_parameters.keys)"
        )
    if path.rpartition(".")[2] in _EMBEDDINGS:
        raise WeightsInvalid(
            f"{shown(entry.name)} adapts the embedding: where the output head is tied to it, MLX changes"
            " that too and PEFT does not, so it cannot be converted exactly; train without it"
            " (lora_parameters.keys)"
        )


def _module(path: str, found: Mapping[str, TensorEntry], rank: int, scale: float) -> LoraModule:
    if len(found) != 2:
        raise WeightsInvalid(f"{path} of the MLX adapter lacks its {_B if _A in found else _A}")
    return LoraModule(rank=rank, alpha=scale * rank, a=found[_A], b=found[_B])
