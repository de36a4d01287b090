"""LoRA files of kohya's sd-scripts and LyCORIS: one file, module paths with underscores for dots.

Source: sd-scripts, `networks/lora_anima.py`: `alpha / rank * lora_up(lora_down(x))`, alpha of each module in
the file, the rank where there is none or it is 0; lora_down [rank, d_in], lora_up [d_out, rank].
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from formats.strict_json import shown
from registry.errors import Incompatible, InvalidAdapter, NotALora, WeightsInvalid
from registry.files.safetensors_file import SafetensorsFile, TensorEntry, values_of
from registry.intake.makers.conversion import Conversion, LoraModule, converted

NAME = "kohya"

_KEY = re.compile(
    r"(?P<prefix>lora_[a-z]+\d?|lycoris)_(?P<module>.+?)\.(?P<part>lora_(?:up|down)\.weight|alpha)"
)
_DOWN, _UP, _ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
_MARK = re.compile(
    r"(?:lora_[a-z]+\d?|lycoris)_.+\.(?:lora_(?:up|down|mid)\.weight|alpha|hada_|lokr_|oft_|dora_)"
)
#: Part of a key -> the kind of adapter.
_OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "dora_scale": "DoRA",
    "lora_mid": "LoCon of a convolution",
}
#: Prefixes of modules that make images.
_DIFFUSERS = ("unet.", "transformer.", "text_encoder.", "text_encoder_2.", "diffusion_model.")
_IMAGES = ("lora_unet", "lora_prior", "lora_transformer")


def is_kohya(entries: Iterable[TensorEntry]) -> bool:
    """Whether the tensors of a file have kohya's keys."""
    return any(_MARK.match(entry.name) for entry in entries)


def convert_kohya(file: SafetensorsFile, *, module_paths: Sequence[Collection[str]]) -> Conversion:
    """The LoRA of a language model in PEFT's form; `module_paths` are those of each base model to try.

    Raises:
        NotALora: it is LoHa, LoKr or another kind.
        InvalidAdapter: it is for a model of images.
        Incompatible: no base model has all its modules, whose dots nobody else can tell.
        WeightsInvalid: a tensor is no factor of a linear layer.
    """
    if any(entry.name.startswith(_DIFFUSERS) for entry in file.entries):
        raise InvalidAdapter(
            f"{file.called} is a LoRA of diffusers, for a model of images, so it can be no expert of a"
            " language model"
        )
    if not is_kohya(file.entries):
        raise InvalidAdapter(
            f"{file.called} has no adapter_config.json beside it, and its tensors are not called as kohya's:"
            " give the folder that PEFT's save_pretrained wrote, with both its files"
        )
    parts: dict[str, dict[str, TensorEntry]] = {}
    for entry in file.entries:
        _refuse_other_kinds(entry)
        found = _KEY.fullmatch(entry.name)
        if found is None:
            raise WeightsInvalid(f"tensor {shown(entry.name)} is no part of a kohya LoRA")
        if found["prefix"] in _IMAGES:
            raise InvalidAdapter(
                f"{shown(entry.name)} adapts a model of images (a UNet or diffusion transformer), which is no"
                " language model, so it can be no expert of one"
            )
        parts.setdefault(found["module"], {})[found["part"]] = entry
    paths = _paths_of(parts, module_paths)
    modules = {paths[name]: _module(name, found, file) for name, found in sorted(parts.items())}
    return converted(NAME, modules, is_transposed=False)


def _refuse_other_kinds(entry: TensorEntry) -> None:
    kind = next((kind for part, kind in _OTHER_KINDS.items() if part in entry.name), None)
    if kind is not None or len(entry.shape) > 2:
        raise NotALora(
            f"{shown(entry.name)} is of {kind or 'a convolution'}, no plain LoRA; train it with"
            " networks.lora on linear layers alone"
        )


def _paths_of(names: Collection[str], module_paths: Sequence[Collection[str]]) -> Mapping[str, str]:
    """Flat name -> path, by the first base model with all of them; a text model lacks the first part."""
    for paths in module_paths:
        flat: dict[str, set[str]] = {}
        for path in paths:
            for name in {path, path.partition(".")[2], path.partition("language_model.")[2]} - {""}:
                flat.setdefault(name.replace(".", "_"), set()).add(path)
        if all(len(flat.get(name, ())) == 1 for name in names):
            return {name: next(iter(flat[name])) for name in names}
    missing = min(names)
    raise Incompatible(
        f"no registered base model has a module {missing} (with dots for some of its underscores), which this"
        " kohya LoRA adapts; register its base model first: zoo register base FOLDER --name NAME"
    )


def _module(name: str, found: Mapping[str, TensorEntry], file: SafetensorsFile) -> LoraModule:
    if _DOWN not in found or _UP not in found:
        raise WeightsInvalid(f"{name} of the kohya LoRA lacks its {_UP if _DOWN in found else _DOWN}")
    rank = found[_DOWN].shape[0]
    alpha = _alpha(found[_ALPHA], file) if _ALPHA in found else 0.0
    return LoraModule(rank=rank, alpha=alpha or float(rank), a=found[_DOWN], b=found[_UP])


def _alpha(entry: TensorEntry, file: SafetensorsFile) -> float:
    if entry.size != 1:
        raise WeightsInvalid(f"{shown(entry.name)} has shape {list(entry.shape)}, expected one number")
    data = file.data_of(entry)
    if entry.dtype in ("I64", "I32"):
        return float(int.from_bytes(data, "little", signed=True))
    return float(values_of(data, entry, called=file.called).reshape(()))
