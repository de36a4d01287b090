"""Adapters of AdapterHub's library `adapters`: its LoRA is PEFT's under other keys; its other kinds are not.

Source: adapters 1.2, `methods/lora.py`: `alpha / r * (x @ lora_A.T) @ lora_B.T`, lora_A [r, d_in] and lora_B
[d_out, r], under `<module>.loras.<name>.lora_A`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from formats.strict_json import shown
from registry.errors import AdapterConfigInvalid, NotALora, WeightsInvalid
from registry.files.safetensors_file import TensorEntry
from registry.intake.makers.conversion import Conversion, LoraModule, converted

NAME = "AdapterHub"

_KEY = re.compile(r"(?P<module>.+)\.loras\.(?P<adapter>[^.]+)\.lora_(?P<half>[AB])")
_HINT = "train a LoRA adapter with PEFT, or with adapters' LoRAConfig"


def states_adapterhub(config: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is one of the library `adapters`."""
    return "peft_type" not in config and isinstance(config.get("config"), Mapping | str)


def convert_adapterhub(config: Mapping[str, Any], entries: Sequence[TensorEntry]) -> Conversion:
    """A LoRA adapter of the library `adapters` in PEFT's form.

    Raises:
        NotALora: it is a bottleneck adapter, prefix tuning, (IA)³ or another kind; the message names it.
        AdapterConfigInvalid: rank or alpha are not stated.
        WeightsInvalid: a tensor is no factor of a linear layer.
    """
    stated = refuse_other_kinds(config)
    rank, alpha = stated.get("r"), stated.get("alpha")
    if type(rank) is not int or not isinstance(alpha, int | float):
        raise AdapterConfigInvalid(
            f"the AdapterHub adapter states r {shown(rank)} and alpha {shown(alpha)}, expected two numbers"
        )
    halves: dict[str, dict[str, TensorEntry]] = {}
    for entry in entries:
        found = _KEY.fullmatch(entry.name)
        if found is None:
            raise WeightsInvalid(
                f"tensor {shown(entry.name)} of the AdapterHub adapter is no factor of a linear layer;"
                f" {_HINT}"
            )
        halves.setdefault(found["module"], {})[found["half"]] = entry
    modules = {path: _module(path, found, rank, alpha) for path, found in sorted(halves.items())}
    if not modules:
        raise WeightsInvalid("the AdapterHub adapter holds no tensors")
    return converted(
        NAME, modules, is_transposed=False, base=config.get("model_name"), dropout=stated.get("dropout", 0.0)
    )


def head_note(files: Iterable[str]) -> str | None:
    """What a prediction head beside the adapter means, which `adapters` trains where it is not tied."""
    heads = [name for name in files if name.startswith(("model_head.", "pytorch_model_head."))]
    if not heads:
        return None
    return (
        f"the prediction head beside it ({heads[0]}) is not taken: if it was trained too, as AdapterHub's"
        " library does where it is not tied to the embedding, the adapter alone computes something else;"
        " score it with zoo eval"
    )


def refuse_other_kinds(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a LoRA adapter inside; NotALora, naming the kind, for any other."""
    stated = config["config"]
    kind = stated.get("architecture") if isinstance(stated, Mapping) else stated
    if not isinstance(stated, Mapping) or kind != "lora":
        named = f"of the kind {shown(kind)}" if kind else "a bottleneck adapter (reduction_factor)"
        raise NotALora(
            f"this is an adapter of AdapterHub's library `adapters`, {named}, which adds layers of its own"
            f" and is no LoRA; it cannot be converted: {_HINT}"
        )
    for field, wanted in (
        ("composition_mode", "add"),
        ("use_gating", False),
        ("use_dora", False),
        ("vera_d", None),
        ("vera_b", None),
    ):
        if stated.get(field, wanted) != wanted:
            raise NotALora(
                f"the AdapterHub adapter has {field} = {shown(stated[field])}, which plain LoRA does not"
                f" compute; {_HINT}"
            )
    return stated


def _module(path: str, found: Mapping[str, TensorEntry], rank: int, alpha: float) -> LoraModule:
    if len(found) != 2:
        raise WeightsInvalid(
            f"{path} of the AdapterHub adapter lacks its lora_{'B' if 'A' in found else 'A'}"
        )
    if found["A"].shape[:1] != (rank,):
        raise WeightsInvalid(
            f"{path} has lora_A {list(found['A'].shape)}, expected [{rank}, …]: a layer that computes query,"
            " key and value at once has factors for each, which are not one LoRA"
        )
    return LoraModule(rank=rank, alpha=float(alpha), a=found["A"], b=found["B"])
