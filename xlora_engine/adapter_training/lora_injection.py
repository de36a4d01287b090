"""A base model with a new LoRA adapter in it temporarily, through PEFT; and the adapter's folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, set_seed

from formats.peft import CONFIG_FILE, WEIGHTS_FILE, config_text
from formats.target_modules import ALL_LINEAR
from xlora_engine.errors import ConfigInvalid


@contextmanager
def injected(base: PreTrainedModel, config: LoraConfig, *, seed: int) -> Iterator[PeftModel]:
    """The base model with an adapter initialised by `seed`; restored afterwards, frozen and in eval mode.

    Raises:
        ConfigInvalid: a target module that the base model does not have.
    """
    _check_targets(base, config)
    described = base.config.get_text_config(decoder=True)
    use_cache = described.use_cache  # a Trainer turns it off permanently
    set_seed(seed)
    # PEFT keeps an adapter in float32 over a base of lower precision: in bfloat16 the last, small steps
    # of an optimiser would be rounded away.
    model = get_peft_model(base, config)
    # PEFT records the base model's path on this machine, and asks the hub about it at every save.
    model.peft_config["default"].base_model_name_or_path = ""
    try:
        yield model
    finally:
        model.unload()
        base.requires_grad_(False)
        base.eval()
        described.use_cache = use_cache


def write_adapter(model: PeftModel, folder: Path, *, base_name: str) -> None:
    """Write the adapter as PEFT does: configuration and safetensors, equal bytes for equal weights."""
    targets = _targets(model)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    for path in folder.iterdir():
        if path.name not in (CONFIG_FILE, WEIGHTS_FILE):
            path.unlink()  # PEFT adds an empty model card
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = targets
    (folder / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")


def _targets(model: PeftModel) -> list[str]:
    """The adapted modules, sorted: the last parts of their names if these identify them."""
    adapted = set(model.targeted_module_names)
    leaves = {path.rpartition(".")[2] for path in adapted}
    paths = [path for path, _ in model.base_model.model.named_modules()]
    named = {path for path in paths if path.rpartition(".")[2] in leaves}
    return sorted(leaves if named == adapted else adapted)


def _check_targets(base: PreTrainedModel, config: LoraConfig) -> None:
    if config.target_modules == ALL_LINEAR:
        return
    paths = [path for path, _ in base.named_modules()]
    for target in config.target_modules:
        # PEFT ignores a name that matches nothing if another one matches.
        if not any(f".{path}".endswith(f".{target}") for path in paths):
            raise ConfigInvalid("target_modules", "names of the base model's modules", target)
