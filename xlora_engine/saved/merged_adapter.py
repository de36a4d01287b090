"""An adapter added to the weights of its base model: a base model of its own, which needs no PEFT to load."""

import json
import shutil
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from formats.strict_json import read_object
from xlora_engine.errors import NotRepresentable, SavedFileUnreadable
from xlora_engine.sources.adapter_weights import Expert, LowRank
from xlora_engine.sources.base_model import load_base
from xlora_engine.sources.expert_fit import check_fits, placed

_CONFIG_FILE = "config.json"
#: Files of a base model's folder that say nothing of its weights or their shapes.
_OTHER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model"),
    *("chat_template*", "generation_config.json", "LICENSE*", "NOTICE*"),
)


def write_merged(expert: Expert, base_folder: Path, folder: Path, *, dtype: torch.dtype) -> float:
    """Write the base model with the adapter added to its weights, which are rounded to `dtype`.

    What rounding changes, as a share of what the adapter changes: root mean squares over all adapted weights.
    Sums are computed in float64.

    Raises:
        ExpertMismatch: the adapter does not fit the base model.
        NotRepresentable: the base model's weights are quantised, or input and output share a weight of which
            the adapter changes one use.
    """
    model = load_base(base_folder, dtype=dtype, device=torch.device("cpu"))
    expert = placed(expert, model)
    check_fits(expert, model)
    _require_untied(expert, model)
    lost, added = 0.0, 0.0
    for path, update in expert.updates.items():
        module = model.get_submodule(path)
        weight = module.weight
        if not isinstance(weight, Tensor) or weight.dtype != dtype:
            raise NotRepresentable(
                "merged", path, f"its weights are stored as {_stored(weight)}, not {dtype}"
            )
        change = _change(update, module)
        exact = weight.data.double() + change
        weight.data = exact.to(dtype)
        lost += float((weight.data.double() - exact).square().sum())
        added += float(change.square().sum())
    model.save_pretrained(folder)
    _keep_config(base_folder, folder, model)
    for pattern in _OTHER_FILES:
        for file in base_folder.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    return (lost / added) ** 0.5 if added else 0.0


def _keep_config(base_folder: Path, folder: Path, model: PreTrainedModel) -> None:
    """Write the base model's own configuration, in the form that programs read which read it of the base.

    transformers moves what older releases read, `rope_theta` for one.
    """
    config = read_object(base_folder / _CONFIG_FILE, refusal=SavedFileUnreadable)
    if config.get("architectures") != [type(model).__name__]:
        return
    named = "torch_dtype" if "torch_dtype" in config else "dtype"
    config[named] = str(model.dtype).removeprefix("torch.")
    (folder / _CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _change(update: LowRank, module: nn.Module) -> Float[Tensor, "..."]:
    """What an update adds to a module's weight, in the weight's own layout."""
    change = update.scale * (update.B.double() @ update.A.double())
    # A Conv1D holds its weight as `d_in d_out`, an embedding as `tokens d_out`.
    return change.T if update.is_embedding or hasattr(module, "nf") else change


def _stored(weight: object) -> str:
    return str(getattr(weight, "dtype", type(weight).__name__))


def _require_untied(expert: Expert, model: PreTrainedModel) -> None:
    into, out = model.get_input_embeddings(), model.get_output_embeddings()
    if into is None or out is None or into.weight is not out.weight:
        return
    changed = [path for path in expert.updates if model.get_submodule(path) in (into, out)]
    if changed:
        raise NotRepresentable(
            "merged",
            "target_modules",
            f"the base model's input and output share one weight, of which {changed[0]!r} is one use alone",
        )
