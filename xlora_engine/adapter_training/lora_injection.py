"""A base model with a new LoRA adapter in it temporarily, through PEFT; and the adapter's folder."""

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from formats.peft import CONFIG_FILE, WEIGHTS_FILE, config_text
from formats.target_modules import ALL_LINEAR
from xlora_engine.errors import ConfigInvalid
from xlora_engine.sources.architectures import decoder_of, rereads_cache

#: What families call the layers of a feed-forward network.
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3")


@contextmanager
def injected(base: PreTrainedModel, config: LoraConfig, *, seed: int) -> Iterator[PeftModel]:
    """The base model with an adapter initialised by `seed`; restored afterwards, frozen and in eval mode.

    Raises:
        ConfigInvalid: a target module that the base model does not have.
    """
    _check_targets(base, config)
    config = _of_text(base, config)
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


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Give the adapter the weights in a folder.

    Raises:
        ConfigInvalid: they are of other modules or of another rank.
    """
    weights = load_file(folder / WEIGHTS_FILE)
    wanted = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if found != wanted:
        differing = sorted(name for name, _ in found.items() ^ wanted.items())
        allowed = f"an adapter of the modules and rank that are trained (it differs in {differing[0]})"
        raise ConfigInvalid("initial_adapter", allowed, str(folder))
    set_peft_model_state_dict(model, weights)


def write_adapter(model: PeftModel, folder: Path, *, base_name: str) -> None:
    """Write the adapter as PEFT does: configuration and safetensors, equal bytes for equal weights."""
    targets = _targets(model)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    for path in folder.iterdir():
        if path.name not in (CONFIG_FILE, WEIGHTS_FILE):
            path.unlink()  # PEFT adds an empty model card
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    # The modules by name are all that is adapted.
    config["target_modules"], config["exclude_modules"] = targets, None
    (folder / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")


def _targets(model: PeftModel) -> list[str]:
    """The adapted modules, sorted: the last parts of their names if these identify them."""
    adapted = set(model.targeted_module_names)
    leaves = {path.rpartition(".")[2] for path in adapted}
    paths = [path for path, _ in model.base_model.model.named_modules()]
    named = {path for path in paths if path.rpartition(".")[2] in leaves}
    return sorted(leaves if named == adapted else adapted)


def _of_text(base: PreTrainedModel, config: LoraConfig) -> LoraConfig:
    """The configuration without targets outside the part that reads text, where others stand beside it.

    A picture encoder has layers of the same names, which text never reaches. Of all linear layers, those are
    left out too that PEFT or a mixture cannot adapt.
    """
    decoder, head = decoder_of(base), base.get_output_embeddings()
    within = next(path for path, module in base.named_modules() if module is decoder)
    linear = [p for p, m in base.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    unfit = {path for path in linear if not path.startswith(f"{within}.")}
    if config.target_modules == ALL_LINEAR:
        unfit |= _not_adapted(base, linear)
    if not unfit:
        return config
    wanted = copy.copy(config)
    if config.target_modules == ALL_LINEAR:
        wanted.target_modules = set(linear) - unfit
    else:
        wanted.exclude_modules = unfit
    return wanted


def _not_adapted(base: PreTrainedModel, linear: Iterable[str]) -> set[str]:
    """Layers whose input no mixture weighs token by token, or that are not called as layers."""
    # Experts are parameters of three dimensions, which PEFT would adapt under their names in files.
    experts = {n.rpartition(".")[0] for n, p in base.named_parameters() if p.dim() == 3 and ".experts." in n}
    found = {f"{path}.{name}" for path in experts for name in _FEED_FORWARD}
    for path in linear:
        parent, _, name = path.rpartition(".")
        mixer = base.get_submodule(parent)
        # A state-space kernel is given the weight of its last projection.
        is_in_kernel = name == "out_proj" and hasattr(mixer, "A_log") and hasattr(mixer, "D")
        is_router = hasattr(mixer, "experts")
        is_of_experts = bool(experts) and name in _FEED_FORWARD
        if rereads_cache(base, path) or is_in_kernel or is_router or is_of_experts:
            found.add(path)
    return found


def _is_named(path: str, targets: Iterable[str]) -> bool:
    # PEFT takes a name for the end of a path, at a dot.
    return any(f".{path}".endswith(f".{target}") for target in targets)


def _check_targets(base: PreTrainedModel, config: LoraConfig) -> None:
    if config.target_modules == ALL_LINEAR:
        return
    paths = [path for path, _ in base.named_modules()]
    for target in config.target_modules:
        # PEFT ignores a name that matches nothing if another one matches.
        if not any(_is_named(path, [target]) for path in paths):
            raise ConfigInvalid("target_modules", "names of the base model's modules", target)
